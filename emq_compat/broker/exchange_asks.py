"""What kombu's channels ask: exchanges, queues and bindings, and single messages without waiting.

A part of the table of verbs. Each takes (engine, client's identity, arguments, now); errors are answered by
their class's name: NotDeclared, NotEquivalent.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from emq_compat.broker.declared import Terms
from emq_compat.broker.engine import Engine
from emq_compat.broker.queues import DEFAULT_QUEUE
from emq_compat.broker.records import Moment
from emq_compat.errors import MessageError, NotDeclared
from emq_compat.message import ACKNOWLEDGED, REJECTED, RETURNED, ReplyHeaders, new_id
from emq_compat.protocol.commands import Reply
from emq_compat.protocol.limits import BadFrame, check_queue

__all__ = ["EXCHANGE_VERBS"]

Arguments = dict[str, Any]

#: What may become of a message that was fetched: done, back into its queue, put aside.
_SETTLED = (ACKNOWLEDGED, RETURNED, REJECTED)


def _declare_exchange(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> bool:
    name = _name(arguments, "exchange")
    if _flag(arguments, "passive"):
        engine.exchanges.find(name)
    elif not name:
        raise MessageError("the exchange without a name is there, and can't be declared")
    else:
        kind = arguments.get("type", "direct")
        durable, auto_delete = _flag(arguments, "durable", True), _flag(arguments, "auto_delete")
        engine.exchanges.declare(name, str(kind), durable=durable, auto_delete=auto_delete)
    return True


def _delete_exchange(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> bool:
    return engine.exchanges.delete(_name(arguments, "exchange"), if_unused=_flag(arguments, "if_unused"))


def _declare_queue(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> dict[str, Any]:
    name = _name(arguments, "queue") or DEFAULT_QUEUE
    if _flag(arguments, "passive"):
        queue = engine.queues.by_name.get(name)
        if queue is None:
            raise NotDeclared(f"there is no queue {name!r}")
    else:
        terms = Terms(
            durable=_flag(arguments, "durable", True),
            auto_delete=_flag(arguments, "auto_delete"),
            owner=client if _flag(arguments, "exclusive") else b"",
            expires_s=_seconds(arguments, "expires_s"),
            ttl_s=_seconds(arguments, "ttl_s"),
        )
        queue = engine.declared.declare(name, terms, now)
    waiting = queue.waiting + queue.parked
    return {"queue": name, "messages": waiting, "consumers": engine.declared.consumers(queue)}


def _delete_queue(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> int:
    queue = engine.queues.by_name.get(_name(arguments, "queue") or DEFAULT_QUEUE)
    if queue is None:
        return 0
    if _flag(arguments, "if_empty") and queue.total:
        return 0
    if _flag(arguments, "if_unused") and engine.declared.consumers(queue):
        return 0
    return engine.declared.delete(queue, now)


def _bind(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> bool:
    name = _name(arguments, "exchange")
    engine.exchanges.find(name)
    queue = engine.queues.get(_name(arguments, "queue"))
    return engine.exchanges.bind(name, _name(arguments, "key"), queue.name)


def _unbind(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> bool:
    queue = _name(arguments, "queue") or DEFAULT_QUEUE
    return engine.exchanges.unbind(_name(arguments, "exchange"), _name(arguments, "key"), queue)


def _exchanges(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> list[dict[str, Any]]:
    return [
        {
            "exchange": exchange.name,
            "type": exchange.kind,
            "durable": exchange.durable,
            "auto_delete": exchange.auto_delete,
            "bindings": [list(binding) for binding in exchange.bindings],
        }
        for exchange in engine.exchanges.by_name.values()
    ]


def _fetch(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> dict[str, Any] | bool:
    name = _name(arguments, "queue") or DEFAULT_QUEUE
    queue = engine.queues.by_name.get(name)
    if queue is None:
        raise NotDeclared(f"there is no queue {name!r}")
    engine.declared.used(queue, now)
    fetched = engine.fetch(engine.fleet.fetcher(client, now), queue, now)
    if fetched is None:
        return False
    message, attempt = fetched
    told: dict[str, Any] = {"msgid": message.msgid, "attempt": attempt, "headers": message.header_text}
    if message.losses:
        told["redelivered"] = True
    try:
        told["payload"] = message.payload.decode()
    except UnicodeDecodeError:
        told["base64"] = base64.b64encode(message.payload).decode()
    if _flag(arguments, "no_ack"):
        _end(engine, client, message.msgid, attempt, ACKNOWLEDGED, now)
    return told


def _settle(engine: Engine, client: bytes, arguments: Arguments, now: Moment) -> bool:
    msgid, attempt, state = arguments.get("msgid"), arguments.get("attempt"), arguments.get("state")
    if not isinstance(msgid, str) or type(attempt) is not int or state not in _SETTLED:
        raise MessageError(f"settle needs 'msgid', 'attempt' and 'state', one of {', '.join(_SETTLED)}")
    flight = engine.flights.by_msgid.get(msgid)
    if flight is None or flight.attempt != attempt or flight.worker != client:
        return False
    _end(engine, client, msgid, attempt, state, now)
    return True


def _end(engine: Engine, client: bytes, msgid: str, attempt: int, state: str, now: Moment) -> None:
    headers = ReplyHeaders(attempt=attempt, state=state)
    engine.outcome(
        client, Reply(msgid=new_id(), body=b'{"value":null}', request_msgid=msgid, headers=headers), now
    )


def _name(arguments: Arguments, key: str) -> str:
    name = arguments.get(key, "")
    if not isinstance(name, str):
        raise MessageError(f"{key!r} is a name")
    try:
        return check_queue(name, 0, key)
    except BadFrame as bad:
        raise MessageError(f"the {key}'s name {bad.why}") from None


def _flag(arguments: Arguments, name: str, default: bool = False) -> bool:
    value = arguments.get(name, default)
    if not isinstance(value, bool):
        raise MessageError(f"{name!r} is true or false")
    return value


def _seconds(arguments: Arguments, name: str) -> float | None:
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise MessageError(f"{name!r} is a number of seconds")
    return float(value)


EXCHANGE_VERBS: dict[str, Callable[[Engine, bytes, Arguments, Moment], Any]] = {
    "declare_exchange": _declare_exchange,
    "delete_exchange": _delete_exchange,
    "declare_queue": _declare_queue,
    "delete_queue": _delete_queue,
    "bind": _bind,
    "unbind": _unbind,
    "exchanges": _exchanges,
    "fetch": _fetch,
    "settle": _settle,
}
