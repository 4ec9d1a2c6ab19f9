"""Real processes for tests: started in a session of their own, watched by event, and gone at the end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

READY_TIMEOUT_S = 20.0
END_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.01
TAIL_LINES = 60
MARK = "EMQ_TEST_PROCS"


def open_pipes() -> set[str]:
    """The pipes that this process has open, by the kernel's names."""
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found.add(os.readlink(fd))
    return {name for name in found if name.startswith("pipe:")}


def wait_until(
    predicate: Callable[[], T],
    timeout_s: float = 10.0,
    *,
    what: str | None = None,
    interval_s: float = POLL_INTERVAL_S,
) -> T:
    """Ask `predicate` until it answers with a true value, and return that value.

    :raises TimeoutError: naming `what`, after `timeout_s` seconds without one.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            named = what or getattr(predicate, "__name__", repr(predicate))
            raise TimeoutError(f"not within {timeout_s:g} s: {named} (last answer: {answer!r})")
        time.sleep(interval_s)


@contextmanager
def procs_in(folder: Path) -> Iterator[Procs]:
    """Processes that a module's tests share: ended with the block, and the ends of their logs are printed."""
    (logs := folder / "procs").mkdir()
    procs = Procs(logs)
    try:
        yield procs
    finally:
        try:
            procs.close()
        finally:
            print(procs.report())


def unused_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago and lies below the range of automatic ports.

    Outgoing connections take their ports from the automatic range, so that one handed out from there could
    be taken between this call and the bind of the process that is told of it.
    """
    low = _first_automatic_port()
    for _ in range(1000):
        port = _next_port(low)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port on 127.0.0.1")


def _first_automatic_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32768


_ports_given = 0
_SLICES = 32


def _next_port(low: int) -> int:
    # Each process of tests has a slice of its own and walks it from where its pid says, so that what one was
    # given and hasn't bound yet, or binds again once its process has come back, isn't given to another.
    global _ports_given
    first, last = 10240, max(low - 1, 20000)
    size = (last - first) // _SLICES
    _ports_given += 1
    return first + _slice() * size + (os.getpid() * 97 + _ports_given) % size


@cache
def _slice() -> int:
    """A number that no other process of tests has, whichever run it is of, as long as this one lives."""
    for number in range(_SLICES):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0emq-test-ports-{number}")
        except OSError:
            claim.close()
        else:
            claim.detach()  # it is closed by the end of this process
            return number
    return os.getpid() % _SLICES


class Proc:
    """One started process, with its output in a file.

    Made by :meth:`Procs.start`; `pid` is also its process group and its session.
    """

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.popen = popen
        self.log = log

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def is_broker(self) -> bool:
        """Whether others among those started may be connected to it."""
        return any(server in self.name for server in ("broker", "redis"))

    @property
    def returncode(self) -> int | None:
        return self.popen.poll()

    def alive(self) -> bool:
        return self.popen.poll() is None

    def output(self) -> str:
        """All that it has written so far, standard output and error together."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = TAIL_LINES) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def wait_line(self, text: str, timeout_s: float = READY_TIMEOUT_S, *, count: int = 1) -> None:
        """Wait until `text` stands `count` times in the output.

        :raises AssertionError: with the output's tail, when the process ends or the time passes first.
        """
        self.wait_for(lambda: self.output().count(text) >= count, timeout_s, what=f"{text!r} in the output")

    def wait_for(
        self, predicate: Callable[[], T], timeout_s: float = READY_TIMEOUT_S, *, what: str | None = None
    ) -> T:
        """Wait until `predicate` is true; fail early, with the output's tail, when the process ends first."""

        def answer_or_ended() -> T | bool:
            ended = not self.alive()  # asked first: what it wrote before its end still counts
            return predicate() or ended

        named = what or "its readiness"
        try:
            wait_until(answer_or_ended, timeout_s, what=named)
        except TimeoutError as error:
            raise AssertionError(f"{self.name}: {error}\n{self.tail()}") from None
        answer = predicate()
        if not answer:
            raise AssertionError(f"{self.name} ended with {self.returncode} before {named}\n{self.tail()}")
        return answer

    def wait(self, timeout_s: float = READY_TIMEOUT_S) -> int:
        """Its exit status, once it has ended by itself (negative: the signal)."""
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout_s:g} s\n{self.tail()}") from None

    def send_signal(self, signum: int) -> None:
        """Send a signal to this process alone."""
        self.popen.send_signal(signum)

    def send_signal_to_group(self, signum: int) -> None:
        """Send a signal to its whole process group, as a terminal or a service manager would."""
        os.killpg(self.pid, signum)

    def children(self) -> list[psutil.Process]:
        """All living descendants, however deep."""
        try:
            return [child for child in psutil.Process(self.pid).children(recursive=True) if _lives(child)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> int:
        """SIGKILL to this process alone, as an out-of-memory killer would; returns its exit status."""
        self.popen.kill()
        return self.popen.wait(READY_TIMEOUT_S)

    def stop(self, timeout_s: float = READY_TIMEOUT_S, signum: int = signal.SIGTERM) -> int:
        """Ask it to end and wait for that; returns its exit status.

        :raises AssertionError: when it does not end in time. The `procs` fixture kills it then.
        """
        if self.alive():
            self.send_signal(signum)
        return self.wait(timeout_s)


class Procs:
    """All processes of one test.

    Every process started here carries a mark in its environment, which its descendants inherit, and leads a
    session: that is how those that were reparented are still found at the end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Proc] = []
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._careless: set[int] = set()

    def start(
        self,
        *argv: str | os.PathLike[str],
        name: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        ready: str | Callable[[], object] | None = None,
        timeout_s: float = READY_TIMEOUT_S,
        stdin: bytes | None = None,
        may_orphan: bool = False,
    ) -> Proc:
        """Start `argv` in a session of its own, and wait until it is ready.

        :param env: additions to this process's environment.
        :param ready: a piece of text in its output, or a predicate; without it nothing is waited for.
        :param stdin: what it reads; nothing by default.
        :param may_orphan: it is known to leave children behind: they are ended without a complaint.
        """
        name = f"{len(self.started)}-{name or Path(argv[0]).name}"
        log = self.folder / f"{name}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                _with_http([os.fspath(part) for part in argv]),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    **(env or {}),
                    MARK: f"{self._mark}/{len(self.started)}",
                },
                start_new_session=True,
            )
        proc = Proc(name, popen, log)
        self.started.append(proc)
        if may_orphan:
            self._careless.add(proc.pid)
        if stdin is not None:
            assert popen.stdin is not None
            popen.stdin.write(stdin)
            popen.stdin.close()
        if isinstance(ready, str):
            proc.wait_line(ready, timeout_s)
        elif ready is not None:
            proc.wait_for(ready, timeout_s)
        return proc

    def python(self, *argv: str | os.PathLike[str], **options: object) -> Proc:
        """Start this interpreter with `argv`; the options are those of :meth:`start`."""
        return self.start(sys.executable, *argv, **options)  # type: ignore[arg-type]

    def emq(self, *argv: str, **options: object) -> Proc:
        """Start the `emq-compat` command with `argv`; the options are those of :meth:`start`."""
        options.setdefault("name", f"emq-compat-{argv[0]}" if argv else "emq-compat")
        return self.start(Path(sys.executable).with_name("emq-compat"), *argv, **options)  # type: ignore[arg-type]

    def leftovers(self) -> list[psutil.Process]:
        """Living processes that descend from those that were started, except these themselves."""
        own = {proc.pid for proc in self.started}
        return [process for process in self._family(self.started) if process.pid not in own]

    def assert_none_left(self, timeout_s: float = 5.0) -> None:
        """Wait until no descendant of the started processes lives, but for those that `may_orphan` allows.

        :raises AssertionError: naming those that do.
        """
        careful = [proc for proc in self.started if proc.pid not in self._careless]
        own = {proc.pid for proc in self.started}

        def leftovers() -> list[psutil.Process]:
            return [process for process in self._family(careful) if process.pid not in own]

        try:
            wait_until(lambda: not leftovers(), timeout_s, what="no process left over")
        except TimeoutError:
            raise AssertionError(f"left over: {_described(leftovers())}") from None

    def assert_none_left_of(self, proc: Proc, timeout_s: float = 5.0) -> None:
        """Wait until no descendant of an ended process lives.

        :raises AssertionError: naming those that do.
        """

        def leftovers() -> list[psutil.Process]:
            return [process for process in self._family([proc]) if process.pid != proc.pid]

        try:
            wait_until(lambda: not leftovers(), timeout_s, what="no process left over")
        except TimeoutError:
            raise AssertionError(f"{proc.name} left over: {_described(leftovers())}") from None

    def close(self) -> None:
        """End everything, brokers last: TERM and a while, then KILL, by pid.

        A worker whose broker is away as it ends waits for it, to give back what it has not begun.

        :raises AssertionError: naming the processes that outlived the ones they descend from.
        """
        for proc in self.started:
            if proc.alive():
                proc.send_signal(signal.SIGCONT)
        _end([proc for proc in self.started if not proc.is_broker])
        _end([proc for proc in self.started if proc.is_broker])
        try:
            self.assert_none_left()
        finally:
            for process in self._family(self.started):
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue

    def report(self) -> str:
        """The ends of all logs, for a failed test's report."""
        return "\n".join(
            f"--- {proc.name} (pid {proc.pid}, {_state(proc)})\n{proc.tail()}" for proc in self.started
        )

    def _family(self, procs: Sequence[Proc]) -> list[psutil.Process]:
        marks = {f"{self._mark}/{self.started.index(proc)}" for proc in procs}
        sessions = {proc.pid for proc in procs}
        found = []
        for process in psutil.process_iter():
            try:
                related = os.getsid(process.pid) in sessions or process.environ().get(MARK) in marks
                if related and _lives(process):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied, OSError, ValueError):
                continue
        return found


