"""Frames → commands: one reader for each command's word.

Frames are counted from 0, the empty delimiter. Further frames behind those that a command has are ignored, as
stock eventmq does, so that peers of adjacent releases understand each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

from emq_compat.errors import MessageError, RemoteProtocolError
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
from emq_compat.protocol.limits import (
    LIMITS,
    MAX_ID_BYTES,
    MAX_NUMBER,
    MAX_QUEUE_NAME,
    BadFrame,
    Limits,
    check_queue,
    is_number,
)
from emq_compat.terms import Shares

__all__ = ["decode"]

Frames: TypeAlias = Sequence[bytes]


def decode(frames: Frames, limits: Limits = LIMITS) -> Command:
    """Return the command in the frames of one message, from the empty delimiter on.

    Raises:
        RemoteProtocolError: the frames are no eMQP/1.0 message, its command is unknown, or a frame of it is
            malformed or too large. ``command`` and ``msgid`` are set as far as they could be read.
    """
    msgid = ""
    try:
        if len(frames) < 4:
            raise BadFrame(len(frames), "missing", "a message has at least 4 frames")
        if frames[0]:
            raise BadFrame(0, "delimiter", "is not empty")
        if frames[1] != VERSION:
            raise BadFrame(1, "version", f"is {_shown(frames[1])}, not {VERSION.decode()}")
        msgid = _msgid(frames[3])
        reader = _READERS.get(frames[2])
        if reader is None:
            raise BadFrame(2, "command", f"{_shown(frames[2])} is unknown")
        return reader(msgid, frames, limits)
    except BadFrame as bad:
        command = frames[2].decode() if len(frames) > 2 and frames[2] in _READERS else ""
        where = f"frame {bad.index} ({bad.name})"
        if command:
            where += f" of {command}"
        raise RemoteProtocolError(f"{where}: {bad.why}", command=command, msgid=msgid) from None


def _shown(raw: bytes) -> str:
    return ascii(raw[:64])[1:]


def _need(frames: Frames, count: int, names: Sequence[str], limits: Limits) -> None:
    """Raise unless there are ``count`` frames behind the msgid (called ``names``), and not too many."""
    if len(frames) < 4 + count:
        raise BadFrame(len(frames), names[len(frames) - 4], "is missing")
    if len(frames) > limits.frames:
        raise BadFrame(limits.frames, "surplus", f"more than {limits.frames} frames")


def _msgid(raw: bytes, index: int = 3, name: str = "msgid") -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise BadFrame(index, name, "is not UTF-8") from None
    if 0 < len(raw) <= MAX_ID_BYTES and text.isprintable():
        return text
    if not text:
        raise BadFrame(index, name, "is empty")
    if len(raw) > MAX_ID_BYTES:
        raise BadFrame(index, name, f"is longer than {MAX_ID_BYTES} bytes")
    raise BadFrame(index, name, "holds an unprintable character")


def _text(raw: bytes, index: int, name: str, limit: int) -> str:
    if len(raw) > limit:
        raise BadFrame(index, name, f"is longer than {limit} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadFrame(index, name, "is not UTF-8") from None


def _payload(raw: bytes, index: int, name: str, limits: Limits) -> bytes:
    if len(raw) > limits.payload_bytes:
        raise BadFrame(index, name, f"has {len(raw)} bytes, more than {limits.payload_bytes}")
    return raw


@lru_cache(maxsize=1024)
def _queue(raw: bytes, index: int = 4) -> str:
    return check_queue(_text(raw, index, "queue", 4 * MAX_QUEUE_NAME), index, "queue")


def _headers(raw: bytes, index: int, limits: Limits) -> Headers:
    if len(raw) > limits.header_bytes:
        raise BadFrame(index, "headers", f"is longer than {limits.header_bytes} bytes")
    try:
        return Headers.decode(raw.decode())
    except UnicodeDecodeError:
        raise BadFrame(index, "headers", "is not UTF-8") from None
    except MessageError as exc:
        raise BadFrame(index, "headers", str(exc)) from None


@lru_cache(maxsize=256)
def _reply_headers(raw: bytes) -> ReplyHeaders:
    try:
        return ReplyHeaders.decode(_text(raw, 6, "headers", 1024))
    except MessageError as exc:
        raise BadFrame(6, "headers", str(exc)) from None


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:32]} is not finite")
    return number


def _json(raw: bytes, index: int, name: str, limits: Limits) -> Any:
    if len(raw) > limits.control_bytes:
        raise BadFrame(index, name, f"is longer than {limits.control_bytes} bytes")
    try:
        # Only UTF-8: json.loads would also take UTF-16 and -32.
        document = json.loads(raw.decode(), parse_constant=_no_constant, parse_float=_finite)
        if b"\\u" in raw:
            # A lone surrogate is a str that can't be stored or sent on.
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise BadFrame(index, name, "is not UTF-8") from None
    except ValueError as exc:
        raise BadFrame(index, name, f"is not JSON: {exc}") from None
    except RecursionError:
        raise BadFrame(index, name, "is nested too deeply") from None
    return document


def _object(raw: bytes, index: int, name: str, limits: Limits) -> dict[str, Any]:
    document = _json(raw, index, name, limits)
    if not isinstance(document, dict):
        raise BadFrame(index, name, "is not a JSON object")
    return document


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_BYTES and value.isprintable()


def _is_hand_out(value: object) -> bool:
    return isinstance(value, list) and len(value) >= 2 and _is_id(value[0]) and is_number(value[1])


def _msgid_list(raw: bytes, index: int, name: str, limits: Limits) -> list[str]:
    document = _json(raw, index, name, limits)
    if not isinstance(document, list) or not all(map(_is_id, document)):
        raise BadFrame(index, name, "is not a list of msgids")
    return document


def _number(raw: bytes, index: int, name: str, low: int, high: int) -> int:
    try:
        number = int(_text(raw, index, name, 32))
    except ValueError:
        raise BadFrame(index, name, f"{_shown(raw)} is not a whole number") from None
    if not low <= number <= high:
        raise BadFrame(index, name, f"{number} is not within {low} to {high}")
    return number


def _read_request(msgid: str, frames: Frames, limits: Limits) -> Command:
    if not 7 <= len(frames) <= limits.frames:
        _need(frames, 3, ("queue", "headers", "payload"), limits)
    header_text, payload = frames[5], frames[6]
    if len(payload) > limits.payload_bytes:
        _payload(payload, 6, "payload", limits)
    return Request.make(msgid, _queue(frames[4]), _headers(header_text, 5, limits), payload, header_text)


def _read_reply(msgid: str, frames: Frames, limits: Limits) -> Command:
    count = len(frames)
    if count == 4:
        raise BadFrame(4, "reply", "is missing")
    body = _payload(frames[4], 4, "reply", limits)
    if count == 5:
        if body.startswith(b"{"):
            return Shown(msgid=msgid, body=body)
        return Reply.make(msgid, b"", _msgid(body, 4, "reply"))
    if not body:
        raise BadFrame(4, "reply", "is empty")
    request_msgid = _msgid(frames[5], 5, "msgid of the request")
    if count == 6:
        return Reply.make(msgid, body, request_msgid)
    headers = _reply_headers(frames[6])
    if count == 7:
        return Reply.make(msgid, body, request_msgid, headers)
    if (count - 7) % 4:
        raise BadFrame(count, "follow-up", "is missing: each follow-up has 4 frames")
    if count > 7 + 4 * limits.follow_ups:
        raise BadFrame(7 + 4 * limits.follow_ups, "follow-up", f"more than {limits.follow_ups} follow-ups")
    follow_ups = tuple(_follow_up(frames, i, limits) for i in range(7, count, 4))
    return Reply.make(msgid, body, request_msgid, headers, follow_ups)


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
            raise BadFrame(4, "queues", "is not a list")
        queues = tuple(_weighted(entry) for entry in document)
    role = _text(frames[5], 5, "role", 32)
    if role not in (WORKER, SCHEDULER):
        raise BadFrame(5, "role", f"{role!a} is neither {WORKER!r} nor {SCHEDULER!r}")
    if len(frames) == 6:
        return Inform(msgid=msgid, queues=queues, role=role)
    return Inform(msgid=msgid, queues=queues, role=role, capabilities=_capabilities(frames[6], limits))


def _weighted(entry: object) -> tuple[int, str]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise BadFrame(4, "queues", "is not a list of [weight, name]")
    weight, name = entry
    if not is_number(weight, -MAX_NUMBER):
        raise BadFrame(4, "queues", "a weight is not a whole number")
    if not isinstance(name, str):
        raise BadFrame(4, "queues", "a name is not text")
    return weight, check_queue(name, 4, "queues: a name")


def _is_shares(share: object) -> bool:
    if not isinstance(share, list) or len(share) != 4:
        return False
    slots, slots_by_key, pace_s, pace_by_key = share
    return (
        is_number(slots)
        and type(pace_s) in (int, float)
        and 0 <= pace_s < 1e9
        and isinstance(slots_by_key, bool)
        and isinstance(pace_by_key, bool)
    )


def _capabilities(raw: bytes, limits: Limits) -> Capabilities:
    index, name = 6, "capabilities"
    document = _object(raw, index, name, limits)
    slots, held, tasks = document.get("slots", -1), document.get("held", []), document.get("tasks")
    pid, hostname = document.get("pid", 0), document.get("hostname", "")
    if not is_number(slots):
        raise BadFrame(index, name, "'slots' is not a number")
    if not isinstance(held, list) or not all(
        _is_hand_out(entry) and len(entry) == 3 and isinstance(entry[2], bool) for entry in held
    ):
        raise BadFrame(index, name, "'held' is not a list of [msgid, attempt, begun]")
    if tasks is not None and not (
        isinstance(tasks, dict) and all(isinstance(flags, str) for flags in tasks.values())
    ):
        raise BadFrame(index, name, "'tasks' is not an object of task names and flags")
    intervals = document.get("intervals", {})
    if not isinstance(intervals, dict) or not all(
        type(seconds) in (int, float) and 0 < seconds < 1e9 for seconds in intervals.values()
    ):
        raise BadFrame(index, name, "'intervals' is not an object of task names and seconds")
    shares = document.get("shares")
    if shares is not None and not (
        isinstance(shares, dict) and all(_is_shares(share) for share in shares.values())
    ):
        raise BadFrame(
            index, name, "'shares' is not an object of task names and [slots, by key, seconds, by key]"
        )
    control, consumer = document.get("control", ""), document.get("consumer", False)
    if not is_number(pid) or not isinstance(hostname, str) or not isinstance(control, str):
        raise BadFrame(index, name, "'pid' is not a number, or 'hostname' or 'control' not text")
    if not isinstance(consumer, bool):
        raise BadFrame(index, name, "'consumer' is neither true nor false")
    return Capabilities(
        slots=slots,
        held=tuple((msgid, attempt, begun) for msgid, attempt, begun in held),
        tasks=tasks,
        intervals=intervals,
        shares=None if shares is None else {task: Shares(*share) for task, share in shares.items()},
        control=control,
        pid=pid,
        hostname=hostname,
        consumer=consumer,
    )


def _read_ack(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 1, ("msgid acknowledged",), limits)
    raw = frames[4]
    if raw.startswith(b"["):
        return Ack(msgid=msgid, acked=_msgid_list(raw, 4, "msgids acknowledged", limits))
    return Ack(msgid=msgid, acked=[_msgid(raw, 4, "msgid acknowledged")])


def _read_ready(msgid: str, frames: Frames, limits: Limits) -> Command:
    if len(frames) == 4:
        return Ready(msgid=msgid)
    _need(frames, 1, ("count",), limits)
    return Ready(msgid=msgid, count=_number(frames[4], 4, "count", 0, MAX_NUMBER))


def _read_heartbeat(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 1, ("timestamp",), limits)
    try:
        timestamp = _finite(_text(frames[4], 4, "timestamp", 64))
    except ValueError:
        raise BadFrame(4, "timestamp", f"{_shown(frames[4])} is not a number") from None
    if len(frames) == 5:
        return Heartbeat(msgid=msgid, timestamp=timestamp)
    not_begun = frozenset(_msgid_list(frames[5], 5, "msgids not begun", limits))
    return Heartbeat(msgid=msgid, timestamp=timestamp, not_begun=not_begun)


def _read_nack(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 1, ("returned",), limits)
    document = _json(frames[4], 4, "returned", limits)
    if not isinstance(document, list) or not all(_is_hand_out(e) and len(e) == 2 for e in document):
        raise BadFrame(4, "returned", "is not a list of [msgid, attempt]")
    return Nack(msgid=msgid, returned=tuple((entry[0], entry[1]) for entry in document))


def _schedule_fields(frames: Frames, limits: Limits) -> dict[str, Any]:
    _need(frames, 4, ("queue", "headers", "interval", "payload"), limits)
    return {
        "queue": _queue(frames[4]),
        "headers": _text(frames[5], 5, "headers", limits.header_bytes),
        "interval_s": _number(frames[6], 6, "interval", -1, MAX_NUMBER),
        "payload": _payload(frames[7], 7, "payload", limits),
        "cron": _text(frames[8], 8, "cron", MAX_ID_BYTES) if len(frames) > 8 else "",
    }


def _read_schedule(msgid: str, frames: Frames, limits: Limits) -> Command:
    return Schedule(msgid=msgid, **_schedule_fields(frames, limits))


def _read_unschedule(msgid: str, frames: Frames, limits: Limits) -> Command:
    return Unschedule(msgid=msgid, **_schedule_fields(frames, limits))


def _read_publish(msgid: str, frames: Frames, limits: Limits) -> Command:
    _need(frames, 2, ("topic", "payload"), limits)
    return PublishTopic(
        msgid=msgid,
        topic=_text(frames[4], 4, "topic", MAX_ID_BYTES),
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
