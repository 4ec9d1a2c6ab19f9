"""Commands → frames: one writer for each command's type."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from emq_compat.errors import LocalProtocolError
from emq_compat.message import ReplyHeaders
from emq_compat.protocol.commands import (
    SCHEDULER,
    SHOWN,
    VERSION,
    WORKER,
    Ack,
    Answer,
    Ask,
    Command,
    Disconnect,
    Heartbeat,
    Hello,
    Inform,
    Kbye,
    Nack,
    PublishTopic,
    Ready,
    Reply,
    Request,
    Schedule,
    Show,
    Shown,
    Unschedule,
    Update,
)
from emq_compat.protocol.limits import LIMITS, MAX_ID_BYTES, BadFrame, Limits, check_queue, is_number

__all__ = ["encode", "request_frames"]


def encode(command: Command, *, stock: bool = False, limits: Limits = LIMITS) -> list[bytes]:
    """Return the frames of a command, from the empty delimiter on.

    ``stock=True`` gives only what a peer that runs stock eventmq may see: its own headers, no capabilities,
    no list of msgids not begun, a REPLY of two frames.

    Raises:
        LocalProtocolError: a value can't be said in eMQP/1.0 or is larger than the peer accepts; with
            ``stock`` also: the command, or what matters in it, is not stock eventmq's.
    """
    writer = _WRITERS.get(type(command))
    if writer is None:
        raise LocalProtocolError(f"{type(command).__name__} is not a command")
    try:
        return writer(command, stock, limits)
    except BadFrame as bad:
        raise LocalProtocolError(f"{bad.name} of {type(command).__name__}: {bad.why}") from None
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as exc:
        raise LocalProtocolError(f"{type(command).__name__} can't be encoded: {exc}") from exc


def request_frames(msgid: bytes, queue: bytes, headers: bytes, payload: bytes) -> list[bytes]:
    """Return the frames of a REQUEST from parts that are already encoded.

    For a broker that hands out what it stored: nothing is checked, and a header appended to the stored text
    (``,attempt:2,redelivered``) overrides an earlier one of its name.
    """
    return [b"", VERSION, b"REQUEST", msgid, queue, headers, payload]


def _id_bytes(value: str, name: str = "msgid") -> bytes:
    raw = value.encode()
    if not raw or len(raw) > MAX_ID_BYTES or not value.isprintable():
        raise BadFrame(0, name, f"{value[:64]!a} is empty, too long or unprintable")
    return raw


@lru_cache(maxsize=1024)
def _queue_bytes(name: str) -> bytes:
    return check_queue(name, 4, "queue").encode()


def _sized(raw: bytes, name: str, limit: int) -> bytes:
    if len(raw) > limit:
        raise BadFrame(0, name, f"has {len(raw)} bytes, more than {limit}")
    return raw


def _body(raw: bytes, name: str, stock: bool, limits: Limits) -> bytes:
    if len(raw) > limits.payload_bytes:
        raise BadFrame(0, name, f"has {len(raw)} bytes, more than {limits.payload_bytes}")
    if stock:
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise BadFrame(0, name, "is not UTF-8, which stock eventmq can't receive") from None
    return raw


def _json_bytes(document: Any, name: str, limits: Limits) -> bytes:
    return _sized(
        json.dumps(document, allow_nan=False, separators=(",", ":")).encode(), name, limits.control_bytes
    )


def _ours(stock: bool) -> None:
    if stock:
        raise BadFrame(0, "the command", "is unknown to stock eventmq")


def _write_request(command: Request, stock: bool, limits: Limits) -> list[bytes]:
    headers = command.headers
    text = (headers.stock() if stock else headers.encode()).encode()
    if len(text) > limits.header_bytes:
        _sized(text, "headers", limits.header_bytes)
    payload = command.payload
    if stock or len(payload) > limits.payload_bytes:
        _body(payload, "payload", stock, limits)
    msgid = _id_bytes(command.msgid)
    return [b"", VERSION, b"REQUEST", msgid, _queue_bytes(command.queue), text, payload]


def _write_reply(command: Reply, stock: bool, limits: Limits) -> list[bytes]:
    request_msgid = _id_bytes(command.request_msgid, "msgid of the request")
    frames = [b"", VERSION, b"REPLY", _id_bytes(command.msgid)]
    body, headers, follow_ups = command.body, command.headers, command.follow_ups
    if not body:
        if headers is not None or follow_ups or request_msgid.startswith(b"{"):
            raise BadFrame(0, "reply", "is empty")
        frames.append(request_msgid)
        return frames
    frames.append(_body(body, "reply", stock, limits))
    frames.append(request_msgid)
    if stock or headers is None:
        if follow_ups:
            raise BadFrame(0, "follow-ups", "can't be said without headers, or to a stock peer")
        return frames
    frames.append(_reply_header_bytes(headers))
    if len(follow_ups) > limits.follow_ups:
        raise BadFrame(0, "follow-ups", f"are {len(follow_ups)}, more than {limits.follow_ups}")
    for publish in follow_ups:
        frames += (
            _id_bytes(publish.msgid, "msgid of a follow-up"),
            _queue_bytes(publish.queue),
            _sized(publish.headers.encode().encode(), "headers of a follow-up", limits.header_bytes),
            _body(publish.payload, "payload of a follow-up", stock, limits),
        )
    return frames


@lru_cache(maxsize=256)
def _reply_header_bytes(headers: ReplyHeaders) -> bytes:
    return _sized(headers.encode().encode(), "headers", 1024)


def _write_update(command: Update, stock: bool, limits: Limits) -> list[bytes]:
    _ours(stock)
    return [
        b"",
        VERSION,
        b"UPDATE",
        _id_bytes(command.msgid),
        _body(command.body, "state", False, limits),
        _id_bytes(command.request_msgid, "msgid of the request"),
        _reply_header_bytes(command.headers),
    ]


def _write_inform(command: Inform, stock: bool, limits: Limits) -> list[bytes]:
    if command.role not in (WORKER, SCHEDULER):
        raise BadFrame(0, "role", f"{command.role!a} is neither {WORKER!r} nor {SCHEDULER!r}")
    for _, name in command.queues:
        check_queue(name, 4, "queues: a name")
    # Spaced as stock eventmq writes it.
    queues = json.dumps([list(queue) for queue in command.queues]).encode() if command.queues else b""
    frames = [b"", VERSION, b"INFORM", _id_bytes(command.msgid), queues, command.role.encode()]
    about = command.capabilities
    if about is not None and not stock:
        document: Mapping[str, Any] = {
            "slots": about.slots,
            "held": about.held,
            "tasks": about.tasks,
            "pid": about.pid,
            "hostname": about.hostname,
        }
        if about.intervals:
            document = {**document, "intervals": dict(about.intervals)}
        if about.shares is not None:
            document = {**document, "shares": dict(about.shares)}
        if about.control:
            document = {**document, "control": about.control}
        if about.consumer:
            document = {**document, "consumer": True}
        frames.append(_json_bytes(document, "capabilities", limits))
    return frames


def _write_ack(command: Ack, stock: bool, limits: Limits) -> list[bytes]:
    acked = command.acked
    frames = [b"", VERSION, b"ACK", _id_bytes(command.msgid)]
    if len(acked) == 1 and (stock or not acked[0].startswith("[")):
        frames.append(_id_bytes(acked[0], "msgid acknowledged"))
    elif stock:
        raise BadFrame(0, "msgids acknowledged", f"are {len(acked)}; a stock peer takes one")
    else:
        frames.append(_json_bytes(acked, "msgids acknowledged", limits))
    return frames


def _write_ready(command: Ready, stock: bool, limits: Limits) -> list[bytes]:
    frames = [b"", VERSION, b"READY", _id_bytes(command.msgid)]
    if command.count != 1:
        if stock:
            raise BadFrame(0, "count", f"is {command.count}; to a stock peer it is always 1")
        if not is_number(command.count):
            raise BadFrame(0, "count", f"is {command.count}")
        frames.append(b"%d" % command.count)
    return frames


def _write_heartbeat(command: Heartbeat, stock: bool, limits: Limits) -> list[bytes]:
    if not math.isfinite(command.timestamp):
        raise BadFrame(0, "timestamp", "is not finite")
    frames = [b"", VERSION, b"HEARTBEAT", _id_bytes(command.msgid), repr(float(command.timestamp)).encode()]
    if command.not_begun and not stock:
        frames.append(_json_bytes([*command.not_begun], "msgids not begun", limits))
    return frames


def _write_nack(command: Nack, stock: bool, limits: Limits) -> list[bytes]:
    _ours(stock)
    returned = _json_bytes(command.returned, "returned", limits)
    return [b"", VERSION, b"NACK", _id_bytes(command.msgid), returned]


def _write_schedule(command: Schedule | Unschedule, stock: bool, limits: Limits) -> list[bytes]:
    if not (command.interval_s == -1 or is_number(command.interval_s)):
        raise BadFrame(0, "interval", f"is {command.interval_s}")
    return [
        b"",
        VERSION,
        b"SCHEDULE" if isinstance(command, Schedule) else b"UNSCHEDULE",
        _id_bytes(command.msgid),
        _queue_bytes(command.queue),
        _sized(command.headers.encode(), "headers", limits.header_bytes),
        b"%d" % command.interval_s,
        _body(command.payload, "payload", stock, limits),
        _sized(command.cron.encode(), "cron", MAX_ID_BYTES),
    ]


def _write_publish(command: PublishTopic, stock: bool, limits: Limits) -> list[bytes]:
    topic = _sized(command.topic.encode(), "topic", MAX_ID_BYTES)
    payload = _body(command.payload, "payload", stock, limits)
    return [b"", VERSION, b"PUBLISH", _id_bytes(command.msgid), topic, payload]


def _write_disconnect(command: Disconnect, stock: bool, limits: Limits) -> list[bytes]:
    return [b"", VERSION, b"DISCONNECT", _id_bytes(command.msgid)]


def _write_kbye(command: Kbye, stock: bool, limits: Limits) -> list[bytes]:
    return [b"", VERSION, b"KBYE", _id_bytes(command.msgid)]


def _write_hello(command: Hello, stock: bool, limits: Limits) -> list[bytes]:
    frames = [b"", VERSION, b"HELLO", _id_bytes(command.msgid)]
    if command.about or not stock:
        # emq-cli says HELLO without a frame, and no other stock program says or reads it.
        _ours(stock)
        frames.append(_json_bytes(command.about, "about", limits))
    return frames


def _write_ask(command: Ask, stock: bool, limits: Limits) -> list[bytes]:
    _ours(stock)
    arguments = _json_bytes(command.arguments, "arguments", limits)
    return [b"", VERSION, b"ASK", _id_bytes(command.msgid), _id_bytes(command.verb, "verb"), arguments]


def _write_answer(command: Answer, stock: bool, limits: Limits) -> list[bytes]:
    _ours(stock)
    body = _body(command.body, "answer", False, limits)
    asked = _id_bytes(command.asked, "msgid of the ASK")
    return [b"", VERSION, b"ANSWER", _id_bytes(command.msgid), body, asked]


def _write_show(command: Show, stock: bool, limits: Limits) -> list[bytes]:
    if command.what not in SHOWN:
        raise BadFrame(0, "what", f"{command.what!a} is not one of {', '.join(SHOWN)}")
    return [b"", VERSION, command.what.encode(), _id_bytes(command.msgid)]


def _write_shown(command: Shown, stock: bool, limits: Limits) -> list[bytes]:
    if not command.body.startswith(b"{"):
        raise BadFrame(0, "body", "is not a JSON object")
    return [b"", VERSION, b"REPLY", _id_bytes(command.msgid), _body(command.body, "body", stock, limits)]


# Each writer takes its own command only; the table is what keeps the two together.
_WRITERS: dict[type, Callable[[Any, bool, Limits], list[bytes]]] = {
    Request: _write_request,
    Reply: _write_reply,
    Ack: _write_ack,
    Ready: _write_ready,
    Heartbeat: _write_heartbeat,
    Inform: _write_inform,
    Update: _write_update,
    Nack: _write_nack,
    Schedule: _write_schedule,
    Unschedule: _write_schedule,
    PublishTopic: _write_publish,
    Disconnect: _write_disconnect,
    Kbye: _write_kbye,
    Hello: _write_hello,
    Ask: _write_ask,
    Answer: _write_answer,
    Show: _write_show,
    Shown: _write_shown,
}
