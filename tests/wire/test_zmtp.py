"""ZMTP 3.1 as it is spoken without ZeroMQ: bytes in, messages out."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emq_compat.wire.zmtp import APART_BYTES, Zmtp, ZmtpError, message, pieces, ping

pytestmark = pytest.mark.unit

MESSAGES = [[b"", b"eMQP/1.0", b"x" * 255], [b"y" * 256], [b"z" * 70_000, b""]]


def greeting(mechanism: bytes = b"NULL", version: int = 3) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + bytes((version, 1)) + mechanism.ljust(20, b"\0") + bytes(32)


def command(content: bytes) -> bytes:
    head = bytes((4, len(content))) if len(content) < 256 else b"\x06" + len(content).to_bytes(8, "big")
    return head + content


def ready() -> bytes:
    return command(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER")


def speaker(**most: int) -> Zmtp:
    return Zmtp(b"me", **{"frame_bytes": 100_000, "frames": 8, **most})


def heard(zmtp: Zmtp, data: bytes) -> list[list[bytes]]:
    """The messages that are complete with these bytes."""
    messages: list[list[bytes]] = []
    zmtp.receive(data, messages)
    return messages


def established(**most: int) -> Zmtp:
    made = speaker(**most)
    heard(made, greeting() + ready())
    made.outgoing = b""
    return made


@pytest.mark.parametrize("piece", [1, 7, 63, 64, 4096, 1 << 20])
def test_pieces_of_any_length_are_messages(piece: int) -> None:
    """However the bytes are cut, the same messages come out, each as soon as it is whole."""
    zmtp = speaker()
    said = greeting() + ready() + b"".join(map(message, MESSAGES))
    received = []
    for at in range(0, len(said), piece):
        received += heard(zmtp, said[at : at + piece])
    assert MESSAGES == received
    assert zmtp.established


def test_the_handshake_says_who_it_is() -> None:
    """The version leaves at once, the mechanism and the identity once the other side has greeted."""
    zmtp = speaker()
    first, zmtp.outgoing = zmtp.outgoing, b""
    assert greeting()[:12] == first
    heard(zmtp, greeting())
    me = command(b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02me")
    assert greeting()[12:] + me == zmtp.outgoing
    assert not zmtp.established
    heard(zmtp, ready())
    assert zmtp.established


def test_a_ping_is_answered() -> None:
    """PING is answered by PONG with its context; PONG, and commands of no meaning here, are passed over."""
    zmtp = established()
    assert [] == heard(zmtp, command(b"\x04PING\0\0abc") + command(b"\x04PONG") + command(b"\x03NEW"))
    assert command(b"\x04PONGabc") == zmtp.outgoing
    assert command(b"\x04PING\0\0") == ping()
    zmtp.outgoing = b""
    heard(zmtp, command(b"\x04PING\0\0" + b"x" * 100))
    assert command(b"\x04PONG" + b"x" * 16) == zmtp.outgoing


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no ZeroMQ peer"),
        (greeting(version=2), "no ZeroMQ peer"),
        (greeting(b"CURVE"), "it uses CURVE keys and this side none"),
        (greeting() + command(b"\x05ERROR\x02no"), "refused the handshake"),
        (greeting() + message([b"early"]), "before its handshake"),
    ],
)
def test_a_peer_of_another_kind_is_told(said: bytes, why: str) -> None:
    """Who speaks something else is recognised by its first bytes."""
    with pytest.raises(ZmtpError, match=why):
        heard(speaker(), said)


@pytest.mark.parametrize(
    "said",
    [
        message([bytes(101)]),
        b"\x02" + b"\xff" * 8,
        b"\x08\x00",
        b"\x06" + (1 << 17).to_bytes(8, "big"),
        b"".join(b"\x01\x50" + bytes(80) for _ in range(4)),
        b"\x01\x00" * 152,  # their heads count, too
    ],
)
def test_what_is_too_large_ends_it(said: bytes) -> None:
    """A frame, a command or a message that is too large is refused before it has come."""
    zmtp = established(frame_bytes=100, message_bytes=300)
    zmtp.receive(message([bytes(80)] * 3), into := [])
    assert 1 == len(into)
    with pytest.raises(ZmtpError):
        heard(zmtp, said)


def test_of_too_many_frames_one_more_than_allowed_is_kept() -> None:
    """Of a message with too many frames so many are left that its reader finds it, and the next is whole."""
    zmtp = established()
    assert [[b"x"] * 9, [b"y"]] == heard(zmtp, message([b"x"] * 1000) + message([b"y"]))


def test_messages_before_what_is_wrong_are_heard() -> None:
    """What came whole before a peer said something wrong is not lost with it, however it was cut."""
    for piece in (1, 1000):
        zmtp, messages = established(), []
        said = message([b"a", b"b"]) + message([b"c"]) + b"\xff\xff"
        with contextlib.suppress(ZmtpError):
            for at in range(0, len(said), piece):
                zmtp.receive(said[at : at + piece], messages)
            pytest.fail("that was no error")
        assert [[b"a", b"b"], [b"c"]] == messages


def listener(**most: int) -> Zmtp:
    return Zmtp(router=True, **{"frame_bytes": 1 << 20, "frames": 8, **most})


def opening(identity: bytes = b"me", socket_type: bytes = b"DEALER") -> bytes:
    properties = b"\x0bSOCKET-type" + len(socket_type).to_bytes(4, "big") + socket_type
    properties += b"\x08Identity" + len(identity).to_bytes(4, "big") + identity
    return greeting() + command(b"\x05READY" + properties)


def test_a_listener_greets_at_once_and_hears_who_it_is() -> None:
    """It says its whole greeting first, READY after the other side's, and what that calls itself is known."""
    zmtp = listener()
    first, zmtp.outgoing = zmtp.outgoing, b""
    assert greeting() == first
    heard(zmtp, greeting())
    assert command(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0") == zmtp.outgoing
    assert not zmtp.established
    heard(zmtp, opening()[64:])
    assert (True, b"me") == (zmtp.established, zmtp.identity)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (opening(socket_type=b"SUB"), "a kind that can't talk to a broker"),
        (greeting() + command(b"\x05READY"), "a kind that can't talk to a broker"),
        (opening(identity=b"x" * 256), "longer than 255"),
        (opening(identity=b"\0\0\0\0\1"), "begins with a zero byte"),
        (greeting() + command(b"\x05READY\x0bSocket-Type\0\0\0\x06DEA"), "cut short"),
        (greeting() + command(b"\x05READY\xff"), "cut short"),
    ],
)
def test_a_listener_refuses(said: bytes, why: str) -> None:
    """Who says no READY that a ROUTER can use is refused with the reason."""
    with pytest.raises(ZmtpError, match=why):
        heard(listener(), said)


