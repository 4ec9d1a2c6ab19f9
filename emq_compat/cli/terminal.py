"""Programs side by side in one terminal: each line of their output with the program's name."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from emq_compat.cli.companion import LEASH
from emq_compat.cli.context import CLIContext

__all__ = ["Program", "Terminal"]

_COLOURS = ("cyan", "green", "magenta", "yellow")


class Program:
    """One started program, in a session of its own: Ctrl-C is the terminal's alone to act upon."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self.asked_to_end = 0
        self._popen = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", LEASH, str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**env, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        assert self._popen.stdout is not None
        self.fd = self._popen.stdout.fileno()
        os.set_blocking(self.fd, False)
        self._rest = b""

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._popen.poll()

    def lines(self) -> list[bytes]:
        """Return the lines written since the last call; after its end, the unfinished one, too."""
        found = self._rest
        while True:
            try:
                part = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            found += part
        *lines, self._rest = found.split(b"\n")
        if self._rest and self.status is not None:
            lines.append(self._rest)
            self._rest = b""
        return lines

    def end(self) -> None:
        """Ask it to end; the second time, to end now."""
        self.asked_to_end += 1
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it with its whole process group."""
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Close its output."""
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def _signal(self, signum: int) -> None:
        if self.status is None:
            self._popen.send_signal(signum)


class Terminal:
    """Starts programs, shows what they write, and tells of what happens.

    ``turn`` waits for something; INT, TERM and HUP are only counted, in ``interrupts``. Use it as a context
    manager: it puts the signals' handlers back, and kills what still runs.

    Args:
        context: how to print.
    """

    def __init__(self, context: CLIContext) -> None:
        self._context = context
        self.interrupts = 0
        self.programs: dict[str, Program] = {}
        self._selector = selectors.DefaultSelector()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._read, selectors.EVENT_READ)
        self._before: dict[int, Any] = {}
        self._fd_before = -1
        self._colours: dict[str, str] = {}

    def __enter__(self) -> Terminal:
        self._fd_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for signum, handler in (
            (signal.SIGINT, self._interrupted),
            (signal.SIGTERM, self._interrupted),
            (signal.SIGHUP, self._interrupted),
            (signal.SIGCHLD, _noticed),
        ):
            self._before[signum] = signal.signal(signum, handler)
        return self

    def __exit__(self, *exc: object) -> None:
        for program in list(self.programs.values()):
            program.kill()
            self._take_leave(program)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._selector.close()
        os.close(self._read)
        os.close(self._write)

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Program:
        """Start a program; ``name`` stands before each of its lines."""
        program = self.programs[name] = Program(name, argv, env)
        self._selector.register(program.fd, selectors.EVENT_READ, program)
        return program

    def wake(self) -> None:
        """Make ``turn`` return; for other threads."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is awake already

    def turn(self, timeout_s: float | None) -> list[Program]:
        """Wait, show what was written, and return the programs that have ended."""
        for key, _ in self._selector.select(timeout_s):
            if key.data is None:
                self._drain()
            else:
                self._show(key.data)
        ended = [program for program in self.programs.values() if program.status is not None]
        for program in ended:
            self._take_leave(program)
        return ended

    def turn_until(self, done: Callable[[], bool], timeout_s: float, interval_s: float) -> bool:
        """Take turns until ``done()``, an interrupt, a program's end or the time's; return ``done()``."""
        deadline = time.monotonic() + timeout_s
        while not done():
            if self.turn(interval_s) or self.interrupts or time.monotonic() >= deadline:
                return done()
        return True

    def say(self, text: str) -> None:
        """Show a line of our own."""
        self._context.secho(f"dev    | {text}", bold=True)

    def _show(self, program: Program) -> None:
        lines = program.lines()
        colour = self._colours.setdefault(program.name, _COLOURS[len(self._colours) % len(_COLOURS)])
        for line in lines:
            name = self._context.style(program.name.ljust(6) + " | ", fg=colour)
            self._context.echo(name + line.decode("utf-8", "replace"))

    def _take_leave(self, program: Program) -> None:
        while program.status is None:
            time.sleep(0.01)
        self._show(program)
        self._selector.unregister(program.fd)
        program.close()
        del self.programs[program.name]

    def _drain(self) -> None:
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        self.interrupts += 1
        self.wake()


def _noticed(signum: int, frame: FrameType | None) -> None:
    """A child has ended: the byte that the handler's presence causes wakes the terminal."""
