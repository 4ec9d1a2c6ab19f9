"""The chords of a genuine app over our broker, as the messages of its parts and bodies tell of them.

``apply_chord`` marks the signature of a chord's body, of which each part carries a copy: by the mark a part's
message gets the header ``chord`` (docs/protocol.md); the body's message gets ``awaits``. Both travel in one
application header of the Celery message, which celery_message.py reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from celery.result import GroupResult

from emq_compat.celery_message import BROKER_HEADER
from emq_compat.headers import GROWN
from emq_compat.shim.canvas.places import MARK, marked_part

__all__ = ["MARK", "add_place", "held", "mark", "part_of", "tell_broker"]

part_of = marked_part


def mark(body: dict[str, Any], chord_id: str, results: Sequence[Any] | None) -> None:
    """Have a chord be counted in our broker.

    Args:
        body: its body's signature.
        results: the results of its header; None: they aren't known yet, the header is a generator.
    """
    places = {} if results is None else dict(_places(results, ""))
    body[MARK] = {"chord": chord_id, "places": places, "lazy": results is None}


def _places(results: Sequence[Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Iterate over the ids of parts that are no plain task of the header, and their places."""
    for index, result in enumerate(results):
        if isinstance(result, GroupResult):
            yield from _places(result.results, f"{prefix}{index}.")
        elif prefix:
            yield result.id, f"{prefix}{index}"


def add_place(chord: Mapping[str, Any], own: str, task_id: str, count: int) -> None:
    """Have a chord grow by the task ``task_id`` once that is published, behind the part ``own``.

    ``count`` tells those apart that one run adds.
    """
    place = own.rpartition(":")[2].rstrip("+")
    chord[MARK]["places"][task_id] = f"{place}.{GROWN + count}+"


#: Task id of a body that is being published → what its header says.
_held: dict[str, dict[str, Any]] = {}


@contextmanager
def held(task_id: str, chord_id: str, size: int, *, immutable: bool) -> Iterator[None]:
    """Have the message of the task ``task_id``, which the block publishes, await a chord.

    Unless it is ``immutable`` the block gives it a first argument that stands for the values.
    """
    _held[task_id] = {"awaits": f"{chord_id}:{size}", **({"immutable": True} if immutable else {})}
    try:
        yield
    finally:
        _held.pop(task_id, None)


def _keep_own_places(embedded: dict[str, Any], task_id: str) -> None:
    """Leave in a message only the places of its own task and of its chain's later steps.

    All parts of a chord share its body, with the places of all: each part's message would have the whole map.
    """
    if isinstance(embedded.get("chord"), Mapping):
        embedded["chord"] = _with_places_of(embedded["chord"], {task_id})
    chain = embedded.get("chain")
    if isinstance(chain, (list, tuple)):
        embedded["chain"] = [_lightened(step) for step in chain]


def _lightened(step: Any) -> Any:
    """Return a later step of a chain whose chord's mark has the places of that step only."""
    if not isinstance(step, dict) or not isinstance(step.get("options"), dict):
        return step
    chord = step["options"].get("chord")
    if step.get("subtask_type") or not isinstance(chord, Mapping):
        return step
    own = _with_places_of(chord, {str(step["options"].get("task_id"))})
    return step if own is chord else {**step, "options": {**step["options"], "chord": own}}


def _with_places_of(chord: Mapping[str, Any], ids: set[str]) -> Mapping[str, Any]:
    mark = chord.get(MARK)
    if not isinstance(mark, Mapping) or len(mark.get("places") or ()) <= len(ids):
        return chord
    places = {task_id: place for task_id, place in mark["places"].items() if task_id in ids}
    return {**chord, MARK: {**mark, "places": places}}


def tell_broker(
    sender: Any = None, headers: dict[str, Any] | None = None, body: Any = None, **_: Any
) -> None:
    """Receive ``before_task_publish``: have a message say what it is in a chord, whatever its serializer."""
    if headers is None:
        return
    # A retry has the headers of the message that it repeats.
    headers.pop(BROKER_HEADER, None)
    protocol_1 = isinstance(body, Mapping)
    fields: Mapping[str, Any] = body if protocol_1 else headers
    embedded = body if protocol_1 else body[2] if isinstance(body, (list, tuple)) and len(body) == 3 else None
    task_id = fields.get("id")
    told = dict(_held.get(str(task_id), ()))
    if isinstance(embedded, dict):
        _keep_own_places(embedded, str(task_id))
    chord = embedded.get("chord") if isinstance(embedded, Mapping) else None
    part = part_of(chord, task_id, fields.get("group_index"))
    if part is not None:
        told["chord"] = part
    if told:
        headers[BROKER_HEADER] = told
