"""File descriptors: whether there are enough of them, and what the system holds for one.

ZeroMQ ends the process where it finds none when it starts its threads.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from contextlib import suppress

from emq_compat.errors import OperationalError

__all__ = ["held_bytes", "require_descriptors", "too_few"]

#: What a context's threads, a socket with its monitor and a connection take.
_NEEDED = 16


def too_few(exc: OSError) -> OperationalError:
    """Return the error that says that a connection finds no descriptors."""
    return OperationalError(
        f"too few file descriptors are left for a connection ({exc.strerror}): close some, or raise the "
        "limit (`ulimit -n`, LimitNOFILE= in systemd)"
    )


def require_descriptors() -> None:
    """Look whether there are as many as a first socket needs.

    Raises:
        OperationalError: there aren't.
    """
    taken: list[int] = []
    try:
        for _ in range(_NEEDED):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as exc:
        raise too_few(exc) from exc
    finally:
        for fd in taken:
            with suppress(OSError):
                os.close(fd)


def held_bytes(fd: int) -> int:
    """Return how much the system holds for a connection that the other side doesn't have; 0: nobody knows."""
    try:
        held = fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # no connection, or closed meanwhile
        return 0
    return int.from_bytes(held, sys.byteorder)
