"""Frames ↔ commands: the codec of eMQP/1.0.

``decode`` takes the frames of one message from the empty delimiter on (without a ROUTER's identity frame)
and returns a command, or raises RemoteProtocolError naming the frame that is wrong; frames are counted from
0, the delimiter. ``encode`` is its inverse. Payloads and bodies of replies are passed on undecoded. Further
frames behind those that a command has are ignored, as stock eventmq does, so that peers of adjacent releases
understand each other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

from emq_compat.errors import LocalProtocolError, MessageError, RemoteProtocolError
from emq_compat.message import Headers, Publish, ReplyHeaders
from emq_compat.protocol.commands import (
    SCHEDULER,
    SHOWN,
    VERSION,
    WORKER,
    Ack,
    Answer,
    Ask,
    Capabilities,
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

__all__ = ["LIMITS", "MAX_QUEUE_NAME", "Limits", "decode", "encode", "request_frames"]

#: Characters in a queue's name.
MAX_QUEUE_NAME = 255

#: The largest number in a count, weight or attempt.
_MAX_NUMBER = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may measure; sizes in bytes.

    Attributes:
        payload_bytes: a payload, a reply's or answer's body.
        control_bytes: the small JSON frames that the codec decodes itself (INFORM, NACK, ASK's arguments …).
        header_bytes: a header frame.
        name_bytes: a msgid, topic, verb.
        frames: frames of a message other than REPLY.
        follow_ups: messages that a REPLY carries.
    """

    payload_bytes: int = 64 << 20
    control_bytes: int = 4 << 20
    header_bytes: int = 16 << 10
    name_bytes: int = 1024
    frames: int = 16
    follow_ups: int = 10_000


LIMITS = Limits()

Frames: TypeAlias = Sequence[bytes]


class _Bad(Exception):
    """A frame is wrong: its index, its name and why. Never leaves this module."""

    def __init__(self, index: int, name: str, why: str) -> None:
        super().__init__(index, name, why)
        self.index = index
        self.name = name
        self.why = why


def decode(frames: Frames, limits: Limits = LIMITS) -> Command:
    """Return the command in the frames of one message, from the empty delimiter on.

    Raises:
        RemoteProtocolError: the frames are no eMQP/1.0 message, its command is unknown, or a frame of it is
            malformed or too large. ``command`` and ``msgid`` are set as far as they could be read.
    """
    command = msgid = ""
    try:
        if len(frames) < 4:
            raise _Bad(len(frames), "missing", "a message has at least 4 frames")
        delimiter, version, word, raw_msgid = frames[:4]
        if delimiter:
            raise _Bad(0, "delimiter", "is not empty")
        if version != VERSION:
            raise _Bad(1, "version", f"is {_shown(version)}, not {VERSION.decode()}")
        msgid = _msgid(raw_msgid)
        reader = _READERS.get(word)
        if reader is None:
            raise _Bad(2, "command", f"{_shown(word)} is unknown")
        command = word.decode()
        return reader(msgid, frames, limits)
    except _Bad as bad:
        where = f"frame {bad.index} ({bad.name})"
        if command:
            where += f" of {command}"
        raise RemoteProtocolError(f"{where}: {bad.why}", command=command, msgid=msgid) from None


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
    except _Bad as bad:
        raise LocalProtocolError(f"{bad.name} of {type(command).__name__}: {bad.why}") from None
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError) as exc:
        raise LocalProtocolError(f"{type(command).__name__} can't be encoded: {exc}") from exc


def request_frames(msgid: bytes, queue: bytes, headers: bytes, payload: bytes) -> list[bytes]:
    """Return the frames of a REQUEST from parts that are already encoded.

    For a broker that hands out what it stored: nothing is checked, and a header appended to the stored text
    (``,attempt:2,redelivered``) overrides an earlier one of its name.
    """
    return [b"", VERSION, b"REQUEST", msgid, queue, headers, payload]


def _shown(raw: bytes) -> str:
    return ascii(raw[:64])[1:]




