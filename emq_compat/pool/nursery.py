"""Where a prefork pool's children come from: forked by the zygote, or spawned as new interpreters.

Both are asked for a child by number and later tell, as events, which process it became and how it ended. The
pool itself finds out *that* a child ended by its pidfd.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from emq_compat.errors import ConfigurationError
from emq_compat.pool import channel, zygote
from emq_compat.pool.base import PoolOptions, Work
from emq_compat.pool.child import ChildProgram
from emq_compat.readable import readable

__all__ = ["Born", "Ended", "Nursery", "NurseryEvent", "NurseryLost", "Unborn", "has_ended", "make_nursery"]

_logger = logging.getLogger(__name__)

#: Number of the order for a spare zygote; children count from 1.
_SPARE = 0
#: So many spares in a row that end sooner than this are replaced at once, further ones with the next child:
#: whatever ends them (a handler of the project's after forks, say) may end them all.
_SPARE_LIVES_S = 1.0
_SHORT_LIVED_SPARES = 3
_SPAWN_START_MIN_S = 60.0
# A program of its own, and not ``-m``: sys.path comes first, because this package may be found by it only.
_SPAWNED = """
import json, sys
given = json.loads(sys.argv[1])
sys.argv[1:] = []
sys.path[:] = given.pop("sys_path")
from emq_compat.pool.child import run_spawned
run_spawned(given)
"""
_THREAD_NAMED_S = 0.02
_NO_FDS = "out of file descriptors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Born:
    """Child ``number`` is the process ``pid``; ``pidfd`` now belongs to the receiver."""

    number: int
    pid: int
    pidfd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unborn:
    """Child ``number`` will not come; ``at_once``: there's no reason to wait before asking again."""

    number: int
    detail: str
    at_once: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The process ended with this wait status."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NurseryLost:
    """No further children can be had."""

    detail: str


NurseryEvent: TypeAlias = Born | Unborn | Ended | NurseryLost


class Nursery(ABC):
    """Makes children. Every method is called from the pool's thread."""

    #: How many times a zygote was lost; children of a lost zygote are the parent's to reap.
    takeovers = 0

    def __init__(self, work: Work, options: PoolOptions, death_fd: int) -> None:
        self._work = work
        self._options = options
        self._death_fd = death_fd
        self._poll = select.epoll()

    def fileno(self) -> int:
        """Return the descriptor whose readability calls for ``read``."""
        return self._poll.fileno()

    @property
    def start_timeout_s(self) -> float:
        """How long a child may take until it is ready."""
        return self._options.start_timeout_s

    @abstractmethod
    def start(self) -> None:
        """Get ready to make children."""

    @abstractmethod
    def request(self, number: int, work: int, reply: int, dump: int) -> None:
        """Ask for a child with these descriptors (its ends; the caller closes its own copies afterwards)."""

    @abstractmethod
    def read(self) -> list[NurseryEvent]:
        """Return what happened; never blocks."""

    @abstractmethod
    def suspect(self) -> None:
        """A child that was asked for didn't come in time."""

    def stop(self, timeout_s: float) -> None:
        """End the nursery; all children are gone already."""
        self._poll.close()

    def abandon(self) -> None:
        """In a forked copy of the parent: close what is the parent's."""
        self._poll.close()


def make_nursery(work: Work, options: PoolOptions, death_fd: int) -> Nursery:
    """Return the nursery that ``options.start_method`` and the state of this process call for.

    Raises:
        ConfigurationError: children would have to be spawned, and there's no way to make the work again.
    """
    unsafe = _why_no_fork()
    method = options.start_method or ("spawn" if unsafe else "zygote")
    if method == "zygote":
        if unsafe:
            _logger.warning("forking although %s: a lock held by it now would block every child", unsafe)
        return ZygoteNursery(work, options, death_fd)
    if options.rebuild is None:
        because = f"because {unsafe}" if options.start_method is None else "as configured"
        raise ConfigurationError(
            f"children would be spawned {because}, but this program can't be made again in a new process: "
            "give an app by name (-A), start the pool before any thread, or use the threads or solo pool"
        )
    if options.start_method is None:
        _logger.warning(
            "children are spawned instead of forked because %s: what worker_init made is absent in them, "
            "and each takes as long to start as the app takes to import",
            unsafe,
        )
    return SpawnNursery(work, options, death_fd)


