"""kombu's messages as REQUESTs, and what the broker hands out as kombu has it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from emq_compat.celery_message import CeleryMessage, message_of, publish_of
from emq_compat.errors import MessageError
from emq_compat.genuine.concluding import epilogue_message
from emq_compat.headers import via_text
from emq_compat.kombu_message import is_wrapped, unwrapped, wrapped
from emq_compat.message import Headers, Publish

__all__ = ["MSGID", "raw_of", "request_of"]

logger = logging.getLogger(__name__)

#: The property under which a message keeps its msgid while kombu tries to publish it again.
MSGID = "emq_msgid"
#: Properties that are of the way, not of the message.
_OF_THE_WAY = ("body_encoding", "delivery_info", "delivery_tag", MSGID)
_TRANSIENT = 1
#: What AMQP has properties for, as kombu calls them.
_AMQP = frozenset(
    {
        "app_id", "cluster_id", "correlation_id", "delivery_mode", "expiration", "message_id", "priority",
        "reply_to", "timestamp", "type", "user_id",
    }
)  # fmt: skip


def request_of(raw: Mapping[str, Any], exchange: str, key: str) -> tuple[Publish, bool]:
    """Return what is published of a prepared message, and whether that is to be confirmed.

    A task goes to its queue even where nobody has declared that; any other message only to a queue that is
    there (a reply that nobody waits for any more makes none). What is transient, and no task, isn't
    confirmed.

    Raises:
        MessageError: it can't be carried.
    """
    properties = dict(raw["properties"])
    msgid = str(properties[MSGID])
    for name in _OF_THE_WAY:
        properties.pop(name, None)
    for name in properties.keys() - _AMQP:
        if not _is_plain(properties[name]):  # arguments of a signal, passed on; over AMQP they don't travel
            del properties[name]
    encoding = raw.get("content-encoding") or "utf-8"
    body = raw["body"]
    if isinstance(body, str):
        body = body.encode("utf-8" if encoding == "binary" else encoding, "surrogatepass")
    message = CeleryMessage(
        body=b"" if body is None else bytes(body),
        content_type=raw.get("content-type") or "",
        content_encoding=encoding,
        headers=raw.get("headers") or {},
        properties=properties,
    )
    if _may_be_a_task(message):
        try:
            published = publish_of(message, queue="" if exchange else key, msgid=msgid)
        except MessageError as exc:
            logger.debug("published as it is, as it is no task that can be read: %s", exc)
        else:
            if exchange:
                headers = replace(published.headers, via=via_text(exchange, key))
                published = replace(published, headers=headers)
            return published, True
    confirm = properties.get("delivery_mode") != _TRANSIENT
    headers = Headers(
        guarantee=confirm,
        priority=_priority(properties.get("priority")),
        expires=_expires(properties.get("expiration")),
        via=via_text(exchange, key),
    )
    return Publish(queue="", headers=headers, payload=wrapped(message), msgid=msgid), confirm


def _may_be_a_task(message: CeleryMessage) -> bool:
    if "task" in message.headers:
        return True
    plain = message.content_type == "application/json"
    return plain and b'"task"' in message.body and b'"id"' in message.body


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _priority(value: Any) -> int:
    return min(max(value, 0), 9) if isinstance(value, int) else 0


def _expires(value: Any) -> float:
    """Return when a message of this expiration (milliseconds, a text) expires, unix seconds."""
    try:
        return time.time() + int(value) / 1000 if value is not None else 0.0
    except (TypeError, ValueError, OverflowError) as exc:
        raise MessageError(f"the message's expiration is {value!r}, not a number of milliseconds") from exc


def raw_of(queue: str, headers: Headers, payload: bytes, tag: str) -> dict[str, Any]:
    """Return a hand-out as a virtual channel of kombu's takes it; ``tag``: its delivery tag there.

    What concludes a task that the broker has ended (revoked, given up) comes as a message of the task that
    does so (concluding.py).

    Raises:
        MessageError: it is nothing that kombu knows.
    """
    if is_wrapped(payload):
        message = unwrapped(payload)
    elif headers.concludes:
        message = epilogue_message(queue, headers, payload)
    else:
        message = message_of(headers, payload)
    exchange, key = headers.route or ("", queue)
    info = {"exchange": exchange, "routing_key": key, "redelivered": headers.redelivered}
    if headers.priority or "priority" in message.properties:
        info["priority"] = headers.priority
    return {
        "body": message.body,
        "content-type": message.content_type,
        "content-encoding": message.content_encoding,
        "headers": dict(message.headers),
        "properties": {**message.properties, "delivery_tag": tag, "delivery_info": info},
    }