def _need(frames: Frames, count: int, names: Sequence[str], limits: Limits) -> None:
    """Raise unless there are ``count`` frames behind the msgid (called ``names``), and not too many."""
    if len(frames) < 4 + count:
        raise _Bad(len(frames), names[len(frames) - 4], "is missing")
    if len(frames) > limits.frames:
        raise _Bad(limits.frames, "surplus", f"more than {limits.frames} frames")


def _msgid(raw: bytes, index: int = 3, name: str = "msgid") -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise _Bad(index, name, "is not UTF-8") from None
    if not text:
        raise _Bad(index, name, "is empty")
    if len(raw) > LIMITS.name_bytes:
        raise _Bad(index, name, f"is longer than {LIMITS.name_bytes} bytes")
    if not text.isprintable():
        raise _Bad(index, name, "holds an unprintable character")
    return text


def _text(raw: bytes, index: int, name: str, limit: int) -> str:
    if len(raw) > limit:
        raise _Bad(index, name, f"is longer than {limit} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _Bad(index, name, "is not UTF-8") from None


def _payload(raw: bytes, index: int, name: str, limits: Limits) -> bytes:
    if len(raw) > limits.payload_bytes:
        raise _Bad(index, name, f"has {len(raw)} bytes, more than {limits.payload_bytes}")
    return raw


_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _check_queue(text: str, index: int, name: str) -> str:
    if len(text) > MAX_QUEUE_NAME:
        raise _Bad(index, name, f"is longer than {MAX_QUEUE_NAME} characters")
    if not text.isprintable() and _CONTROL_CHARACTER.search(text):
        raise _Bad(index, name, "holds a control character")
    return text


@lru_cache(maxsize=1024)
def _queue(raw: bytes, index: int = 4) -> str:
    return _check_queue(_text(raw, index, "queue", 4 * MAX_QUEUE_NAME), index, "queue")


def _headers(raw: bytes, index: int, limits: Limits) -> Headers:
    try:
        return Headers.decode(_text(raw, index, "headers", limits.header_bytes))
    except MessageError as exc:
        raise _Bad(index, "headers", str(exc)) from None


@lru_cache(maxsize=256)
def _reply_headers(raw: bytes) -> ReplyHeaders:
    try:
        return ReplyHeaders.decode(_text(raw, 6, "headers", 1024))
    except MessageError as exc:
        raise _Bad(6, "headers", str(exc)) from None


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:32]} is not finite")
    return number


def _json(raw: bytes, index: int, name: str, limits: Limits) -> Any:
    if len(raw) > limits.control_bytes:
        raise _Bad(index, name, f"is longer than {limits.control_bytes} bytes")
    try:
        # Only UTF-8: json.loads would also take UTF-16 and -32.
        document = json.loads(raw.decode(), parse_constant=_no_constant, parse_float=_finite)
        if b"\\u" in raw:
            # A lone surrogate is a str that can't be stored or sent on.
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise _Bad(index, name, "is not UTF-8") from None
    except ValueError as exc:
        raise _Bad(index, name, f"is not JSON: {exc}") from None
    except RecursionError:
        raise _Bad(index, name, "is nested too deeply") from None
    return document


def _object(raw: bytes, index: int, name: str, limits: Limits) -> dict[str, Any]:
    document = _json(raw, index, name, limits)
    if not isinstance(document, dict):
        raise _Bad(index, name, "is not a JSON object")
    return document


def _is_number(value: object, low: int = 0) -> bool:
    return type(value) is int and low <= value <= _MAX_NUMBER


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LIMITS.name_bytes and value.isprintable()


def _is_hand_out(value: object) -> bool:
    return isinstance(value, list) and len(value) >= 2 and _is_id(value[0]) and _is_number(value[1])


def _msgid_list(raw: bytes, index: int, name: str, limits: Limits) -> tuple[str, ...]:
    document = _json(raw, index, name, limits)
    if not isinstance(document, list) or not all(map(_is_id, document)):
        raise _Bad(index, name, "is not a list of msgids")
    return tuple(document)


