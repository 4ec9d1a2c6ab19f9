"""A child of the prefork pool: receives one assignment, runs it, writes its reply, and again.

It leaves when the parent closes the work channel. With start method ``spawn`` it is a new interpreter, which
makes the work again by importing, and gets its channels as inherited descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import gc
import importlib
import itertools
import os
import random
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from emq_compat.coroutines.base import running_in
from emq_compat.coroutines.settle import close_loop, keep_loop
from emq_compat.memory import LARGE_BYTES, hold_freed, resident_kb, trim
from emq_compat.message import Reply
from emq_compat.pool import channel
from emq_compat.pool.base import Work
from emq_compat.pool.own_time import OwnTime

__all__ = ["ORDERLY_EXIT", "ChildFds", "ChildProgram", "name_process", "run_child", "run_spawned"]

#: The exit status of a child that leaves because it was told to. Any other end, ``os._exit(0)`` in a task
#: included, is a loss, after which whoever reaps it kills its process group.
ORDERLY_EXIT = 88

#: What a terminal or a service manager sends to whole groups: never meant for a child.
GROUP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
SOFT_LIMIT_SIGNAL = signal.SIGUSR1
#: Not USR2, where there is another: that one may open a debugger (celery.contrib.rdb, CELERY_RDBSIG).
DUMP_SIGNAL: int = signal.SIGRTMIN + 6 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
#: Follows a group signal that was meant to end what runs: where no handler of the task's own took that one,
#: the child ends at once.
END_SIGNAL = getattr(signal, "SIGRTMAX", 64) - 1
#: What runs is to be told of its soft limit now, whether it has one or not.
SOFTEN_SIGNAL = getattr(signal, "SIGRTMAX", 64) - 2

_PR_SET_NAME = 15
_OOM_SCORE_RAISE = 200
#: How long after a large message memory is given back.
_LIGHTEN_AFTER_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildProgram:
    """What a child runs; the fields are those of PoolOptions."""

    work: Work
    child_init: Callable[[], None] | None = None
    child_exit: Callable[[], None] | None = None
    soft_limit_exceeded: type[BaseException] = TimeoutError
    max_memory_kb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFds:
    """A child's descriptors: its ends of the channels, the death pipe's read end, where stack dumps go."""

    work: int
    reply: int
    dump: int
    death: int


def run_child(program: ChildProgram, fds: ChildFds, number: int, dispositions: Mapping[int, Any]) -> NoReturn:
    """Live a child's life in this fresh process, and end the process.

    ``dispositions`` are signal dispositions to put back (a zygote ignores nearly all).
    """
    status = 1
    try:
        child = _Child(program, fds)
        child.prepare(number, dispositions)
        child.serve()
        child.leave()
        status = ORDERLY_EXIT
    except BaseException as exc:  # noqa: BLE001 - nothing may run on in a copy of the parent
        if not isinstance(
            exc, (BrokenPipeError, ConnectionResetError)
        ):  # the parent is gone, or gave this child up
            sys.excepthook(type(exc), exc, exc.__traceback__)
    finally:
        _flush()
        os._exit(status)


class _Child:
    def __init__(self, program: ChildProgram, fds: ChildFds) -> None:
        self._program = program
        self._fds = fds
        self._pid = os.getpid()
        self._work = socket.socket(fileno=fds.work)
        self._reply = socket.socket(fileno=fds.reply)
        for sock in (self._work, self._reply):
            sock.settimeout(None)
            sock.set_inheritable(False)  # a spawned child got them by inheritance
        os.set_inheritable(fds.dump, False)
        self._sequence = 0
        self._soft_at: float | None = None  # monotonic time of the running assignment's soft limit
        self._soft_raised = False
        self._writing = False
        self._soft_deferred = False
        self._masks = threading.local()
        self._passed_over: int | None = None  # the group signal that came last, and that no task handled

    def prepare(self, number: int, dispositions: Mapping[int, Any]) -> None:
        """Make this process one that can be killed, found and signalled; then run ``child_init`` and say
        READY.
        """
        with contextlib.suppress(OSError):  # the leader of a session already leads its group
            os.setpgid(0, 0)
        _die_with(self._fds.death)
        for signum, disposition in dispositions.items():
            signal.signal(signum, disposition)
        for signum in GROUP_SIGNALS:
            # Not ignored: an ignored signal stays ignored in what a task executes.
            signal.signal(signum, self._pass_over)
            signal.siginterrupt(signum, False)
        signal.signal(SOFT_LIMIT_SIGNAL, self._on_soft_limit)
        signal.signal(SOFTEN_SIGNAL, self._on_soften)
        signal.signal(END_SIGNAL, self._on_end)
        os.set_blocking(self._fds.dump, False)
        faulthandler.register(DUMP_SIGNAL, file=self._fds.dump, all_threads=True, chain=False)
        os.register_at_fork(
            before=self._before_a_task_forks,
            after_in_parent=self._after_a_task_forked,
            after_in_child=self._in_what_a_task_forks,
        )
        _read_no_terminal()
        name_process(f"emq-child-{number}")
        _be_taken_first_when_memory_runs_out()
        _forget_the_parents_processes()
        _reseed()
        gc.enable()
        keep_loop()
        if self._program.child_init is not None:
            self._program.child_init()
        self._reply.sendall(channel.encode_ready(self._pid))

    def serve(self) -> None:
        """Run assignments until the parent closes the channel."""
        receive, work_socket, send = channel.receive_work, self._work, self._reply.sendall
        decode, encode, run = channel.decode_work, channel.encode_finished, self._run_one
        max_memory_kb = self._program.max_memory_kb
        own_time = OwnTime()
        large = False
        while True:
            if large:
                large = not self._lightened()
            if (message := receive(work_socket)) is None:
                return
            started = time.monotonic()
            own_time.begin(started)
            self._sequence, soft_limit_s, delivery = decode(*message)
            self._soft_at = None if soft_limit_s is None else started + soft_limit_s
            self._soft_raised = False
            self._passed_over = None
            result = run(delivery)
            self._soft_at = None
            if self._pid != os.getpid():  # a task forked, and its copy returned from the task
                os._exit(1)
            large = large or len(delivery.payload) > LARGE_BYTES
            if isinstance(result, Reply):
                large = large or len(result.body) > LARGE_BYTES
                retires = max_memory_kb is not None and self._exceeds(max_memory_kb, large)
                send(encode(self._sequence, result, own_time.took(time.monotonic()), retires=retires))
            else:
                retires = result.retires
                send(channel.encode_escape(self._sequence, result))
            if retires:
                self._wait_until_closed()
                return
            del message, delivery, result
            if large:
                hold_freed()

    def _lightened(self) -> bool:
        """Give back to the system what large messages took; False: not now, as more work comes soon."""
        poller = select.poll()
        poller.register(self._work, select.POLLIN)
        if poller.poll(_LIGHTEN_AFTER_MS):
            return False
        trim()
        return True

    def _exceeds(self, max_memory_kb: int, large: bool) -> bool:
        """Tell whether more than this is in use; ``large``: some of it may only be held."""
        if large and resident_kb() > max_memory_kb:
            trim()
        return resident_kb() > max_memory_kb

    def _wait_until_closed(self) -> None:
        # What waits in the channel is for another child: the parent takes it back, and then closes.
        poller = select.poll()
        poller.register(self._work, 0)  # only hang-up: messages stay where they are
        poller.poll()

    def _run_one(self, delivery: Any) -> Reply | channel.Escape:
        try:
            return copy_context().run(self._program.work, delivery, self._report)
        except BaseException as exc:  # noqa: BLE001 - user code: whatever it raises, the child goes on
            # Read by the handler: the limit must not be raised once more while this is told.
            self._soft_at = None
            return channel.Escape(
                detail=_repr(exc),
                soft_limit=self._soft_raised and isinstance(exc, self._program.soft_limit_exceeded),
                retires=isinstance(exc, SystemExit),
            )

    def _report(self, state: str, body: bytes) -> None:
        self._writing = True
        try:
            self._reply.sendall(channel.encode_update(self._sequence, state, body))
        finally:
            self._writing = False
        if self._soft_deferred:
            self._soft_deferred = False
            self._raise_soft_limit()

    def _on_soft_limit(self, signum: int, frame: FrameType | None) -> None:
        # The parent sends the signal again until the assignment ends, so one that comes too early, or in the
        # narrow frames around the work where an exception would cost a result, may be passed over.
        if self._soft_at is None or time.monotonic() < self._soft_at:
            return
        if frame is None or frame.f_code in _AROUND_THE_WORK or os.getpid() != self._pid:
            return
        run = running_in(threading.get_ident())
        if run is not None and run.interrupt_here(self._program.soft_limit_exceeded, frame):
            self._soft_at = None
            self._soft_raised = True
            return
        if self._writing:
            self._soft_deferred = True
            return
        self._raise_soft_limit()

    def _on_soften(self, signum: int, frame: FrameType | None) -> None:
        inner = frame
        while inner is not None and inner.f_code is not _Child._run_one.__code__:
            inner = inner.f_back
        if inner is not None:  # else it has ended just now
            self._soft_at = 0.0
            self._on_soft_limit(signum, frame)

    def _raise_soft_limit(self) -> None:
        if self._soft_at is not None:
            self._soft_at = None
            self._soft_raised = True
            raise self._program.soft_limit_exceeded()

    def _pass_over(self, signum: int, frame: FrameType | None) -> None:
        self._passed_over = signum

    def _on_end(self, signum: int, frame: FrameType | None) -> None:
        told = self._passed_over
        if told is not None and signal.getsignal(told) == self._pass_over and os.getpid() == self._pid:
            os.kill(self._pid, signal.SIGKILL)

    def _before_a_task_forks(self) -> None:
        # A signal sent to the new process at once waits until its dispositions are the default ones.
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)

    def _after_a_task_forked(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _in_what_a_task_forks(self) -> None:
        ours = (self._pass_over, self._on_soft_limit, self._on_soften, self._on_end)
        for signum in (*GROUP_SIGNALS, SOFT_LIMIT_SIGNAL, SOFTEN_SIGNAL, END_SIGNAL):
            if signal.getsignal(signum) in ours:
                signal.signal(signum, signal.SIG_DFL)
        self._work.close()
        self._reply.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def leave(self) -> None:
        """The orderly end: user code's, then multiprocessing's. No finaliser of the parent's runs here."""
        if self._program.child_exit is not None:
            self._program.child_exit()
        close_loop()
        _flush()
        if "multiprocessing.util" in sys.modules:
            sys.modules["multiprocessing.util"]._exit_function()


