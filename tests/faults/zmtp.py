"""ZMTP 3.0 by hand, so that a test may stop at any byte of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

from emq_compat.message import new_id
from emq_compat.protocol.commands import Command, Hello
from emq_compat.protocol.frames import encode

#: Signature, version 3.0, mechanism NULL, a client.
GREETING = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\0" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
_MORE, _LONG, _COMMAND = 1, 2, 4


def frame(body: bytes, *, flags: int = 0) -> bytes:
    """One frame of ZMTP."""
    if len(body) > 255:
        return bytes([flags | _LONG]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


def ready(identity: bytes) -> bytes:
    """The command READY of a DEALER."""
    body = b"\x05READY"
    for name, value in ((b"Socket-Type", b"DEALER"), (b"Identity", identity)):
        body += bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return frame(body, flags=_COMMAND)


def message(frames: Sequence[bytes]) -> bytes:
    """A message of some frames."""
    return b"".join([*(frame(one, flags=_MORE) for one in frames[:-1]), frame(frames[-1])])


def said(command: Command) -> bytes:
    """A command of eMQP."""
    return message(encode(command))


def more(body: bytes) -> bytes:
    """A frame that is followed by another one."""
    return frame(body, flags=_MORE)


def opening(name: str = "raw") -> bytes:
    """What a client says until it has heard the other side's READY: libzmq takes no message before that."""
    return GREETING + ready(f"{name}.{os.urandom(6).hex()}".encode())


def hello() -> bytes:
    """By what the broker knows a client."""
    return said(Hello(msgid=new_id(), about={}))


class Raw:
    """A connection on which nothing is read unless ``read`` is called."""

    def __init__(self, port: int, *, receive_buffer: int = 0, timeout_s: float = 5.0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout_s)
        self.sock.connect(("127.0.0.1", port))

    def shake(self, name: str = "raw", *, meanwhile: Callable[[], object] | None = None) -> Raw:
        """Open the connection as a client does; ``meanwhile``: what the other side does in this thread."""
        heard = b""
        if self.send(opening(name)):
            while b"READY" not in heard:
                if meanwhile is not None:
                    meanwhile()
                if not (data := self.read()):
                    break
                heard += data
            self.send(hello())
        return self

    def send(self, data: bytes) -> bool:
        """Send; False: the other side takes no more, or has closed."""
        try:
            self.sock.sendall(data)
        except OSError:
            return False
        return True

    def read(self, most: int = 1 << 16) -> bytes:
        """What has come; nothing at the end, and when nothing comes."""
        try:
            return self.sock.recv(most)
        except OSError:
            return b""

    def ended(self) -> bool:
        """Whether the other side has ended it; what it said before is passed over."""
        self.sock.settimeout(0.01)
        try:
            return self.sock.recv(1 << 16) == b""
        except TimeoutError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Close."""
        self.sock.close()
