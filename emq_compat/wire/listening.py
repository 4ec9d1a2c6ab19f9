"""Sockets that listen, of TCP and of Unix, where ZeroMQ isn't asked to."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from typing import Final

from emq_compat.errors import OperationalError
from emq_compat.wire.descriptors import too_few

__all__ = ["Listener", "is_listened_at"]

_TCP = re.compile(r"tcp://(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<ipv4>[0-9.]+|\*)):(?P<port>[0-9]{1,5}|\*)")
_IPC = "ipc://"
_IPC_LONGEST: Final = 107

#: Connections that wait to be accepted.
_WAITING: Final = 1024
#: How a far end that is cut off without a word is found: seconds until it is asked, and between questions,
#: and how many of these.
_KEEP_IDLE_S, _KEEP_INTERVAL_S, _KEEP_COUNT = 10, 5, 3


class Listener:
    """A listening socket. Nothing blocks.

    Attributes:
        endpoint: where it listens, with the port that a wildcard became.
    """

    def __init__(self, endpoint: str) -> None:
        """Bind and listen at an endpoint of which ``can`` says that it can.

        Raises:
            OperationalError: it can't be bound (in use, no such address, no descriptors …).
        """
        self._path = ""
        self._made: tuple[int, int] | None = None
        try:
            if endpoint.startswith(_IPC):
                self.sock = self._unix(endpoint[len(_IPC) :])
                self.endpoint = endpoint
            else:
                self.sock = self._tcp(endpoint)
                host, port = self.sock.getsockname()[:2]
                self.endpoint = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        except (OSError, OverflowError) as exc:
            why = getattr(exc, "strerror", None) or str(exc)
            raise OperationalError(f"{endpoint} can't be bound: {why}") from exc

    @staticmethod
    def can(endpoint: str) -> bool:
        """Tell whether this endpoint can be bound so: an address, and no interface or name."""
        if endpoint.startswith(_IPC):
            return 0 < len(endpoint.encode()) - len(_IPC) <= _IPC_LONGEST and not endpoint.endswith("*")
        return _TCP.fullmatch(endpoint) is not None

    @staticmethod
    def _made_socket(family: int) -> socket.socket:
        try:
            return socket.socket(family, socket.SOCK_STREAM)
        except OSError as exc:
            raise too_few(exc) from exc

    def _tcp(self, endpoint: str) -> socket.socket:
        parts = _TCP.fullmatch(endpoint)
        assert parts is not None
        made = self._made_socket(socket.AF_INET6 if parts["ipv6"] else socket.AF_INET)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if parts["ipv6"]:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            host = parts["ipv6"] or parts["ipv4"].replace("*", "0.0.0.0")  # noqa: S104 - as asked
            made.bind((host, 0 if parts["port"] == "*" else int(parts["port"])))
            made.listen(_WAITING)
        except (OSError, OverflowError):
            made.close()
            raise
        return made

    def _unix(self, path: str) -> socket.socket:
        made = self._made_socket(socket.AF_UNIX)
        try:
            made.setblocking(False)
            if path.startswith("@"):
                made.bind("\0" + path[1:])
            else:
                if is_listened_at(path):
                    raise OSError(None, "Address already in use")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                made.bind(path)
                self._path, self._made = path, _file(path)
            made.listen(_WAITING)
        except OSError:
            made.close()
            raise
        return made

    def accept(self) -> socket.socket | None:
        """Return the next connection that waits; None: none does.

        Raises:
            OSError: there is one, and no descriptor for it.
        """
        try:
            sock, _ = self.sock.accept()
        except (BlockingIOError, ConnectionError):
            return None
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # it has left already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_IDLE_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_INTERVAL_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEP_COUNT)
        return sock

    def close(self) -> None:
        """Listen no more, also where a process that was forked from this one has the socket, too."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        if self._path and self._made == _file(self._path):
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def is_listened_at(path: str) -> bool:
    """Tell whether a process listens at this unix socket; what a killed one left behind doesn't count."""
    if path.startswith("@") or not os.path.exists(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True


def _file(path: str) -> tuple[int, int] | None:
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino
