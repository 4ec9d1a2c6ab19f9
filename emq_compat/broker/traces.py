"""Where tasks are, and what is known of how they hang together: the verb ``trace``.

The broker doesn't read payloads: what a message or a reply tells of its workflow (its root, its parent, later
steps, children) is read by who asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.records import InFlight, MarkedMessage, Moment, StoredMessage, queue_of
from emq_compat.errors import MessageError
from emq_compat.message import FINAL_STATES, Headers

__all__ = ["TRACES"]

Arguments = dict[str, Any]

_MOST = 200
#: A larger payload or reply isn't shown.
_SHOWN_BYTES = 64 << 10
#: Messages that have no mark in the journal are looked through, once for all ids, if there are no more.
_LOOKED_THROUGH = 50_000


def _trace(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    ids = arguments.get("ids")
    if not isinstance(ids, list) or len(ids) > _MOST or not all(isinstance(one, str) and one for one in ids):
        raise MessageError(f"trace takes 'ids', a list of at most {_MOST} task ids")
    told = {task_id: _where(engine, task_id, now) for task_id in ids}
    missing = []
    for task_id in ids:
        # One by one: together they may be more than an answer holds.
        stored = engine.results.get((task_id,)).get(task_id)
        if stored is not None:
            told[task_id]["state"] = stored.state
            if len(stored.body) <= _SHOWN_BYTES:
                told[task_id]["reply"] = stored.body.decode("utf-8", "replace")
        if told[task_id]["where"] == "unknown" and (stored is None or stored.state not in FINAL_STATES):
            missing.append(task_id)
    for task_id, found in _looked_for(engine, missing, now).items():
        told[task_id].update(found)
    return told


def _looked_for(engine: Engine, task_ids: list[str], now: Moment) -> dict[str, dict[str, Any]]:
    """Look through what waits without a mark; return what is told of those that are found."""
    waiting = sum(queue.total for queue in engine.queues.by_name.values())
    if not task_ids or not waiting:
        return {}
    if waiting > _LOOKED_THROUGH:
        return {task_id: {"unsearched": True} for task_id in task_ids}
    journal = engine.desk.journal
    told = {}
    for task_id, one in journal.find(task_ids).items():
        # What is found by looking through all comes without its payload.
        whole = journal.read_message(one.message.key)
        told[task_id] = _waiting(engine, one if whole is None else one._replace(message=whole), now)
    return told


def _where(engine: Engine, task_id: str, now: Moment) -> dict[str, Any]:
    flights, journal = engine.flights, engine.desk.journal
    flight = flights.by_msgid.get(flights.by_task.get(task_id, ""))
    if flight is not None:
        message = journal.read_message(flight.key)
        return {**_running(engine, flight, now), **_message(engine, flight.headers, message)}
    chord = engine.chords.by_task.get(task_id)
    if chord is not None and chord.body is not None:
        message = journal.read_message(chord.body.key)
        parts = {"ended": chord.arrived, "of": chord.size + chord.grown if chord.size >= 0 else None}
        return {"where": "held", "parts": parts, **_message(engine, chord.body.headers, message)}
    found = journal.marked_as(task_id)
    return _waiting(engine, found[0], now) if found else {"where": "unknown"}


def _running(engine: Engine, flight: InFlight, now: Moment) -> dict[str, Any]:
    worker = engine.fleet.workers.get(flight.worker)
    return {
        "where": "running",
        "queue": engine.queues.by_id[queue_of(flight.key)].name,
        "worker": flight.worker.decode("utf-8", "replace") if worker is None else worker.node,
        "for_s": round(now.mono - flight.since, 1),
        "attempt": flight.attempt,
    }


def _waiting(engine: Engine, found: MarkedMessage, now: Moment) -> dict[str, Any]:
    message, home, gate = found
    headers = Headers.decode(message.header_text)
    queue = engine.queues.by_id[queue_of(message.key if home is None else home)]
    where = "parked" if gate is not None else "waiting" if home is None else "delayed"
    told = {"where": where, "queue": queue.name, **_message(engine, headers, message)}
    if where == "delayed":
        told["due_s"] = round(headers.eta - now.wall, 1)
    return told


def _message(engine: Engine, headers: Headers, message: StoredMessage | None) -> dict[str, Any]:
    payload = b"" if message is None else message.payload
    told: dict[str, Any] = {
        "task": headers.task,
        "payload": payload.decode("utf-8", "replace") if 0 < len(payload) <= _SHOWN_BYTES else None,
    }
    if (part := headers.part_of) is not None:
        chord = engine.chords.by_id.get(part[0])
        told["chord"] = part[0]
        if chord is not None and chord.body is not None:
            told["body"] = chord.body.headers.task_id or chord.body.msgid
    return told


TRACES: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {"trace": _trace}
