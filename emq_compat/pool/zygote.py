"""The zygote: a process that forks every child, because its parent no longer may.

Forked from the parent before any thread, socket or ZeroMQ context exists there. It knows no task: it waits
for orders on one socket, forks, reaps, and kills the process group of a child that ended without being told
to. One spare twin waits beside it and takes over when it is killed.

When the parent is gone without a QUIT, it kills whatever descends from it, including what left its process
group.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import struct
import sys
import warnings
from collections.abc import Container
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from emq_compat.pool.channel import receive_with_fds
from emq_compat.pool.child import ORDERLY_EXIT, ChildFds, ChildProgram, name_process, run_child

__all__ = [
    "EXITED",
    "FAILED",
    "FORK",
    "FORKED",
    "MESSAGE",
    "QUIT",
    "TWIN",
    "become_subreaper",
    "exit_text",
    "fork",
    "kill_group_and_reap",
    "reap_strays",
    "run_zygote",
]

# Orders and answers: one message each, (kind, number, value) with descriptors beside it.
FORK, TWIN, QUIT, FORKED, EXITED, FAILED = range(6)
MESSAGE = struct.Struct("<BIi")

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_SWEEPS = 1000
_MAX_FDS = 3


def become_subreaper(wanted: bool = True) -> bool:
    """Make this process the one that orphans below it fall to, or no longer (Linux).

    Returns:
        Whether it was.
    """
    if sys.platform != "linux":
        return False
    libc, was = ctypes.CDLL(None), ctypes.c_int()
    libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
    return bool(was.value)


def exit_text(status: int) -> str:
    """Tell people a wait status."""
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        try:
            return f"killed by {signal.Signals(signum).name}"
        except ValueError:
            return f"killed by signal {signum}"
    return f"exited with status {os.waitstatus_to_exitcode(status)}"


def kill_group_and_reap(pid: int) -> int:
    """End the group of a child that has ended unless it left in order, reap it, and return its wait status.

    The group goes first: until its leader is reaped, its number can't name anybody else's.

    Raises:
        ChildProcessError: it isn't this process's child.
    """
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    orderly = ended is not None and ended.si_code == os.CLD_EXITED and ended.si_status == ORDERLY_EXIT
    if not orderly:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def reap_strays(known: Container[int]) -> None:
    """Reap children of this process that are of a pool, have ended and aren't ``known``.

    A zygote that is killed right after a fork couldn't tell of it: that child finds its channels closed and
    leaves, and falls to this process.
    """
    for pid in _own_children():
        with contextlib.suppress(OSError):
            if pid not in known and Path(f"/proc/{pid}/comm").read_text().startswith("emq-"):
                os.waitpid(pid, os.WNOHANG)


def run_zygote(program: ChildProgram, orders: socket.socket, death_fd: int) -> NoReturn:
    """Be the zygote in this freshly forked process until the parent is gone or says QUIT; never returns."""
    status = 1
    try:
        gc.disable()  # what there was is frozen: see nursery.py
        dispositions = _ignore_signals()
        _Zygote(program, orders, death_fd, dispositions).run()
        status = 0
    except BaseException as exc:  # noqa: BLE001 - nothing may run on in a copy of the parent
        sys.excepthook(type(exc), exc, exc.__traceback__)
    finally:
        os._exit(status)


class _Zygote:
    def __init__(
        self, program: ChildProgram, orders: socket.socket, death_fd: int, dispositions: dict[int, Any]
    ) -> None:
        self._program = program
        self._death_fd = death_fd
        self._dispositions = dispositions
        self._live_in_this_process(orders)

    def _live_in_this_process(self, orders: socket.socket) -> None:
        self._orders = orders
        orders.settimeout(None)
        become_subreaper()
        name_process("emq-zygote")
        self._wakeup, self._wakeup_write = os.pipe()
        for fd in (self._wakeup, self._wakeup_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, _do_nothing)
        signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)

    def run(self) -> None:
        """Carry out orders until there's nobody to give any."""
        poller = select.poll()
        poller.register(self._orders, select.POLLIN)
        poller.register(self._wakeup, select.POLLIN)
        self._reap()
        while True:
            for fd, _ in poller.poll():
                if fd == self._wakeup:
                    with contextlib.suppress(BlockingIOError):
                        while os.read(self._wakeup, 512):
                            pass
                    self._reap()
                    continue
                data, fds = receive_with_fds(self._orders, MESSAGE.size, _MAX_FDS)
                if not data:
                    _sweep()
                    return
                kind, number, _ = MESSAGE.unpack(data)
                if kind == QUIT:
                    self._reap()
                    return
                if kind == FORK:
                    self._fork_child(number, fds)
                elif self._fork_twin(number, fds):
                    # The twin: other descriptors, the same loop.
                    return self.run()

    def _fork_child(self, number: int, fds: list[int]) -> None:
        try:
            pid = fork()
        except OSError as exc:
            self._answer(FAILED, number, exc.errno or 0)
            return
        if pid == 0:
            self._close_own()
            signal.set_wakeup_fd(-1)
            work, reply, dump = fds
            run_child(
                self._program,
                ChildFds(work=work, reply=reply, dump=dump, death=self._death_fd),
                number,
                self._dispositions,
            )
        with contextlib.suppress(OSError):  # both sides do it: neither may depend on the other's pace
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        self._answer_born(number, pid)

    def _fork_twin(self, number: int, fds: list[int]) -> bool:
        """Return True in the twin."""
        try:
            pid = fork()
        except OSError as exc:
            os.close(fds[0])
            self._answer(FAILED, number, exc.errno or 0)
            return False
        if pid == 0:
            self._close_own()
            self._live_in_this_process(socket.socket(fileno=fds[0]))
            return True
        os.close(fds[0])
        self._answer_born(number, pid)
        return False

    def _close_own(self) -> None:
        signal.set_wakeup_fd(-1)
        self._orders.close()
        os.close(self._wakeup)
        os.close(self._wakeup_write)

    def _answer_born(self, number: int, pid: int) -> None:
        # Opened here, where the pid can't be reaped in between.
        pidfd = os.pidfd_open(pid)
        try:
            socket.send_fds(self._orders, [MESSAGE.pack(FORKED, number, pid)], [pidfd])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the next look at the orders sees the end
        finally:
            os.close(pidfd)

    def _answer(self, kind: int, number: int, value: int) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._orders.send(MESSAGE.pack(kind, number, value))

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                return
            if ended is None:
                return
            status = kill_group_and_reap(ended.si_pid)
            self._answer(EXITED, ended.si_pid, status)


def fork() -> int:
    """Fork without Python 3.12's warning.

    It counts the system's threads, and numpy alone has some; those that matter were counted before.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _do_nothing(signum: int, frame: FrameType | None) -> None:
    pass


def _ignore_signals() -> dict[int, Any]:
    """Ignore every signal that can be; return what a child puts back."""
    before: dict[int, Any] = {}
    for signum in signal.valid_signals():
        if signum in (signal.SIGKILL, signal.SIGSTOP):
            continue
        if signal.getsignal(signum) is not signal.SIG_IGN:
            # The parent's own handlers aren't a child's.
            before[int(signum)] = signal.SIG_DFL
        if signum != signal.SIGCHLD:
            signal.signal(signum, signal.SIG_IGN)
    return before


def _sweep() -> None:
    """Kill all descendants. As the subreaper this process inherits those whose own parent dies, so it ends
    with none.
    """
    for _ in range(_SWEEPS):
        for pid in _own_children():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _own_children() -> list[int]:
    pid = os.getpid()
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # the kernel was built without that file
        return [child for child in _all_pids() if _parent_of(child) == pid]


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
