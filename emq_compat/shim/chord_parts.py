"""The ends of a chord's parts, where the result backend counts them: Celery's way, by Celery's rules.

Whoever is told that all parts have ended publishes the body at once and confirmed, before its own part is
acknowledged: a worker that dies on the way leaves a chord that another delivery of the part completes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emq_compat.backends.chords import PartResult
from emq_compat.backends.record import record_of, result_of
from emq_compat.errors import OperationalError
from emq_compat.message import Publish
from emq_compat.shim.canvas.places import counted_by_backend
from emq_compat.shim.canvas.signature import maybe_signature
from emq_compat.shim.codec import revive
from emq_compat.shim.exceptions import ChordError
from emq_compat.shim.flow import body_failed
from emq_compat.shim.pipeline import collecting
from emq_compat.shim.request import Context
from emq_compat.shim.results.blocking import allow_join_result
from emq_compat.shim.results.content import exception_of
from emq_compat.shim.results.single import leaves
from emq_compat.shim.results.tree import result_from_tuple
from emq_compat.shim.states import PROPAGATE_STATES

if TYPE_CHECKING:
    from emq_compat.backends.chords import Claim
    from emq_compat.shim.backend import Backend

__all__ = ["Part", "chord_failed", "ended", "joined", "part_of", "settle"]

logger = logging.getLogger("emq_compat.task")

#: A claim holds for so long while the body is published.
_PUBLISHING_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part: its task, its chord's id and its place, the chord's body, the workflow's root."""

    task_id: str
    group: str
    index: int | None
    body: Mapping[str, Any]
    root_id: str | None = None


def part_of(request: Context) -> Part | None:
    """Return the part that a run is; None: it is none that a result backend counts."""
    if not counted_by_backend(request.chord) or not request.group or not request.id:
        return None
    return Part(
        task_id=request.id,
        group=request.group,
        index=request.group_index,
        body=request.chord,
        root_id=request.root_id,
    )


def settle(backend: Backend, ends: Sequence[Publish], reply_to: str = "") -> list[Publish]:
    """Store the ends of tasks that never begin (Headers.settled) and count them; returns what follows.

    Those furthest behind are stored first: who sees that a step has ended finds that all behind it have.
    ``reply_to`` is where results go that go where a message says.
    """
    parts = []
    for end in reversed(ends):
        told = json.loads(end.payload)
        said = told.pop("part", None)
        task_id = end.headers.task_id
        if not end.headers.no_result:
            backend.write(task_id, told, reply_to)
        if said and said.get("group"):
            part = Part(task_id=task_id, group=said["group"], index=said["index"], body=said["callback"])
            parts.append((part, end.headers.settled, told))
    messages: list[Publish] = []
    for part, state, told in reversed(parts):
        messages += ended(backend, part, state, told)
    return messages


def ended(backend: Backend, part: Part, state: str, reply: Mapping[str, Any]) -> list[Publish]:
    """Count the end of a part, and publish its chord's body if it was the last; returns what is left over.

    Args:
        reply: the part's, JSON values.

    Raises:
        OperationalError: the result backend can't be reached.
    """
    chords = backend.store.chords
    if chords is None:
        return []
    came_to = record_of(part.task_id, {**reply, "state": state})["result"]
    result = PartResult(task_id=part.task_id, state=state, result=came_to)
    claim = chords.ended(part.group, result, part.index)
    if claim is None:
        return []
    try:
        values = _values(backend, claim)
        if not chords.extend(claim, _PUBLISHING_S):
            logger.warning("the body of the chord %s is published by another worker", part.group)
            return []
        left = _publish_body(backend, part, values)
    except ChordError as exc:
        logger.error("Chord %s failed: %s", part.group, exc)
        chords.abandon(part.group)
        return chord_failed(backend, part, exc)
    chords.finish(claim)
    return left


def _values(backend: Backend, claim: Claim) -> list[Any]:
    """Return what a body is called with.

    Raises:
        ChordError: a part failed, or the results can't be joined.
    """
    app, chords = backend.app, backend.store.chords
    assert chords is not None
    tree = backend.store.load_group(claim.chord)
    if tree is not None:
        return joined(backend, result_from_tuple(tree, app))
    accept = app.conf.result_accept_content or app.conf.accept_content
    values = []
    for part in chords.results(claim):
        if part.state in PROPAGATE_STATES:
            stored = result_of({"status": part.state, "result": part.result})
            raise _failed(part.task_id, exception_of(stored, app))
        values.append(revive(part.result, accept))
    return values


def joined(backend: Backend, header: Any) -> list[Any]:
    """Return the values of a header's results, all of which are there.

    Raises:
        ChordError: one of them failed, or isn't there within result_chord_join_timeout.
    """
    timeout = backend.app.conf.result_chord_join_timeout
    try:
        with allow_join_result():
            return list(header.join(timeout=timeout, propagate=True))
    except Exception as exc:
        stored = backend.stored([leaf.id for leaf in leaves(header)])
        for task_id, one in stored.items():
            if one is not None and one.state in PROPAGATE_STATES:
                raise _failed(task_id, exception_of(one, backend.app)) from exc
        raise ChordError(f"Join error: {exc!r}") from exc


def _failed(task_id: str, exc: BaseException) -> ChordError:
    error = ChordError(f"Dependency {task_id} raised {exc!r}")
    error.__cause__ = exc
    return error


def _publish_body(backend: Backend, part: Part, values: list[Any]) -> list[Publish]:
    """Publish a body; what can't be now is returned, for the worker to publish as soon as it can be.

    Raises:
        ChordError: it can't be a message.
    """
    app = backend.app
    body = maybe_signature(dict(part.body), app=app)
    parents: dict[str, Any] = {}
    if not body.subtask_type:
        root_id = body.options.get("root_id") or part.root_id or part.task_id
        parents = {"parent_id": part.task_id, "root_id": root_id}
    try:
        with collecting() as messages:
            body.apply_async((values,), **parents)
    except Exception as exc:
        raise ChordError(f"Callback error: {exc!r}") from exc
    try:
        app.client.publish_all(messages)
    except OperationalError as exc:
        missing = set(getattr(exc, "msgids", ())) or {message.msgid for message in messages}
        logger.warning("the body of the chord %s is published later: %s", part.group, exc)
        return [message for message in messages if message.msgid in missing]
    return []


def chord_failed(backend: Backend, part: Part, exc: ChordError) -> list[Publish]:
    """End a chord that failed: its body and what would have come later; returns what its errbacks publish."""
    messages: list[Publish] = []
    told = Context(
        id=part.task_id,
        root_id=part.root_id or part.task_id,
        called_directly=False,
        delivery_info={"is_eager": False},
    )
    messages += body_failed(
        backend.app,
        part.body,
        exc,
        part=told,
        before_errbacks=lambda ends: messages.extend(settle(backend, ends)),
    )
    return messages
