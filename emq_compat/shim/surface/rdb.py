"""``celery.contrib.rdb``: pdb over a socket, for a task in a worker: ``rdb.set_trace()``, then ``telnet``."""

from __future__ import annotations

import contextlib
import logging
import os
import pdb
import signal
import socket
import sys
import threading
from types import FrameType
from typing import IO, Any

__all__ = [
    "CELERY_RDB_HOST",
    "CELERY_RDB_PORT",
    "DEFAULT_PORT",
    "Rdb",
    "debugger",
    "set_trace",
    "wait_for_signal",
]

logger = logging.getLogger("celery.worker")

DEFAULT_PORT = 6899

CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)

#: The debugger of this process that somebody is connected to.
_active: Rdb | None = None


class Rdb(pdb.Pdb):
    """A debugger that waits for one connection, and is driven by it.

    Whoever can connect can do what the process can: leave ``host`` at this machine.

    Args:
        host, port: where it listens: at the first free port from ``port`` on.
        port_search_limit: how many ports are tried.
        port_skew: added to ``port``.
        out: where it says its address; standard error by default.

    Raises:
        OSError: no port is free.
    """

    me = "Remote debugger"

    def __init__(
        self,
        host: str = CELERY_RDB_HOST,
        port: int = CELERY_RDB_PORT,
        port_search_limit: int = 100,
        port_skew: int = 0,
        out: IO[str] | None = None,
    ) -> None:
        self.out = out if out is not None else sys.stderr
        first = port + port_skew
        with _listening(host, range(first, first + port_search_limit)) as listener:
            self.host, self.port = listener.getsockname()[:2]
            self.ident = f"{self.me}:{self.port}"
            self.say(f"{self.ident}: pid {os.getpid()} waits: telnet {self.host} {self.port}")
            self._client, address = listener.accept()
        self.remote_addr = ":".join(str(part) for part in address[:2])
        self.say(f"{self.ident}: connected with {self.remote_addr}")
        # Two files: one for both directions forgets what it has read ahead when it is written to.
        self._files = self._client.makefile("r"), self._client.makefile("w")
        self.active = True
        super().__init__(completekey="tab", stdin=self._files[0], stdout=self._files[1])
        self.use_rawinput = False
        self.prompt = "(Rdb) "

    def say(self, m: str) -> None:
        """Tell something where the process's output goes."""
        print(m, file=self.out, flush=True)

    def _close_session(self) -> None:
        if not self.active:
            return
        self.active = False
        for end in (*self._files, self._client):
            with contextlib.suppress(OSError):
                end.close()
        self.say(f"{self.ident}: {self.remote_addr} is gone")

    def interaction(self, *args: Any, **kwargs: Any) -> None:
        """Take commands until one of them lets the program go on; one who hangs up lets it go on, too."""
        try:
            super().interaction(*args, **kwargs)
        except OSError:
            self._close_session()
            self.set_continue()

    def do_continue(self, arg: str) -> bool | None:
        """End the session; the program goes on."""
        self._close_session()
        self.set_continue()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> bool | None:
        """The same as continue: a task is not ended by its debugger."""
        return self.do_continue(arg)

    do_q = do_exit = do_EOF = do_quit  # noqa: N815 - pdb's names

    def __enter__(self) -> Rdb:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close_session()


def _listening(host: str, ports: range) -> socket.socket:
    """Return a socket that listens at the first free port.

    Raises:
        OSError: none is free.
    """
    problem = OSError(f"no port is free at {host} from {ports.start} on: set CELERY_RDB_PORT")
    for port in ports:
        listener = socket.socket()
        try:
            listener.bind((host, port))
            listener.listen(1)
        except OSError as exc:
            listener.close()
            problem.__cause__ = exc
        else:
            return listener
    raise problem


def debugger() -> Rdb:
    """Return the debugger that somebody is connected to; otherwise a new one, once somebody is."""
    global _active
    if _active is None or not _active.active:
        _active = Rdb()
    return _active


def set_trace(frame: FrameType | None = None) -> None:
    """Stop here (or in ``frame``) until somebody has connected and lets the program go on."""
    debugger().set_trace(frame or sys._getframe(1))


def wait_for_signal(*, here: bool) -> None:
    """Have SIGUSR2 stop this process's main thread as ``set_trace`` does (Celery's CELERY_RDBSIG).

    Not ``here``: its main thread keeps the worker alive, and the log says which processes can be stopped. In
    another thread than the main one nothing is changed: Python allows it no handlers.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        if here:
            set_trace(frame)
        else:
            logger.warning("SIGUSR2: tasks run in the worker's child processes: send it to one of them")

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR2, stop)
