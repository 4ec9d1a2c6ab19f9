"""The tasks that every app has: what workflows come to where they are more than one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim.canvas.composite import make
from emq_compat.shim.canvas.launch import LAUNCH
from emq_compat.shim.canvas.maps import chunks
from emq_compat.shim.canvas.signature import maybe_signature, signature
from emq_compat.shim.chord_parts import Part, chord_failed, joined
from emq_compat.shim.declare import task_of
from emq_compat.shim.exceptions import ChordError
from emq_compat.shim.flow import collected_into
from emq_compat.shim.results.tree import result_from_tuple
from emq_compat.shim.task import Task

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["register"]


def accumulate(*args: Any, index: int | None = None) -> Any:
    """Return its arguments, or one of them: the body of the chord that a group becomes."""
    return args if index is None else args[index]


def ping() -> str:
    """Return ``pong``."""
    return "pong"


def xmap(self: Any, task: Any, it: Sequence[Any]) -> list[Any]:
    """Call a task with each item."""
    run = signature(task, app=self.app).type
    return [run(item) for item in it]


def xstarmap(self: Any, task: Any, it: Sequence[Sequence[Any]]) -> list[Any]:
    """Call a task with each item as its arguments."""
    run = signature(task, app=self.app).type
    return [run(*item) for item in it]


def apply_chunks(self: Any, task: Any, it: Sequence[Any], n: int) -> Any:
    """Publish a task over items in chunks."""
    return chunks.apply_chunks(signature(task, app=self.app), it, n, app=self.app).id


def apply_chain(*args: Any, **kwargs: Any) -> None:
    """Nothing: a chain travels in its steps' messages."""
    raise NotImplementedError("chain is not a real task")


def apply_group(
    self: Any,
    tasks: Sequence[Any],
    result: Any = None,
    group_id: str | None = None,
    partial_args: Sequence[Any] = (),
    add_to_parent: bool = True,
) -> Any:
    """Publish a group (Celery 3's way)."""
    members = [maybe_signature(task, app=self.app) for task in tasks]
    options = {"task_id": group_id} if group_id else {}
    made = make("group", members, app=self.app, **options)
    return made.apply_async(tuple(partial_args), add_to_parent=add_to_parent).id


def apply_chord(
    self: Any, header: Any, body: Any, partial_args: Sequence[Any] = (), **kwargs: Any
) -> Any:
    """Publish a chord (Celery 3's way)."""
    made = make("chord", header, maybe_signature(body, app=self.app), app=self.app)
    return made.apply_async(tuple(partial_args)).id


def chord_unlock(
    self: Any,
    group_id: str,
    callback: Any,
    interval: float | None = None,
    max_retries: int | None = None,
    result: Sequence[Any] = (),
    **kwargs: Any,
) -> None:
    """Publish a chord's body once its parts have ended; tried again until then.

    It is how chords are counted over a broker of kombu's by results in a database, as Celery has it.
    """
    app = self.app
    header = app.GroupResult(group_id, [result_from_tuple(one, app) for one in result])
    if not header.ready():
        again_s = app.conf.result_chord_retry_interval if interval is None else interval
        raise self.retry(countdown=again_s, max_retries=max_retries)
    try:
        values = joined(app.backend, header)
        with collected_into(self._frame()):
            maybe_signature(callback, app=app).apply_async((values,))
    except ChordError as exc:
        part = Part(
            task_id=self.request.id, group=group_id, index=None, body=callback, root_id=self.request.root_id
        )
        frame = self._frame()
        for message in chord_failed(app.backend, part, exc):
            frame.publish_later(message)


def launch(self: Any, *given: Any) -> None:
    """Publish what awaited a chord, called with the chord's values."""
    *values, sig = given
    with collected_into(self._frame()):
        maybe_signature(sig, app=self.app).apply_async(tuple(values))


def backend_cleanup(self: Any) -> None:
    """Have the result store drop what has expired; the broker does so by itself."""
    cleanup = getattr(getattr(self.app, "backend", None), "cleanup", None)
    if cleanup is not None:
        cleanup()


_TASKS: dict[str, tuple[Any, bool, dict[str, Any]]] = {
    "celery.accumulate": (accumulate, False, {}),
    "celery.backend_cleanup": (backend_cleanup, True, {"ignore_result": True}),
    "celery.chain": (apply_chain, False, {}),
    "celery.chord": (apply_chord, True, {}),
    "celery.chord_unlock": (
        chord_unlock,
        True,
        {"ignore_result": True, "max_retries": None, "typing": False},
    ),
    "celery.chunks": (apply_chunks, True, {}),
    "celery.group": (apply_group, True, {}),
    "celery.map": (xmap, True, {}),
    "celery.ping": (ping, False, {}),
    "celery.starmap": (xstarmap, True, {}),
    # It may be run again: all that it does is published in the transaction that ends it.
    LAUNCH: (
        launch,
        True,
        {"ignore_result": True, "acks_late": True, "reject_on_worker_lost": True, "typing": False},
    ),
}


def register(app: Celery) -> None:
    """Give an app the builtin tasks that it has none of."""
    for name, (function, bind, options) in _TASKS.items():
        if name not in app._tasks:
            task_of(app, function, {"name": name, "bind": bind, "base": Task, **options})