def _number(raw: bytes, index: int, name: str, low: int, high: int) -> int:
    try:
        number = int(_text(raw, index, name, 32))
    except ValueError:
        raise _Bad(index, name, f"{_shown(raw)} is not a whole number") from None
    if not low <= number <= high:
        raise _Bad(index, name, f"{number} is not within {low} to {high}")
    return number


def _read_request(msgid: str, frames: Frames, limits: Limits) -> Command:
    if not 7 <= len(frames) <= limits.frames:
        _need(frames, 3, ("queue", "headers", "payload"), limits)
    header_text = frames[5]
    return Request(
        msgid=msgid,
        queue=_queue(frames[4]),
        headers=_headers(header_text, 5, limits),
        payload=_payload(frames[6], 6, "payload", limits),
        header_text=header_text,
    )


def _read_reply(msgid: str, frames: Frames, limits: Limits) -> Command:
    count = len(frames)
    if count == 4:
        raise _Bad(4, "reply", "is missing")
    body = _payload(frames[4], 4, "reply", limits)
    if count == 5:
        if body.startswith(b"{"):
            return Shown(msgid=msgid, body=body)
        return Reply(msgid=msgid, body=b"", request_msgid=_msgid(body, 4, "reply"))
    if not body:
        raise _Bad(4, "reply", "is empty")
    request_msgid = _msgid(frames[5], 5, "msgid of the request")
    if count == 6:
        return Reply(msgid=msgid, body=body, request_msgid=request_msgid)
    headers = _reply_headers(frames[6])
    if count == 7:
        return Reply(msgid=msgid, body=body, request_msgid=request_msgid, headers=headers)
    if (count - 7) % 4:
        raise _Bad(count, "follow-up", "is missing: each follow-up has 4 frames")
    if count > 7 + 4 * limits.follow_ups:
        raise _Bad(7 + 4 * limits.follow_ups, "follow-up", f"more than {limits.follow_ups} follow-ups")
    return Reply(
        msgid=msgid,
        body=body,
        request_msgid=request_msgid,
        headers=headers,
        follow_ups=tuple(_follow_up(frames, i, limits) for i in range(7, count, 4)),
    )


def _follow_up(frames: Frames, i: int, limits: Limits) -> Publish:
    return Publish(
        msgid=_msgid(frames[i], i, "msgid of a follow-up"),
        queue=_queue(frames[i + 1], i + 1),
        headers=_headers(frames[i + 2], i + 2, limits),
        payload=_payload(frames[i + 3], i + 3, "payload of a follow-up", limits),
    )


def _read_update(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 3, ("state", "msgid of the request", "headers"), limits)
    return Update(
        msgid=msgid,
        body=_payload(frames[4], 4, "state", limits),
        request_msgid=_msgid(frames[5], 5, "msgid of the request"),
        headers=_reply_headers(frames[6]),
    )


def _read_inform(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 2, ("queues", "role"), limits)
    queues: tuple[tuple[int, str], ...] = ()
    if frames[4]:
        document = _json(frames[4], 4, "queues", limits)
        if not isinstance(document, list):
            raise _Bad(4, "queues", "is not a list")
        queues = tuple(_weighted(entry) for entry in document)
    role = _text(frames[5], 5, "role", 32)
    if role not in (WORKER, SCHEDULER):
        raise _Bad(5, "role", f"{role!a} is neither {WORKER!r} nor {SCHEDULER!r}")
    if len(frames) == 6:
        return Inform(msgid=msgid, queues=queues, role=role)
    return Inform(msgid=msgid, queues=queues, role=role, capabilities=_capabilities(frames[6], limits))


def _weighted(entry: object) -> tuple[int, str]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise _Bad(4, "queues", "is not a list of [weight, name]")
    weight, name = entry
    if not _is_number(weight, -_MAX_NUMBER):
        raise _Bad(4, "queues", "a weight is not a whole number")
    if not isinstance(name, str):
        raise _Bad(4, "queues", "a name is not text")
    return weight, _check_queue(name, 4, "queues: a name")


