"""A command on a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from pathlib import Path

from tests.processes import wait_until

__all__ = ["Screen"]

START_S = 30.0


class Screen:
    """A command line in a pseudo-terminal."""

    def __init__(self, *argv: str | Path, folder: Path, size: tuple[int, int] = (24, 80), **env: str) -> None:
        self.fd, terminal = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(terminal)
        self.process = subprocess.Popen(
            argv,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", **env},
            start_new_session=True,
        )
        self.terminal = terminal
        self.written = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def forget(self) -> None:
        self.read()
        self.written = ""

    def read(self) -> str:
        """Return all that was written, without what moves the cursor."""
        while select.select([self.fd], [], [], 0)[0]:
            self.written += os.read(self.fd, 1 << 16).decode()
        return re.sub(r"\x1b(\[[?\d;]*[a-zA-Z]|[()]B|[=>])", " ", self.written)

    @property
    def coloured(self) -> bool:
        """Whether anything was written in a colour."""
        return re.search(r"\x1b\[[\d;]*3[1-7]m", self.written) is not None

    def wait(self, text: str) -> None:
        """Wait until a text was written."""
        pattern = re.compile(r"\s+".join(map(re.escape, text.split())))
        try:
            wait_until(lambda: pattern.search(self.read()), START_S, what=text)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in:\n{self.read()}") from None

    def ended(self) -> int:
        """Return the exit status; the terminal is in order again."""
        # Read, too: what doesn't fit the terminal's buffer would hold it up.
        wait_until(lambda: self.read() is not None and self.process.poll() is not None, START_S)
        assert self.before == termios.tcgetattr(self.terminal)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)
        os.close(self.terminal)
