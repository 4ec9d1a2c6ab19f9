"""The codec: it loses nothing, and nothing that a peer sends makes it raise but its own error."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emq_compat.errors import LocalProtocolError, MessageError, RemoteProtocolError
from emq_compat.message import Headers, ReplyHeaders
from emq_compat.protocol.commands import (
    VERSION,
    Ack,
    Command,
    Heartbeat,
    Inform,
    Kbye,
    Ready,
    Reply,
    Request,
)
from emq_compat.protocol.frames import LIMITS, Limits, decode, encode, request_frames
from tests.protocol.strategies import (
    BODIES,
    COMMANDS,
    HEADERS,
    IDS,
    NEARLY_MESSAGES,
    QUEUES,
    REPLY_HEADERS,
    WORDS,
)

pytestmark = pytest.mark.unit


@given(COMMANDS)
def test_encoding_loses_nothing(command: Command) -> None:
    """decode(encode(command)) is the command."""
    assert command == decode(encode(command))


@given(COMMANDS)
def test_what_a_stock_peer_gets_is_text(command: Command) -> None:
    """For a stock peer each frame is UTF-8 and holds no header of ours, or encoding is refused."""
    try:
        frames = encode(command, stock=True)
    except LocalProtocolError:
        return
    for frame in frames:
        frame.decode()
    if isinstance(command, Request):
        known = {"", "reply-requested", "guarantee"}
        for header in frames[5].decode().split(","):
            assert header in known or header.startswith(("retry-count:", "timeout:"))
    if isinstance(command, Reply):
        assert len(frames) <= 6
    if isinstance(command, Ready):
        assert 4 == len(frames)


@given(HEADERS)
def test_headers_survive(headers: Headers) -> None:
    """A header's value may be any text; none of our names or values holds a comma or a word of stock's."""
    text = headers.encode()
    assert headers == Headers.decode(text)
    stock = headers.stock()
    ours = text[len(stock) :]
    for word in ("reply-requested", "guarantee", "retry-count", "timeout", "nohaste", "run_count"):
        names = [part.partition(":")[0] for part in ours.split(",")]
        assert all(word not in name for name in names)


@given(REPLY_HEADERS)
def test_reply_headers_survive(headers: ReplyHeaders) -> None:
    """A state may be any text."""
    assert headers == ReplyHeaders.decode(headers.encode())


@given(IDS, QUEUES, HEADERS, BODIES, st.integers(1, 99))
def test_a_header_appended_wins(
    msgid: str, queue: str, headers: Headers, payload: bytes, attempt: int
) -> None:
    """What the broker appends to the stored header text overrides what stands before it."""
    text = f"{headers.encode()},attempt:{attempt},redelivered".encode()
    request = decode(request_frames(msgid.encode(), queue.encode(), text, payload))
    assert isinstance(request, Request)
    assert dataclasses.replace(headers, attempt=attempt, redelivered=True) == request.headers


@settings(max_examples=1500)
@given(NEARLY_MESSAGES | st.lists(st.binary(max_size=40), max_size=10))
def test_nothing_else_is_raised(frames: list[bytes]) -> None:
    """Whatever the frames hold, decode returns a command, or raises RemoteProtocolError."""
    try:
        command = decode(frames)
    except RemoteProtocolError:
        return
    assert encode(command)[:3] == [b"", VERSION, frames[2].replace(b"KBAI", b"KBYE")]


@settings(max_examples=500)
@given(COMMANDS, st.data())
def test_a_message_cut_or_changed_is_no_surprise(command: Command, data: st.DataObject) -> None:
    """A message with frames missing, doubled or with other bytes is read, or refused by name."""
    frames = encode(command)
    index = data.draw(st.integers(0, len(frames) - 1))
    how = data.draw(st.sampled_from(["cut", "double", "drop", "bytes"]))
    if how == "cut":
        frames = frames[:index]
    elif how == "double":
        frames.insert(index, frames[index])
    elif how == "drop":
        del frames[index]
    else:
        frames[index] = data.draw(st.binary(max_size=30))
    with contextlib.suppress(RemoteProtocolError):
        decode(frames)


@given(st.text(max_size=200))
def test_any_header_text_is_read_or_refused(text: str) -> None:
    """Headers.decode raises MessageError, or nothing."""
    with contextlib.suppress(MessageError):
        Headers.decode(text)


MSG = [b"", VERSION]


@pytest.mark.parametrize(
    ("frames", "named"),
    [
        ([b""], "frame 1 (missing)"),
        ([b"x", VERSION, b"KBYE", b"m"], "frame 0 (delimiter)"),
        ([b"", b"eMQP/2.0", b"KBYE", b"m"], "frame 1 (version)"),
        ([*MSG, b"NONSENSE", b"m"], "frame 2 (command)"),
        ([*MSG, b"KBYE", b""], "frame 3 (msgid) of KBYE: is empty"),
        ([*MSG, b"KBYE", b"\xff"], "frame 3 (msgid) of KBYE: is not UTF-8"),
        ([*MSG, b"KBYE", b"x" * 2000], "longer than 1024 bytes"),
        ([*MSG, b"REQUEST", b"m", b"q"], "frame 5 (headers) of REQUEST: is missing"),
        ([*MSG, b"REQUEST", b"m", b"q\n", b"", b"{}"], "control character"),
        ([*MSG, b"REQUEST", b"m", b"q" * 300, b"", b"{}"], "255 characters"),
        ([*MSG, b"REQUEST", b"m", b"q", b"priority:12", b"{}"], "'priority'"),
        ([*MSG, b"REQUEST", b"m", b"q", b"x" * 20_000, b"{}"], "frame 5 (headers)"),
        ([*MSG, b"REQUEST", b"m", b"q", b"", b"{}", *[b""] * 20], "more than 16 frames"),
        ([*MSG, b"READY", b"m", b"-1"], "frame 4 (count)"),
        ([*MSG, b"READY", b"m", b"many"], "not a whole number"),
        ([*MSG, b"ACK", b"m", b"[1]"], "not a list of msgids"),
        ([*MSG, b"HEARTBEAT", b"m", b"soon"], "frame 4 (timestamp)"),
        ([*MSG, b"HEARTBEAT", b"m", b"inf"], "frame 4 (timestamp)"),
        ([*MSG, b"INFORM", b"m", b"{}", b"worker"], "not a list"),
        ([*MSG, b"INFORM", b"m", b"[[1]]", b"worker"], "[weight, name]"),
        ([*MSG, b"INFORM", b"m", b"", b"boss"], "frame 5 (role)"),
        ([*MSG, b"INFORM", b"m", b"", b"worker", b'{"slots": "many"}'], "'slots'"),
        ([*MSG, b"NACK", b"m", b'[["a"]]'], "[msgid, attempt]"),
        ([*MSG, b"ASK", b"m", b"verb", b"[" * 100_000], "nested too deeply"),
        ([*MSG, b"ASK", b"m", b"verb", b'{"a": NaN}'], "no JSON number"),
        ([*MSG, b"ASK", b"m", b"verb", b'{"a": "\\ud800"}'], "not UTF-8"),
        ([*MSG, b"ASK", b"m", b"verb", "{}".encode("utf-16")], "not UTF-8"),
        ([*MSG, b"REPLY", b"m", b"{}", b"r", b"attempt:x"], "'attempt'"),
        ([*MSG, b"REPLY", b"m", b"{}", b"r", b"attempt:1", b"follow"], "4 frames"),
    ],
)
def test_an_error_names_the_frame(frames: list[bytes], named: str) -> None:
    """A malformed message is refused with an error that says which frame is wrong, and why."""
    with pytest.raises(RemoteProtocolError) as refused:
        decode(frames)
    assert named in str(refused.value)


def test_limits_are_the_callers() -> None:
    """Sizes are bounded by the limits given; the error tells both numbers."""
    frames = [*MSG, b"REQUEST", b"m", b"q", b"", b"x" * 101]
    assert isinstance(decode(frames, LIMITS), Request)
    with pytest.raises(RemoteProtocolError, match="101 bytes, more than 100"):
        decode(frames, Limits(payload_bytes=100))
    follow_ups = [b"f", b"q", b"", b"{}"] * 3
    reply = [*MSG, b"REPLY", b"m", b"{}", b"r", b"attempt:1", *follow_ups]
    assert isinstance(decode(reply), Reply)
    with pytest.raises(RemoteProtocolError, match="more than 2 follow-ups"):
        decode(reply, Limits(follow_ups=2))


def test_an_error_keeps_command_and_msgid() -> None:
    """What could be read of a malformed message is in the error, so that its sender can be answered."""
    with pytest.raises(RemoteProtocolError) as refused:
        decode([*MSG, b"REQUEST", b"m1", b"q\n", b"", b"{}"])
    assert ("REQUEST", "m1") == (refused.value.command, refused.value.msgid)


def test_further_frames_are_ignored() -> None:
    """A peer of a later release may add a frame to what this one knows."""
    assert Kbye(msgid="m") == decode([*MSG, b"KBYE", b"m", b"later"])
    assert Ack(msgid="m", acked=["a"]) == decode([*MSG, b"ACK", b"m", b"a", b"later"])


def test_both_words_for_goodbye() -> None:
    """KBAI, of the written protocol, and KBYE, of the running code, are one command; KBYE is said."""
    assert decode([*MSG, b"KBAI", b"m"]) == decode([*MSG, b"KBYE", b"m"])
    assert b"KBYE" == encode(Kbye(msgid="m"))[2]


@pytest.mark.parametrize(
    "command",
    [
        Kbye(msgid=""),
        Kbye(msgid="a\nb"),
        Ready(msgid="m", count=-1),
        Heartbeat(msgid="m", timestamp=float("nan")),
        Inform(msgid="m", role="boss"),
        Inform(msgid="m", queues=((1, "a\x00"),)),
        Request(msgid="m", queue="q" * 300, headers=Headers(), payload=b""),
        Ack(msgid="m", acked=("",)),
    ],
    ids=repr,
)
def test_own_mistakes_are_local(command: Command) -> None:
    """What can't be said in eMQP/1.0 is refused before it is sent, as LocalProtocolError."""
    with pytest.raises(LocalProtocolError):
        encode(command)


def test_stock_gets_nothing_that_is_not_utf8() -> None:
    """A payload of other bytes is refused for a stock peer, which would crash of it."""
    command = Request(msgid="m", queue="q", headers=Headers(), payload=b"\xff")
    assert b"\xff" == encode(command)[6]
    with pytest.raises(LocalProtocolError, match="UTF-8"):
        encode(command, stock=True)


def test_every_word_is_tried() -> None:
    """The strategy of nearly right messages knows every command that the decoder knows."""
    from emq_compat.protocol.decoder import _READERS

    assert set(_READERS) == set(WORDS)


def test_bodies_are_passed_on_undecoded() -> None:
    """Payloads and replies are not parsed: whatever bytes they hold arrive as they were."""
    body = json.dumps({"value": [1, 2, {"x": "é"}]}).encode()
    reply = Reply(msgid="m", body=body, request_msgid="r", headers=ReplyHeaders(attempt=1, state="SUCCESS"))
    decoded = decode(encode(reply))
    assert isinstance(decoded, Reply)
    assert decoded.body == body