_AROUND_THE_WORK = frozenset({_Child.serve.__code__, _Child._run_one.__code__})


def name_process(name: str) -> None:
    """Name this process for logs, ``ps`` and ``top``: by setproctitle where it's installed, else by the
    kernel's 15 bytes.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().name = name
    try:
        from setproctitle import setproctitle  # noqa: PLC0415 - an optional extra
    except ImportError:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    else:
        setproctitle(name)


def _read_no_terminal() -> None:
    # A process of another group that reads from the terminal would be stopped by it.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null != 0:
        os.close(null)


def _die_with(death_fd: int) -> None:
    """Have the kernel kill this process group as soon as the death pipe's last writer, the parent, is gone.

    The signal belongs to an open file, not to a descriptor: hence a description of its own.
    """
    if sys.platform != "linux":
        threading.Thread(target=_wait_and_die, args=(death_fd,), daemon=True, name="emq-death").start()
        return
    own = os.open(f"/proc/self/fd/{death_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.close(death_fd)
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    poller = select.poll()
    poller.register(own, select.POLLIN)
    if poller.poll(0):
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _wait_and_die(death_fd: int) -> None:
    os.read(death_fd, 1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _be_taken_first_when_memory_runs_out() -> None:
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            raised = min(1000, int(file.read()) + _OOM_SCORE_RAISE)
            file.seek(0)
            file.write(str(raised))
    except (OSError, ValueError):
        pass  # no /proc: the kernel chooses


def _forget_the_parents_processes() -> None:
    """Drop what multiprocessing inherited: the parent's children and finalisers are not this process's to
    end.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process._process_counter = itertools.count(1)
        process._children = set()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        util._run_after_forkers()


def _reseed() -> None:
    random.seed()
    numpy_random: Any = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _repr(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception:  # noqa: BLE001 - user code
        return f"{type(exc).__name__} (its repr failed)"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or a full disk: no reason to stay
            stream.flush()


def load(name: str) -> Any:
    """Import ``module:qualified.name``."""
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found


def run_spawned(given: Mapping[str, Any]) -> NoReturn:
    """Be a spawned child; ``given`` is what the nursery tells it: JSON, nothing pickled."""
    path, args = given["rebuild"]
    rebuilt = load(path)(*args)
    program = ChildProgram(
        work=rebuilt.work,
        child_init=rebuilt.child_init,
        child_exit=rebuilt.child_exit,
        soft_limit_exceeded=load(given["soft_limit_exceeded"]),
        max_memory_kb=given["max_memory_kb"],
    )
    run_child(program, ChildFds(**given["fds"]), given["number"], {})
