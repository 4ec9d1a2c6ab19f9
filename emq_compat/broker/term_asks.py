"""What may be asked of unique keys, of gates, and of why a task waits: verbs of asks.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from emq_compat.broker.engine import Engine
from emq_compat.broker.gates import FOLLOWS, named
from emq_compat.broker.records import Moment, queue_of
from emq_compat.errors import MessageError
from emq_compat.message import FINAL_STATES, Headers
from emq_compat.terms import Once
from emq_compat.words import duration

__all__ = ["ENDED", "NOTHING_KNOWN", "TERM_VERBS"]

#: What is told of a task that has left, before its state; and of one that the broker doesn't know.
ENDED: Final = "has ended: "
NOTHING_KNOWN: Final = "the broker has no message of this task"

Arguments = dict[str, Any]


def _keys(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    """Return who holds unique keys, what the gates let through and keep, and what the workers said."""
    after, limit = arguments.get("after", ""), arguments.get("limit", 1000)
    if not isinstance(after, str) or type(limit) is not int or not 0 < limit <= 10_000:
        raise MessageError("keys takes 'after' (a unique key) and 'limit' (1 to 10,000)")
    engine.endings.locks.write()
    gates = engine.gates
    parked = {gate: sum(homes.values()) for gate, homes in gates.parked.items()}
    busiest = sorted(parked.keys() | gates.running.keys(), key=lambda gate: (-parked.get(gate, 0), gate))
    return {
        "unique": [
            {
                "key": row.key,
                "holder": row.owner,
                "left_s": round(row.until - now.wall, 3) if row.until else None,
                "followers": engine.endings.locks.followed.get(row.owner, 0),
            }
            for row in engine.desk.journal.all_locks(after, limit)
            if not 0 < row.until <= now.wall
        ],
        "gates": [
            {
                **named(gate),
                "running": gates.running.get(gate, 0),
                "parked": parked.get(gate, 0),
                "opens_s": round(max(0.0, at - now.mono), 3) if (at := gates.opens_at(gate)) else None,
            }
            for gate in busiest[:limit]
        ],
        "parked": sum(parked.values()),
        "chords": _chords(engine, limit, now),
        "shares": {task: list(shares) for task, shares in gates.shares.items()},
    }


def _chords(engine: Engine, limit: int, now: Moment) -> list[dict[str, Any]]:
    """Return the bodies that wait for their parts, those first of which nothing was heard for longest."""
    waiting = [chord for chord in engine.chords.by_id.values() if chord.body is not None]
    waiting.sort(key=lambda chord: chord.at)
    return [
        {
            "chord": chord.id,
            "body": chord.body.headers.task_id or chord.body.msgid,
            "ended": chord.arrived,
            "parts": chord.size + chord.grown,
            "silent_s": round(max(0.0, now.wall - chord.at), 3),
        }
        for chord in waiting[:limit]
        if chord.body is not None
    ]


def _release_key(engine: Engine, arguments: Arguments, now: Moment) -> bool:
    key = arguments.get("key")
    if not isinstance(key, str) or not key:
        raise MessageError("release_key needs 'key', a unique key as 'keys' shows it")
    return engine.endings.locks.free(key)


def _why(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, str]:
    ids = arguments.get("ids")
    if not isinstance(ids, list) or len(ids) > 100 or not all(isinstance(one, str) and one for one in ids):
        raise MessageError("why takes 'ids', a list of at most 100 task ids")
    return {one: _told(engine, one, now) for one in ids}


def _told(engine: Engine, task_id: str, now: Moment) -> str:
    """Return in words where the message of a task is, and what it waits for."""
    flights, journal = engine.flights, engine.desk.journal
    if (flight := flights.by_msgid.get(flights.by_task.get(task_id, ""))) is not None:
        worker = flight.worker.decode("utf-8", "replace")
        return f"handed out to the worker {worker} {duration(max(0.0, now.mono - flight.since))} ago"
    if (chord := engine.chords.by_task.get(task_id)) is not None:
        parts = f"{chord.arrived} of {chord.size + chord.grown} parts" if chord.size >= 0 else "its parts"
        return f"held: {parts} of its chord {chord.id} have ended"
    marked = journal.marked_as(task_id)
    row = marked[0] if marked else journal.find([task_id]).get(task_id)
    if row is None:
        stored = engine.results.get((task_id,)).get(task_id)
        if stored is not None and stored.state in FINAL_STATES:
            return f"{ENDED}{stored.state}"
        return NOTHING_KNOWN
    message, home, gate = row
    headers = Headers.decode(message.header_text)
    queue = engine.queues.by_id[queue_of(message.key if home is None else home)]
    if gate is not None and gate[0] == FOLLOWS:
        return f"waits for the end of {gate[1:]}, which holds its key {Once.decode(headers.once).key!r}"
    if gate is not None:
        return f"parked for the queue {queue.name!r}: {engine.gates.told(gate, headers, now)}"
    if home is not None:
        return f"delayed for the queue {queue.name!r}: due in {headers.eta - now.wall:.0f} s"
    workers = engine.fleet.workers.values()
    listening = [worker for worker in workers if worker.present and queue in worker.queues]
    if not listening:
        return f"waits in the queue {queue.name!r}, to which no worker listens"
    if not any(worker.has(headers.task) for worker in listening):
        return f"waits in the queue {queue.name!r}, of whose workers none has the task {headers.task!r}"
    return f"waits in the queue {queue.name!r}, among {queue.waiting}"


TERM_VERBS: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {
    "keys": _keys,
    "release_key": _release_key,
    "why": _why,
}