def _capabilities(raw: bytes, limits: Limits) -> Capabilities:
    index, name = 6, "capabilities"
    document = _object(raw, index, name, limits)
    slots, held, tasks = document.get("slots", -1), document.get("held", []), document.get("tasks")
    pid, hostname = document.get("pid", 0), document.get("hostname", "")
    if not _is_number(slots):
        raise _Bad(index, name, "'slots' is not a number")
    if not isinstance(held, list) or not all(
        _is_hand_out(entry) and len(entry) == 3 and isinstance(entry[2], bool) for entry in held
    ):
        raise _Bad(index, name, "'held' is not a list of [msgid, attempt, begun]")
    if tasks is not None and not (
        isinstance(tasks, dict) and all(isinstance(flags, str) for flags in tasks.values())
    ):
        raise _Bad(index, name, "'tasks' is not an object of task names and flags")
    if not _is_number(pid) or not isinstance(hostname, str):
        raise _Bad(index, name, "'pid' is not a number, or 'hostname' not text")
    return Capabilities(
        slots=slots,
        held=tuple((msgid, attempt, begun) for msgid, attempt, begun in held),
        tasks=tasks,
        pid=pid,
        hostname=hostname,
    )


def _read_ack(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 1, ("msgid acknowledged",), limits)
    raw = frames[4]
    if raw.startswith(b"["):
        return Ack(msgid=msgid, acked=_msgid_list(raw, 4, "msgids acknowledged", limits))
    return Ack(msgid=msgid, acked=(_msgid(raw, 4, "msgid acknowledged"),))


def _read_ready(msgid: str, frames: Frames, limits: Limits) -> Command:
    if len(frames) == 4:
        return Ready(msgid=msgid)
    _need(frames, 1, ("count",), limits)
    return Ready(msgid=msgid, count=_number(frames[4], 4, "count", 0, _MAX_NUMBER))


def _read_heartbeat(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 1, ("timestamp",), limits)
    try:
        timestamp = _finite(_text(frames[4], 4, "timestamp", 64))
    except ValueError:
        raise _Bad(4, "timestamp", f"{_shown(frames[4])} is not a number") from None
    if len(frames) == 5:
        return Heartbeat(msgid=msgid, timestamp=timestamp)
    return Heartbeat(
        msgid=msgid, timestamp=timestamp, not_begun=_msgid_list(frames[5], 5, "msgids not begun", limits)
    )


def _read_nack(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 1, ("returned",), limits)
    document = _json(frames[4], 4, "returned", limits)
    if not isinstance(document, list) or not all(_is_hand_out(e) and len(e) == 2 for e in document):
        raise _Bad(4, "returned", "is not a list of [msgid, attempt]")
    return Nack(msgid=msgid, returned=tuple((entry[0], entry[1]) for entry in document))


def _schedule_fields(frames: Frames, limits: Limits) -> dict[str, Any]:
    _need(frames, 4, ("queue", "headers", "interval", "payload"), limits)
    return {
        "queue": _queue(frames[4]),
        "headers": _text(frames[5], 5, "headers", limits.header_bytes),
        "interval_s": _number(frames[6], 6, "interval", -1, _MAX_NUMBER),
        "payload": _payload(frames[7], 7, "payload", limits),
        "cron": _text(frames[8], 8, "cron", limits.name_bytes) if len(frames) > 8 else "",
    }


def _read_schedule(msgid: str, frames: Frames, limits: Limits) -> Command:
    return Schedule(msgid=msgid, **_schedule_fields(frames, limits))


def _read_unschedule(msgid: str, frames: Frames, limits: Limits) -> Command:
    return Unschedule(msgid=msgid, **_schedule_fields(frames, limits))


def _read_publish(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 2, ("topic", "payload"), limits)
    return PublishTopic(
        msgid=msgid,
        topic=_text(frames[4], 4, "topic", limits.name_bytes),
        payload=_payload(frames[5], 5, "payload", limits),
    )


def _read_disconnect(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 0, (), limits)
    return Disconnect(msgid=msgid)


def _read_kbye(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 0, (), limits)
    return Kbye(msgid=msgid)


def _read_hello(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 0, (), limits)
    # emq-cli says HELLO without a frame.
    return Hello(msgid=msgid, about=_object(frames[4], 4, "about", limits) if len(frames) > 4 else {})