def test_who_introduces_itself_again_stays_who_it_was() -> None:
    """A second READY changes nothing: its identity is known by then, and others may use the new one."""
    zmtp = listener()
    heard(zmtp, opening(b"me") + opening(b"another")[64:])
    assert (True, b"me") == (zmtp.established, zmtp.identity)


def test_not_all_of_many_pings_are_answered() -> None:
    """Who says thousands of PINGs at once is answered by some kilobytes."""
    zmtp = established()
    heard(zmtp, command(b"\x04PING\0\0abc") * 5000)
    assert 4000 < len(zmtp.outgoing) < 5000


FRAMES = st.lists(
    st.binary(max_size=300) | st.sampled_from([bytes(256), bytes(APART_BYTES), b"z" * (3 * APART_BYTES)]),
    min_size=1, max_size=8,
)  # fmt: skip


@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(1, 1 << 17), max_size=40))
def test_however_the_bytes_are_cut_the_messages_are_the_same(
    messages: list[list[bytes]], cuts: list[int]
) -> None:
    """Messages of any frames are heard as they were said, also where large frames are filled apart."""
    zmtp = listener()
    said = opening() + b"".join(map(message, messages))
    assert said == opening() + b"".join(b"".join(pieces(frames)) for frames in messages)
    received: list[list[bytes]] = []
    at = 0
    for cut in [*cuts, len(said)]:
        piece = said[at : at + cut]
        if zmtp.wanted and cut % 2:
            piece = piece[: zmtp.wanted]
            zmtp.fill(memoryview(piece), received)
        else:
            zmtp.receive(piece, received)
        at += len(piece)
    zmtp.receive(said[at:], received)
    assert messages == received
    assert 0 == zmtp.wanted


@given(st.binary(max_size=400), st.integers(1, 64))
def test_any_bytes_are_messages_or_an_error(noise: bytes, piece: int) -> None:
    """Whatever is said after the handshake ends in messages or a ZmtpError, the same however it is cut."""
    heard_of: list[object] = []
    for size in (piece, len(noise) + 1):
        zmtp, messages, error = established(message_bytes=1000), [], ""
        try:
            for at in range(0, len(noise), size):
                zmtp.receive(noise[at : at + size], messages)
        except ZmtpError as exc:
            error = str(exc)
        heard_of.append((messages, error))
    assert heard_of[0] == heard_of[1]