def _end(procs: Sequence[Proc]) -> None:
    for proc in procs:
        if proc.alive():
            proc.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + END_TIMEOUT_S
    for proc in procs:
        try:
            proc.popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            proc.popen.kill()
            proc.popen.wait()


#: What ``emq-compat broker`` does beside running one.
_BESIDE = {"--backup", "--check", "--salvage", "--help", "-h"}


def _with_http(argv: list[str]) -> list[str]:
    """Have brokers, workers and beats serve health and metrics, if EMQ_TEST_HTTP=1 wants it."""
    if os.environ.get("EMQ_TEST_HTTP") != "1" or "--http" in argv or not _BESIDE.isdisjoint(argv):
        return argv
    ours = Path(argv[0]).name == "emq-compat" or argv[1:3] == ["-m", "emq_compat"]
    command = next((word for word in argv if word in ("broker", "worker", "beat")), None)
    if not ours or command is None:
        return argv
    after = argv.index(command) + 1
    return [*argv[:after], "--http", "127.0.0.1:0", *argv[after:]]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _state(proc: Proc) -> str:
    return "running" if proc.alive() else f"ended with {proc.returncode}"


def _described(processes: Sequence[psutil.Process]) -> str:
    lines = []
    for process in processes:
        try:
            lines.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.NoSuchProcess:
            continue
    return "; ".join(lines)
