"""The HTTP server: one thread that answers GETs, and that no client can hold up.

A client that is slow to ask or to read is cut off after some seconds, and at once when too many are
connected: the oldest goes. What is answered is made by routes, which run in this thread's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from emq_compat.errors import ConfigurationError
from emq_compat.monitor.address import HttpAddress

__all__ = ["HttpThread", "Response", "Route"]

logger = logging.getLogger(__name__)

#: How long a client may take to ask, and to read its answer.
REQUEST_S = 5.0
ANSWER_S = 5.0
MOST_CONNECTIONS = 64
_HEAD_BYTES = 16 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is answered; ``kind`` is its Content-Type."""

    status: HTTPStatus = HTTPStatus.OK
    body: bytes
    kind: str = "text/plain; charset=utf-8"


Route = Callable[[], Awaitable[Response]]


class HttpThread:
    """Listens from the start, and serves once it is started.

    Args:
        address: where; with port 0 ``address`` has the port that was found.
        routes: path → what makes the answer.

    Raises:
        ConfigurationError: it can't listen there.
    """

    def __init__(self, address: HttpAddress, routes: Mapping[str, Route]) -> None:
        self._routes = routes
        self._socket = _listen(address)
        self.address = HttpAddress(address.host, self._socket.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._ended = self._loop.create_future()
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        _listening.add(self._socket)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more; connections are cut."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set_result, None)
            self._thread.join()
        self._loop.close()
        self._socket.close()

    @property
    def connected(self) -> int:
        """How many clients are connected."""
        return len(self._open)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        self._loop.run_until_complete(self._serve_to_the_end())

    async def _serve_to_the_end(self) -> None:
        server = await asyncio.start_server(self._serve, sock=self._socket, limit=_HEAD_BYTES)
        await self._ended
        server.close()
        here = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not here]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        transport.set_write_buffer_limits(0)  # so that drain waits until all has been taken
        self._open[writer] = None
        if len(self._open) > MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
            method, response = await self._answer(head)
            writer.write(_encoded(response, with_body=method != "HEAD"))
            await asyncio.wait_for(writer.drain(), ANSWER_S)
            writer.close()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, OSError):
            pass  # it is cut off
        finally:
            self._open.pop(writer, None)
            if not writer.is_closing():
                transport.abort()

    async def _answer(self, head: bytes) -> tuple[str, Response]:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target, _, version = rest.partition(" ")
        if not version.startswith("HTTP/1."):
            return method, Response(status=HTTPStatus.BAD_REQUEST, body=b"this is no HTTP request\n")
        route = self._routes.get(target.partition("?")[0])
        if route is None:
            known = ", ".join(self._routes)
            return method, Response(status=HTTPStatus.NOT_FOUND, body=f"there are {known}\n".encode())
        if method not in ("GET", "HEAD"):
            return method, Response(status=HTTPStatus.METHOD_NOT_ALLOWED, body=b"GET and HEAD only\n")
        try:
            return method, await route()
        except Exception:
            logger.exception("%s could not be answered", target)
            return method, Response(status=HTTPStatus.INTERNAL_SERVER_ERROR, body=b"see the log\n")


def _encoded(response: Response, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Content-Type: {response.kind}\r\nContent-Length: {len(response.body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (response.body if with_body else b"")


def _listen(address: HttpAddress) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=MOST_CONNECTIONS)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"--http {address}: the address is in use: give another port, or 0 for a free one"
            ) from exc
        raise ConfigurationError(f"--http {address} can't be listened at: {exc.strerror or exc}") from exc


#: What a process that is forked from this one must not keep open: the port would stay in use.
_listening: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _let_go() -> None:
    for one in list(_listening):
        with contextlib.suppress(OSError):
            one.close()
    _listening.clear()


os.register_at_fork(after_in_child=_let_go)
