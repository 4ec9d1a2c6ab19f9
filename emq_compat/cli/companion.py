"""A command of ours that another one starts beside itself, in a process and session of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from emq_compat.cli.background import for_companion

__all__ = ["LEASH", "Companion"]

_ENDS_S = 10.0

#: Starts a program (argv: our pid, then its command line) that is sent TERM when this process is killed:
#: PR_SET_PDEATHSIG (1) lasts over the exec.
LEASH = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Companion:
    """``emq-compat`` with these arguments; what it writes goes where this process writes, or to its log."""

    def __init__(self, argv: Sequence[str], log: Path | None) -> None:
        self._argv = argv
        self._log = log
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def start(self) -> None:
        """Start it. Called before this process has sockets."""
        python = sys.executable
        with for_companion(self._log) as options:
            self._popen = subprocess.Popen(  # noqa: S603 - our own command
                [python, "-c", LEASH, str(os.getpid()), python, "-m", "emq_compat", *self._argv],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                **options,
            )

    def ended_with(self) -> int | None:
        """Return its exit status; None: it runs."""
        assert self._popen is not None
        return self._popen.poll()

    def fileno(self) -> int:
        """Return a descriptor that is readable once it has ended; -1 where the system has none."""
        if self._pidfd < 0 and self._popen is not None and hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self._popen.pid)
        return self._pidfd

    def stop(self) -> None:
        """End it, by force if it takes too long."""
        if self._popen is not None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(_ENDS_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
