"""Messages that wait, looked at and taken elsewhere: to another queue, or out of this broker.

A part of the table of verbs. What is handed out is nobody's to move, nor what is held until something else
has ended. What this broker counts for others can't leave it: the parts of a chord, whose end others wait for.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.records import MarkedMessage, Moment, queue_of
from emq_compat.errors import MessageError
from emq_compat.message import Headers
from emq_compat.protocol.limits import BadFrame, check_queue

__all__ = ["MOVES"]

Arguments = dict[str, Any]

#: Bytes of payload in one answer; a message that is larger comes alone.
_PAGE_BYTES = 4 << 20
#: A larger payload isn't shown: as text in JSON it may be too much for an answer.
_SHOWN_BYTES = 24 << 20
_MOST = 1_000


def _browse(engine: Engine, arguments: Arguments, now: Moment) -> list[dict[str, Any]]:
    get = arguments.get
    after, limit, apart = get("after", 0), get("limit", 100), get("apart", False)
    if type(after) is not int or type(limit) is not int or not 0 < limit <= _MOST:
        raise MessageError("browse takes 'queue', 'after' (a key) and 'limit' (1 to 1,000)")
    if type(apart) is not bool:
        raise MessageError("'apart' is true or false")
    queue = engine.queues.by_name.get(_text(arguments, "queue"))
    if queue is None:
        return []
    read = engine.desk.journal.browse_apart if apart else engine.desk.journal.browse
    rows: list[dict[str, Any]] = []
    size = 0
    for row in read(queue.id, after, limit):
        size += len(row.payload)
        if rows and size > _PAGE_BYTES:
            break
        headers = Headers.decode(row.header_text)
        rows.append(
            {
                "key": row.key,
                "msgid": row.msgid,
                "headers": row.header_text,
                "bytes": len(row.payload),
                "stays": _stays(engine, row.msgid, headers),
                "revoked": headers.task_id in engine.withdrawals.revoked,
                **_shown(row.payload),
            }
        )
    return rows


def _shown(payload: bytes) -> dict[str, Any]:
    if len(payload) > _SHOWN_BYTES:
        return {"payload": None}
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload": None, "base64": base64.b64encode(payload).decode("ascii")}


def _move(engine: Engine, arguments: Arguments, now: Moment) -> list[str]:
    name = _text(arguments, "to")
    try:
        check_queue(name, 0, "to")
    except BadFrame as exc:
        raise MessageError(f"'to' {exc.why}") from None
    target = engine.queues.get(name)
    journal, gates = engine.desk.journal, engine.flights.gates
    moved = []
    for marked, headers in _named(engine, arguments):
        message, home, gate = marked
        if _queue_id(marked) == target.id:
            continue
        _take_out(engine, marked, headers)
        if home is None or gate is not None:
            key = target.arrive(headers.priority, journal.next_sequence())
            journal.move(message.key, key, None, None)
            if gates.concern(headers):
                gates.entered(key, headers)
        else:
            journal.move(message.key, message.key, target.delay(headers.priority), None)
        moved.append(message.msgid)
    return moved


def _drop(engine: Engine, arguments: Arguments, now: Moment) -> list[str]:
    dropped = []
    for marked, headers in _named(engine, arguments):
        message = marked.message
        if _stays(engine, message.msgid, headers):
            continue
        _take_out(engine, marked, headers)
        engine.desk.journal.finish(message.key, message.msgid)
        if headers.once:
            engine.endings.locks.ended(message.msgid, headers)
        dropped.append(message.msgid)
    return dropped


def _named(engine: Engine, arguments: Arguments) -> list[tuple[MarkedMessage, Headers]]:
    """Return those of the messages that are in the queue and not handed out."""
    queue = engine.queues.by_name.get(_text(arguments, "queue"))
    found = engine.desk.journal.waiting_as(_msgids(arguments))
    return [
        (marked, Headers.decode(marked.message.header_text))
        for marked in found
        if queue is not None and _queue_id(marked) == queue.id
    ]


def _queue_id(marked: MarkedMessage) -> int:
    return queue_of(marked.message.key if marked.home is None else marked.home)


def _take_out(engine: Engine, marked: MarkedMessage, headers: Headers) -> None:
    engine.flights.entry.withdraw(marked, headers)
    engine.flights.astray.pop(marked.message.msgid, None)


def _stays(engine: Engine, msgid: str, headers: Headers) -> bool:
    """Whether a message can't leave this broker: it counts it for a chord, or others wait for its end."""
    followed = engine.endings.locks.followed
    return bool(headers.chord or headers.awaits) or (headers.task_id or msgid) in followed


def _text(arguments: Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise MessageError(f"{name!r} is the name of a queue")
    return value


def _msgids(arguments: Arguments) -> list[str]:
    msgids = arguments.get("msgids")
    if not isinstance(msgids, list) or not all(isinstance(msgid, str) for msgid in msgids):
        raise MessageError("'msgids' is a list of msgids, as browse tells them")
    return msgids


#: Verb → what answers it.
MOVES: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {
    "browse": _browse,
    "move": _move,
    "drop": _drop,
}
