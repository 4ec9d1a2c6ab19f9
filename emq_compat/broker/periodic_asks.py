"""What beats, and those who look at their entries, may ask of the broker: a part of the table of verbs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.periodic import NewEntry
from emq_compat.broker.records import Moment, PeriodicRow
from emq_compat.errors import MessageError, QueueFull
from emq_compat.message import Headers, Publish
from emq_compat.protocol.limits import BadFrame, check_queue
from emq_compat.words import amount

__all__ = ["PERIODIC"]

Arguments = dict[str, Any]
#: Characters in the name of a schedule or an entry.
_MAX_NAME = 4096


def _list(engine: Engine, arguments: Arguments, now: Moment) -> list[dict[str, Any]]:
    periodic = engine.periodic
    return [
        {
            "schedule": row.schedule,
            "name": row.name,
            "task": row.task,
            "shown": row.shown,
            "next_at": engine.periodic.next_at(row),
            **_seen(engine, row, now),
        }
        for row in periodic.rows()
    ]


def _begin(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    given = arguments.get("entries")
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise MessageError("'entries' is a list of objects")
    entries = [
        NewEntry(
            name=_text(entry, "name"),
            task=_text(entry, "task"),
            shown=_text(entry, "shown"),
            last_run_at=_seconds(entry, "last_run_at"),
            total=_count(entry, "total"),
            next_at=_seconds(entry, "next_at") if entry.get("next_at") is not None else None,
        )
        for entry in given
    ]
    only = arguments.get("only", False)
    if not isinstance(only, bool):
        raise MessageError("'only' is true or false")
    rows = engine.periodic.begin(_text(arguments, "schedule"), entries, now, only=only)
    return {row.name: _seen(engine, row, now) for row in rows}


def _look(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    names = arguments.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MessageError("'names' is a list of entries' names")
    rows = engine.periodic.look(_text(arguments, "schedule"), names, now)
    return {row.name: _seen(engine, row, now) for row in rows}


def _send(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    given = arguments.get("messages")
    if not isinstance(given, list) or not all(isinstance(message, dict) for message in given):
        raise MessageError("'messages' is a list of objects")
    messages = [_message(message) for message in given]
    limit = engine.desk.options.queue_limit
    for message in messages:
        queue = engine.queues.by_name.get(message.queue)
        if limit and queue is not None and queue.waiting + queue.delayed >= limit:
            raise QueueFull(f"the queue {message.queue!r} holds {amount(limit, 'message')}, its limit")
    sent, row = engine.periodic.send(
        _text(arguments, "schedule"),
        _text(arguments, "name"),
        was=_text(arguments, "was", empty=True),
        token=_text(arguments, "token"),
        last_run_at=_seconds(arguments, "last_run_at"),
        messages=messages,
        now=now,
        next_at=_seconds(arguments, "next_at") if arguments.get("next_at") is not None else None,
    )
    return {"sent": sent, "entry": None if row is None else _seen(engine, row, now)}


def _forget(engine: Engine, arguments: Arguments, now: Moment) -> int:
    return engine.periodic.forget(_text(arguments, "schedule"))


def _seen(engine: Engine, row: PeriodicRow, now: Moment) -> dict[str, Any]:
    age_s = round(engine.periodic.age_s(row, now), 6)
    return {"last_run_at": row.last_run_at, "total": row.total, "token": row.token, "age_s": age_s}


def _message(given: Arguments) -> Publish:
    queue = _text(given, "queue", empty=True)
    try:
        check_queue(queue, 0, "queue")
    except BadFrame as exc:
        raise MessageError(f"'queue' {exc.why}") from exc
    headers = Headers.decode(_text(given, "headers", empty=True, longest=0))
    payload = _text(given, "payload", longest=0).encode()
    return Publish(msgid=_text(given, "msgid"), queue=queue, headers=headers, payload=payload)


def _text(given: Arguments, name: str, *, empty: bool = False, longest: int = _MAX_NAME) -> str:
    """Return a text; ``longest``: characters, 0 for no limit."""
    text = given.get(name)
    if not isinstance(text, str) or not (text or empty) or (longest and len(text) > longest):
        most = f" of at most {longest} characters" if longest else ""
        raise MessageError(f"{name!r} is a text{most}, not {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise MessageError(f"{name!r} holds half a character (a lone surrogate)") from exc
    return text


def _seconds(given: Arguments, name: str) -> float:
    value = given.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MessageError(f"{name!r} is a time in unix seconds, not {value!r:.80}")
    return float(value)


def _count(given: Arguments, name: str) -> int:
    value = given.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise MessageError(f"{name!r} is a number, not {value!r:.80}")
    return value


#: The verbs and what answers them, by the engine, the arguments and the time.
PERIODIC: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {
    "periodic": _list,
    "periodic_begin": _begin,
    "periodic_look": _look,
    "periodic_send": _send,
    "periodic_forget": _forget,
}
