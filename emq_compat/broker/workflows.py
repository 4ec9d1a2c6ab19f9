"""What a list of workflows can be made of: the verb ``workflows``, asked every few seconds.

A list of all would need a look at every message. This is a look at those that are next to be seen: some that
run, wait in front or are due next, the chords that were begun last, and the steps that ended last. All of it
stands in memory or is read by its key, and there is a limit to each; who asks puts the workflows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from emq_compat.broker.chords import Chord
from emq_compat.broker.engine import Engine
from emq_compat.broker.records import Moment, StoredMessage, Waiting, queue_of
from emq_compat.errors import MessageError
from emq_compat.message import Headers

__all__ = ["WORKFLOWS"]

Arguments = dict[str, Any]

#: Hand-outs that are looked at, of the oldest and of the latest; messages of a queue, and of all; messages
#: that are due next; chords; task ids whose state is told.
_RUNNING = 100
_IN_FRONT, _WAITING = 20, 200
_DUE = 20
_CHORDS = 100
_STATES = 500
#: A larger payload isn't looked at; of all so many bytes are told.
_LOOKED_AT_BYTES = 16 << 10
_TOLD_BYTES = 512 << 10
#: What stands in the payload of a step. That of a plain task may hold it, too: who asks reads it.
_SIGNS = (b'"root_id":', b'"group":', b'"chain":', b'"callbacks":')
_LATEST_MS = 1 << 62


def _workflows(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    after, ids = arguments.get("after", 0), arguments.get("ids", [])
    if type(after) is not int:
        raise MessageError("workflows takes 'after', the number of the last end that is known")
    if not isinstance(ids, list) or len(ids) > _STATES or not all(isinstance(one, str) for one in ids):
        raise MessageError(f"workflows takes 'ids', a list of at most {_STATES} task ids")
    chords = engine.chords.by_id
    return {
        "at": now.wall,
        "number": engine.steps.total,
        "ended": [ended._asdict() for ended in engine.steps.since(after)],
        "members": list(_members(engine, now)),
        "chords": [_chord(chord) for chord in islice(reversed(chords.values()), _CHORDS)],
        "chords_total": len(chords),
        "states": {one: state for one, (state, _) in engine.desk.journal.result_sizes(ids).items()},
    }


def _members(engine: Engine, now: Moment) -> Iterator[dict[str, Any]]:
    """Yield what is a step, or may be, with its payload."""
    left = _TOLD_BYTES
    for where, headers, message, more in _looked_at(engine, now):
        payload = message.payload if len(message.payload) <= min(left, _LOOKED_AT_BYTES) else b""
        root = engine.steps.roots.get(headers.task_id)
        if not any(sign in payload for sign in _SIGNS):
            payload = b""
        if not headers.task_id or not (payload or root or headers.chord or headers.awaits):
            continue
        left -= len(payload)
        yield {
            "task_id": headers.task_id,
            "task": headers.task,
            "where": where,
            "chord": headers.chord.rpartition(":")[0],
            "root": root,
            "payload": payload.decode("utf-8", "replace"),
            **more,
        }


def _looked_at(
    engine: Engine, now: Moment
) -> Iterator[tuple[str, Headers, StoredMessage | Waiting, dict[str, Any]]]:
    journal, flights = engine.desk.journal, engine.flights.by_msgid.values()
    some = list(islice(flights, _RUNNING))
    if len(flights) > _RUNNING:
        some += islice(reversed(flights), min(_RUNNING, len(flights) - _RUNNING))
    for flight in some:
        if (message := journal.read_message(flight.key)) is not None:
            yield "running", flight.headers, message, {"for_s": round(now.mono - flight.since, 1)}
    left = _WAITING
    for queue in engine.queues.by_name.values():
        if left <= 0:
            break
        for waiting in queue.front(min(_IN_FRONT, left)) if queue.waiting else ():
            left -= 1
            yield "waiting", Headers.decode(waiting.header_text), waiting, {"queue": queue.name}
    for key, home in journal.due(_LATEST_MS, _DUE):
        if (message := journal.read_message(key)) is not None:
            queue = engine.queues.by_id[queue_of(home)]
            yield "delayed", Headers.decode(message.header_text), message, {"queue": queue.name}


def _chord(chord: Chord) -> dict[str, Any]:
    body = None if chord.body is None else chord.body.headers
    return {
        "id": chord.id,
        "body": "" if body is None else body.task_id,
        "task": "" if body is None else body.task,
        "ended": chord.arrived,
        "of": chord.size + chord.grown if chord.size >= 0 else None,
        "failed": chord.failure is not None,
        "at": chord.at,
    }


WORKFLOWS: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {"workflows": _workflows}