def _read_ask(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 2, ("verb", "arguments"), limits)
    return Ask(
        msgid=msgid,
        verb=_msgid(frames[4], 4, "verb"),
        arguments=_object(frames[5], 5, "arguments", limits),
    )


def _read_answer(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 2, ("answer", "msgid of the ASK"), limits)
    return Answer(
        msgid=msgid,
        body=_payload(frames[4], 4, "answer", limits),
        asked=_msgid(frames[5], 5, "msgid of the ASK"),
    )


def _read_show(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 0, (), limits)
    return Show(msgid=msgid, what=frames[2].decode())


_READERS: dict[bytes, Callable[[str, Frames, Limits], Command]] = {
    b"REQUEST": _read_request,
    b"REPLY": _read_reply,
    b"ACK": _read_ack,
    b"READY": _read_ready,
    b"HEARTBEAT": _read_heartbeat,
    b"INFORM": _read_inform,
    b"UPDATE": _read_update,
    b"NACK": _read_nack,
    b"SCHEDULE": _read_schedule,
    b"UNSCHEDULE": _read_unschedule,
    b"PUBLISH": _read_publish,
    b"DISCONNECT": _read_disconnect,
    b"KBYE": _read_kbye,
    b"KBAI": _read_kbye,
    b"HELLO": _read_hello,
    b"ASK": _read_ask,
    b"ANSWER": _read_answer,
    **{what.encode(): _read_show for what in SHOWN},
}




def _id_bytes(value: str, name: str = "msgid") -> bytes:
    raw = value.encode()
    if not raw or len(raw) > LIMITS.name_bytes or not value.isprintable():
        raise _Bad(0, name, f"{value[:64]!a} is empty, too long or unprintable")
    return raw


@lru_cache(maxsize=1024)
def _queue_bytes(name: str) -> bytes:
    return _check_queue(name, 4, "queue").encode()


def _sized(raw: bytes, name: str, limit: int) -> bytes:
    if len(raw) > limit:
        raise _Bad(0, name, f"has {len(raw)} bytes, more than {limit}")
    return raw


def _body(raw: bytes, name: str, stock: bool, limits: Limits) -> bytes:
    if len(raw) > limits.payload_bytes:
        raise _Bad(0, name, f"has {len(raw)} bytes, more than {limits.payload_bytes}")
    if stock:
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise _Bad(0, name, "is not UTF-8, which stock eventmq can't receive") from None
    return raw


def _json_bytes(document: Any, name: str, limits: Limits) -> bytes:
    return _sized(
        json.dumps(document, allow_nan=False, separators=(",", ":")).encode(), name, limits.control_bytes
    )


def _ours(stock: bool) -> None:
    if stock:
        raise _Bad(0, "the command", "is unknown to stock eventmq")


def _write_request(command: Request, stock: bool, limits: Limits) -> list[bytes]:
    headers = command.headers
    text = headers.stock() if stock else headers.encode()
    return [
        b"",
        VERSION,
        b"REQUEST",
        _id_bytes(command.msgid),
        _queue_bytes(command.queue),
        _sized(text.encode(), "headers", limits.header_bytes),
        _body(command.payload, "payload", stock, limits),
    ]


def _write_reply(command: Reply, stock: bool, limits: Limits) -> list[bytes]:
    request_msgid = _id_bytes(command.request_msgid, "msgid of the request")
    frames = [b"", VERSION, b"REPLY", _id_bytes(command.msgid)]
    body, headers, follow_ups = command.body, command.headers, command.follow_ups
    if not body:
        if headers is not None or follow_ups or request_msgid.startswith(b"{"):
            raise _Bad(0, "reply", "is empty")
        frames.append(request_msgid)
        return frames
    frames.append(_body(body, "reply", stock, limits))
    frames.append(request_msgid)
    if stock or headers is None:
        if follow_ups:
            raise _Bad(0, "follow-ups", "can't be said without headers, or to a stock peer")
        return frames
    frames.append(_reply_header_bytes(headers))
    if len(follow_ups) > limits.follow_ups:
        raise _Bad(0, "follow-ups", f"are {len(follow_ups)}, more than {limits.follow_ups}")
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
        raise _Bad(0, "role", f"{command.role!a} is neither {WORKER!r} nor {SCHEDULER!r}")
    for _, name in command.queues:
        _check_queue(name, 4, "queues: a name")
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
        frames.append(_json_bytes(document, "capabilities", limits))
    return frames