def _why_no_fork() -> str | None:
    """Return why a fork of this process would be unsafe or impossible; None: it's safe."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return f"there is no zygote on {sys.platform}"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        return f"threads are running in this process ({', '.join(others[:5])})"
    if _has_zmq_threads():
        return "a ZeroMQ context is open in this process"
    return None


def _has_zmq_threads() -> bool:
    if "zmq" not in sys.modules:
        return False
    own = Path("/proc/self/comm").read_text()
    deadline = time.monotonic() + _THREAD_NAMED_S
    while True:
        names = []
        for comm in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):
                names.append(comm.read_text())
        if any(name.startswith("ZMQbg") for name in names):
            return True
        # One that has just begun has no name of its own yet; those of numpy never get one.
        if names.count(own) == 1 or time.monotonic() > deadline:
            return False
        time.sleep(_THREAD_NAMED_S / 20)


@dataclass(slots=True, kw_only=True)
class _ZygoteProcess:
    pid: int
    pidfd: int
    orders: socket.socket

    def close(self) -> None:
        self.orders.close()
        os.close(self.pidfd)


class ZygoteNursery(Nursery):
    """Children forked by a zygote, which has a spare."""

    def __init__(self, work: Work, options: PoolOptions, death_fd: int) -> None:
        super().__init__(work, options, death_fd)
        self._active: _ZygoteProcess | None = None
        self._spare: _ZygoteProcess | None = None
        self._spare_orders: socket.socket | None = None  # of one that was asked for
        self._spare_since = 0.0  # monotonic
        self._short_lived = 0  # spares in a row
        self._unreaped: set[int] = set()  # spares that have ended and are the zygote's to reap
        self._requested: set[int] = set()
        self._events: list[NurseryEvent] = []
        self._was_subreaper = False

    def start(self) -> None:
        """Fork the zygote, which at once forks its spare."""
        options = self._options
        program = ChildProgram(
            work=self._work,
            child_init=options.child_init,
            child_exit=options.child_exit,
            soft_limit_exceeded=options.soft_limit_exceeded,
            max_memory_kb=options.max_memory_per_child_kb,
        )
        self._was_subreaper = zygote.become_subreaper()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()  # or each child would write it once more
        ours, theirs = _orders_pair()
        # A collection touches what it looks at: here before the fork, and never again here or in children, so
        # that they go on sharing it.
        gc.collect()
        gc.freeze()
        pid = zygote.fork()
        if pid == 0:
            ours.close()
            zygote.run_zygote(program, theirs, self._death_fd)
        theirs.close()
        self._active = _ZygoteProcess(pid=pid, pidfd=os.pidfd_open(pid), orders=ours)
        self._poll.register(self._active.pidfd, select.EPOLLIN)
        self._poll.register(self._active.orders, select.EPOLLIN)
        self._request_spare()

    def request(self, number: int, work: int, reply: int, dump: int) -> None:
        """Order a fork."""
        if self._active is None:
            self._events.append(Unborn(number=number, detail="no zygote is left"))
            return
        if self._spare is None and self._spare_orders is None:
            self._request_spare()  # the last one could not be forked
        self._requested.add(number)
        # A dead zygote is told by its pidfd, and then all that was asked of it is Unborn.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(
                self._active.orders, [zygote.MESSAGE.pack(zygote.FORK, number, 0)], [work, reply, dump]
            )

    def _request_spare(self) -> None:
        assert self._active is not None
        ours, theirs = _orders_pair()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(
                self._active.orders, [zygote.MESSAGE.pack(zygote.TWIN, _SPARE, 0)], [theirs.fileno()]
            )
        theirs.close()
        self._spare_orders = ours

    def read(self) -> list[NurseryEvent]:
        """Read the zygote's answers; see whether one of the two has died."""
        self._read_answers()
        if self._spare is not None and has_ended(self._spare.pidfd):
            lived_s = time.monotonic() - self._spare_since
            self._short_lived = self._short_lived + 1 if lived_s < _SPARE_LIVES_S else 0
            at_once = self._short_lived <= _SHORT_LIVED_SPARES
            when = "" if at_once else " with the next child"
            pid = self._spare.pid
            _logger.warning("the spare zygote (pid %d) is gone; another one is forked%s", pid, when)
            self._poll.unregister(self._spare.pidfd)
            self._drop(self._spare)
            self._spare = None
            if at_once and self._active is not None and not has_ended(self._active.pidfd):
                self._request_spare()
        if self._active is not None and has_ended(self._active.pidfd):
            self._take_over(self._active)
        events, self._events = self._events, []
        return events

    def _take_over(self, lost: _ZygoteProcess) -> None:
        self._read_answers()  # its last words
        # Before their numbers are used again.
        self._poll.unregister(lost.pidfd)
        self._poll.unregister(lost.orders)
        self._drop(lost)
        for pid in self._unreaped:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._unreaped.clear()
        self.takeovers += 1
        self._active, self._spare = self._spare, None
        if self._spare_orders is not None:  # asked of the one that's gone
            self._spare_orders.close()
            self._spare_orders = None
        for number in sorted(self._requested):
            self._events.append(Unborn(number=number, detail="the zygote is gone", at_once=True))
        self._requested.clear()
        if self._active is None:
            self._events.append(
                NurseryLost(detail=f"the zygote (pid {lost.pid}) is gone, and so is its spare")
            )
            return
        self._poll.register(self._active.orders, select.EPOLLIN)
        _logger.warning(
            "the zygote (pid %d) is gone; its spare (pid %d) takes over", lost.pid, self._active.pid
        )
        self._request_spare()

    def _drop(self, lost: _ZygoteProcess) -> None:
        try:
            os.waitid(os.P_PIDFD, lost.pidfd, os.WEXITED)
        except ChildProcessError:
            self._unreaped.add(lost.pid)
        lost.close()

    def _read_answers(self) -> None:
        while self._active is not None:
            try:
                data, fds = channel.receive_with_fds(self._active.orders, zygote.MESSAGE.size, 1)
            except BlockingIOError:
                return
            if not data:
                return
            kind, number, value = zygote.MESSAGE.unpack(data)
            if kind == zygote.EXITED:
                self._unreaped.discard(number)
                self._events.append(Ended(pid=number, status=value))
            elif number == _SPARE:
                self._meet_spare(kind, value, fds)
            elif number not in self._requested:
                for fd in fds:
                    os.close(fd)
            else:
                self._requested.discard(number)
                if kind == zygote.FORKED and not fds:
                    # Its channels are closed now, so it leaves.
                    self._events.append(Unborn(number=number, detail=_NO_FDS))
                elif kind == zygote.FORKED:
                    self._events.append(Born(number=number, pid=value, pidfd=fds[0]))
                else:
                    self._events.append(Unborn(number=number, detail=f"fork: {os.strerror(value)}"))

    def _meet_spare(self, kind: int, value: int, fds: list[int]) -> None:
        orders, self._spare_orders = self._spare_orders, None
        assert orders is not None
        if kind == zygote.FORKED and fds:
            self._spare = _ZygoteProcess(pid=value, pidfd=fds[0], orders=orders)
            self._spare_since = time.monotonic()
            self._poll.register(self._spare.pidfd, select.EPOLLIN)
        else:
            _logger.error("no spare zygote: %s", os.strerror(value) if kind == zygote.FAILED else _NO_FDS)
            orders.close()

    def suspect(self) -> None:
        """End a zygote that doesn't answer, if its spare can take over."""
        if self._active is not None and self._spare is not None and self._requested:
            _logger.warning("the zygote (pid %d) doesn't answer and is killed", self._active.pid)
            signal.pidfd_send_signal(self._active.pidfd, signal.SIGKILL)

    def stop(self, timeout_s: float) -> None:
        """Tell both to leave, and see that they do."""
        self._read_answers()
        for event in self._events:
            if isinstance(event, Born):
                os.close(event.pidfd)
        processes = [process for process in (self._active, self._spare) if process is not None]
        for process in processes:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, BlockingIOError):
                process.orders.send(zygote.MESSAGE.pack(zygote.QUIT, 0, 0))
        self._active = self._spare = None
        if self._spare_orders is not None:
            self._spare_orders.close()
            self._spare_orders = None
        for process in processes:
            if not has_ended(process.pidfd, timeout_s):
                signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
                has_ended(process.pidfd, timeout_s)
            self._drop(process)
        # This process may go on without a pool, and would not reap what fell to it.
        zygote.become_subreaper(self._was_subreaper)
        super().stop(timeout_s)

    def abandon(self) -> None:
        """In a forked copy of the parent: close the sockets and pidfds."""
        for process in (self._active, self._spare):
            if process is not None:
                process.close()
        if self._spare_orders is not None:
            self._spare_orders.close()
        self._active = self._spare = self._spare_orders = None
        super().abandon()


