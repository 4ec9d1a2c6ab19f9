"""A pipe by which one thread wakes another one that polls."""

from __future__ import annotations

import os

__all__ = ["Pipe"]


class Pipe:
    """``wake`` makes ``fileno()`` readable until ``drain``; one that is awake is not woken again.

    There is no pipe before ``open``: what is forked before doesn't get it.
    """

    def __init__(self) -> None:
        self._read = self._write = -1
        self._awake = True

    def open(self) -> None:
        """Make the pipe; it is awake at first, as something may have been said before."""
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._awake = False
        self.wake()

    def fileno(self) -> int:
        """Return the descriptor to poll for reading."""
        return self._read

    def wake(self) -> None:
        """Wake the other side; does nothing once it is closed."""
        if self._awake:
            return
        self._awake = True
        try:
            os.write(self._write, b"\0")
        except OSError:
            pass

    def drain(self) -> None:
        """Be asleep again: call it before looking at what was said."""
        if not self._awake or self._read < 0:
            return
        try:
            os.read(self._read, 4096)
        except OSError:
            pass
        self._awake = False

    def close(self) -> None:
        """Close both ends."""
        self._awake = True
        for fd in (self._read, self._write):
            if fd >= 0:
                os.close(fd)
        self._read = self._write = -1