def _write_ack(command: Ack, stock: bool, limits: Limits) -> list[bytes]:
    acked = command.acked
    frames = [b"", VERSION, b"ACK", _id_bytes(command.msgid)]
    if len(acked) == 1 and (stock or not acked[0].startswith("[")):
        frames.append(_id_bytes(acked[0], "msgid acknowledged"))
    elif stock:
        raise _Bad(0, "msgids acknowledged", f"are {len(acked)}; a stock peer takes one")
    else:
        frames.append(_json_bytes(acked, "msgids acknowledged", limits))
    return frames


def _write_ready(command: Ready, stock: bool, limits: Limits) -> list[bytes]:
    frames = [b"", VERSION, b"READY", _id_bytes(command.msgid)]
    if command.count != 1:
        if stock:
            raise _Bad(0, "count", f"is {command.count}; to a stock peer it is always 1")
        if not _is_number(command.count):
            raise _Bad(0, "count", f"is {command.count}")
        frames.append(b"%d" % command.count)
    return frames


def _write_heartbeat(command: Heartbeat, stock: bool, limits: Limits) -> list[bytes]:
    if not math.isfinite(command.timestamp):
        raise _Bad(0, "timestamp", "is not finite")
    frames = [b"", VERSION, b"HEARTBEAT", _id_bytes(command.msgid), repr(float(command.timestamp)).encode()]
    if command.not_begun and not stock:
        frames.append(_json_bytes(command.not_begun, "msgids not begun", limits))
    return frames


def _write_nack(command: Nack, stock: bool, limits: Limits) -> list[bytes]:
    _ours(stock)
    returned = _json_bytes(command.returned, "returned", limits)
    return [b"", VERSION, b"NACK", _id_bytes(command.msgid), returned]


def _write_schedule(command: Schedule | Unschedule, stock: bool, limits: Limits) -> list[bytes]:
    if not (command.interval_s == -1 or _is_number(command.interval_s)):
        raise _Bad(0, "interval", f"is {command.interval_s}")
    return [
        b"",
        VERSION,
        b"SCHEDULE" if isinstance(command, Schedule) else b"UNSCHEDULE",
        _id_bytes(command.msgid),
        _queue_bytes(command.queue),
        _sized(command.headers.encode(), "headers", limits.header_bytes),
        b"%d" % command.interval_s,
        _body(command.payload, "payload", stock, limits),
        _sized(command.cron.encode(), "cron", limits.name_bytes),
    ]


def _write_publish(command: PublishTopic, stock: bool, limits: Limits) -> list[bytes]:
    topic = _sized(command.topic.encode(), "topic", limits.name_bytes)
    payload = _body(command.payload, "payload", stock, limits)
    return [b"", VERSION, b"PUBLISH", _id_bytes(command.msgid), topic, payload]


def _write_disconnect(command: Disconnect, stock: bool, limits: Limits) -> list[bytes]:
    return [b"", VERSION, b"DISCONNECT", _id_bytes(command.msgid)]


def _write_kbye(command: Kbye, stock: bool, limits: Limits) -> list[bytes]:
    return [b"", VERSION, b"KBYE", _id_bytes(command.msgid)]


def _write_hello(command: Hello, stock: bool, limits: Limits) -> list[bytes]:
    _ours(stock)
    return [b"", VERSION, b"HELLO", _id_bytes(command.msgid), _json_bytes(command.about, "about", limits)]


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
        raise _Bad(0, "what", f"{command.what!a} is not one of {', '.join(SHOWN)}")
    return [b"", VERSION, command.what.encode(), _id_bytes(command.msgid)]


def _write_shown(command: Shown, stock: bool, limits: Limits) -> list[bytes]:
    if not command.body.startswith(b"{"):
        raise _Bad(0, "body", "is not a JSON object")
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
