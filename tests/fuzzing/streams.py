"""Bytes that no ZeroMQ peer should say to a listening socket: handshakes, frames, commands, and mutations."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.faults import zmtp
from tests.fuzzing.messages import Fuzz

__all__ = ["Streams", "pieces"]

_COMMAND = 4
_LENGTHS = (
    0,
    1,
    255,
    256,
    1 << 16,
    1 << 20,
    70 << 20,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)


class Streams:
    """What connections say, without end; ``seed``: of the random numbers."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._fuzz = Fuzz(seed)

    def streams(self, count: int) -> Iterator[bytes]:
        """Yield what so many connections say, each from its first byte on."""
        for _ in range(count):
            parts = [self._greeting(), self._ready(), *self._talk()]
            raw = b"".join(parts)
            yield self._mutated(raw) if self._rng.random() < 0.5 else raw

    def _greeting(self) -> bytes:
        rng, greeting = self._rng, bytearray(zmtp.GREETING)
        how = rng.random()
        if how < 0.05:
            return rng.choice(
                (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0", b"\xff" * 64, b"\0" * 64)
            )
        if how < 0.1:
            greeting[12:32] = rng.choice((b"PLAIN", b"CURVE", b"GSSAPI", rng.randbytes(20))).ljust(20, b"\0")
        elif how < 0.15:
            greeting[rng.randrange(12)] = rng.randrange(256)
        elif how < 0.3:
            greeting[11] = rng.randrange(4)
        return bytes(greeting)

    def _ready(self) -> bytes:
        rng = self._rng
        how = rng.random()
        if how < 0.6:
            return zmtp.ready(b"stream.%d" % rng.getrandbits(32))
        body = b"\x05READY"
        for _ in range(rng.randint(0, 5)):
            name = rng.choice((b"Socket-Type", b"Identity", b"identity", b"", b"X-" + rng.randbytes(200)))
            value = rng.choice((b"DEALER", b"REQ", b"PUB", b"", b"\0\0\0\0\x01", rng.randbytes(300)))
            length = len(value) if rng.random() < 0.8 else rng.choice(_LENGTHS) % (1 << 32)
            body += bytes([len(name)]) + name + length.to_bytes(4, "big") + value
        return zmtp.frame(body, flags=_COMMAND)

    def _talk(self) -> Iterator[bytes]:
        for frames in self._fuzz.messages(self._rng.randint(0, 6)):
            how = self._rng.random()
            if how < 0.2:
                yield self._command()
            elif how < 0.3:  # a command within a message
                yield b"".join((zmtp.more(frames[0]), self._command(), *map(zmtp.frame, frames[1:])))
            elif how < 0.35:
                yield zmtp.more(b"") * self._rng.choice((1, 100, 5000))
            elif how < 0.45:
                flags = self._rng.choice((2, 3, 6))
                yield bytes([flags]) + self._rng.choice(_LENGTHS).to_bytes(8, "big") + self._rng.randbytes(40)
            else:
                yield zmtp.message(frames)

    def _command(self) -> bytes:
        rng = self._rng
        context = rng.randbytes(rng.choice((0, 1, 16, 17, 240, 300, 70_000)))
        name = rng.choice((b"PING", b"PING", b"PONG", b"READY", b"ERROR", b"SUBSCRIBE", b"", b"X" * 255))
        body = bytes([len(name)]) + name + (rng.randbytes(2) + context if name == b"PING" else context)
        return zmtp.frame(body, flags=_COMMAND) * rng.choice((1, 1, 1, 200))

    def _mutated(self, raw: bytes) -> bytes:
        rng, changed = self._rng, bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(changed) + 1)
            how = rng.randrange(4)
            if how == 0:
                changed[at : at + 1] = rng.randbytes(1)
            elif how == 1:
                del changed[at : at + rng.choice((1, 2, 9, 64))]
            elif how == 2:
                changed[at:at] = changed[at : at + rng.choice((1, 9, 100))]
            else:
                del changed[at:]
        return bytes(changed)


def pieces(raw: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield bytes as they may come: at once, one by one, or cut anywhere."""
    most = rng.choice((1, 3, 64, 1000, 1 << 20))
    if most == 1 and len(raw) > 2000:
        most = 100
    at = 0
    while at < len(raw):
        size = rng.randint(1, most)
        yield raw[at : at + size]
        at += size