class SpawnNursery(Nursery):
    """Children that are new interpreters, which import what the parent imported."""

    def __init__(self, work: Work, options: PoolOptions, death_fd: int) -> None:
        super().__init__(work, options, death_fd)
        self._events: list[NurseryEvent] = []

    @property
    def start_timeout_s(self) -> float:
        """How long a child may take until it is ready; importing an app takes its time."""
        return max(self._options.start_timeout_s, _SPAWN_START_MIN_S)

    def start(self) -> None:
        """Nothing to prepare."""
        if not hasattr(os, "pidfd_open"):
            raise ConfigurationError(
                f"the prefork pool needs Linux, not {sys.platform}: use the threads or solo pool"
            )

    def request(self, number: int, work: int, reply: int, dump: int) -> None:
        """Start an interpreter."""
        options = self._options
        soft = options.soft_limit_exceeded
        given = {
            "number": number,
            "sys_path": sys.path,
            "rebuild": options.rebuild,
            "soft_limit_exceeded": f"{soft.__module__}:{soft.__qualname__}",
            "max_memory_kb": options.max_memory_per_child_kb,
            "fds": {"work": work, "reply": reply, "dump": dump, "death": self._death_fd},
        }
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _SPAWNED, json.dumps(given)],
                pass_fds=(work, reply, dump, self._death_fd),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # which is also a process group of its own
            )
        except OSError as exc:
            self._events.append(Unborn(number=number, detail=str(exc)))
            return
        pidfd = os.pidfd_open(process.pid)
        process.returncode = 0  # the pool reaps it, by its pidfd; Popen must not
        self._events.append(Born(number=number, pid=process.pid, pidfd=pidfd))

    def read(self) -> list[NurseryEvent]:
        """Return what ``request`` did."""
        events, self._events = self._events, []
        return events

    def suspect(self) -> None:
        """Nobody to suspect."""

def _orders_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def has_ended(pidfd: int, timeout_s: float = 0.0) -> bool:
    """Whether the process of this pidfd has ended, or does within that time."""
    return readable(pidfd, timeout_s)
