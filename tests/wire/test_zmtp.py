"""ZMTP 3.1 as it is spoken without ZeroMQ: bytes in, messages out."""

from __future__ import annotations

import pytest

from emq_compat.wire.zmtp import Zmtp, ZmtpError, message, ping

pytestmark = pytest.mark.unit

MESSAGES = [[b"", b"eMQP/1.0", b"x" * 255], [b"y" * 256], [b"z" * 70_000, b""]]


def greeting(mechanism: bytes = b"NULL", version: int = 3) -> bytes:
    return b"\xff" + bytes(8) + b"\x7f" + bytes((version, 1)) + mechanism.ljust(20, b"\0") + bytes(32)


def command(content: bytes) -> bytes:
    return bytes((4, len(content))) + content


def ready() -> bytes:
    return command(b"\x05READY\x0bSocket-Type\0\0\0\x06ROUTER")


def speaker(**most: int) -> Zmtp:
    return Zmtp(b"me", **{"frame_bytes": 100_000, "frames": 8, **most})


def established(**most: int) -> Zmtp:
    made = speaker(**most)
    made.receive(greeting() + ready())
    made.outgoing = b""
    return made


@pytest.mark.parametrize("piece", [1, 7, 63, 64, 4096, 1 << 20])
def test_pieces_of_any_length_are_messages(piece: int) -> None:
    """However the bytes are cut, the same messages come out, each as soon as it is whole."""
    zmtp = speaker()
    said = greeting() + ready() + b"".join(map(message, MESSAGES))
    received = []
    for at in range(0, len(said), piece):
        received += zmtp.receive(said[at : at + piece])
    assert MESSAGES == received
    assert zmtp.established


def test_the_handshake_says_who_it_is() -> None:
    """The version leaves at once, the mechanism and the identity once the other side has greeted."""
    zmtp = speaker()
    first, zmtp.outgoing = zmtp.outgoing, b""
    assert greeting()[:12] == first
    zmtp.receive(greeting())
    me = command(b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x02me")
    assert greeting()[12:] + me == zmtp.outgoing
    assert not zmtp.established
    zmtp.receive(ready())
    assert zmtp.established


def test_a_ping_is_answered() -> None:
    """PING is answered by PONG with its context; PONG, and commands of no meaning here, are passed over."""
    zmtp = established()
    assert [] == zmtp.receive(command(b"\x04PING\0\0abc") + command(b"\x04PONG") + command(b"\x03NEW"))
    assert command(b"\x04PONGabc") == zmtp.outgoing
    assert command(b"\x04PING\0\0") == ping()


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
        speaker().receive(said)


@pytest.mark.parametrize(
    "said", [message([bytes(101)]), message([b"x"] * 9), b"\x02" + b"\xff" * 8, b"\x08\x00"]
)
def test_what_is_too_large_ends_it(said: bytes) -> None:
    """A frame that is too large is refused before it has come, and so is a message of too many frames."""
    with pytest.raises(ZmtpError):
        established(frame_bytes=100).receive(said)
