"""A broker that a command starts beside itself: where it listens, its command line, its process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError, OperationalError

__all__ = ["LEASH", "OwnBroker", "broker_argv", "listens", "own_address"]

_STARTS_S = 20.0
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


def own_address(url: str, asked_by: str) -> Address:
    """Return the address at which a broker can be started here.

    Raises:
        ConfigurationError: it is another machine's, a stock router's, memory://, or more than one.
    """
    addresses = Address.parse(url)
    address = addresses[0]
    if len(addresses) > 1 or address.stock or address.in_process or not address.is_loopback:
        raise ConfigurationError(
            f"{asked_by} starts a broker on this machine, and {url} is none: give -b emq://127.0.0.1:47291"
        )
    return address


def broker_argv(address: Address, data: Path | None, loglevel: str) -> list[str]:
    """Return the arguments of ``emq-compat`` for a broker there; without ``data`` in memory."""
    argv = ["broker", "-l", loglevel, *(("--data", str(data)) if data is not None else ("--memory",))]
    if address.client_endpoint.startswith("ipc://"):
        return [*argv, "--ipc", address.host]
    endpoints = {
        "--frontend": address.client_endpoint,
        "--backend": address.worker_endpoint,
        "--admin": address.admin_endpoint,
    }
    for option, endpoint in endpoints.items():
        # ZeroMQ binds to addresses and interfaces, not to names.
        argv += [option, endpoint.replace("//localhost:", "//127.0.0.1:")]
    if address.keys_dir is not None:
        argv += ["--keys", str(address.keys_dir)]
    return argv


def listens(address: Address) -> bool:
    """Tell whether somebody listens at the clients' address."""
    kind, _, where = address.client_endpoint.partition("://")
    try:
        if kind == "ipc":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(where)
        else:
            host, _, port = where.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=0.5).close()
    except OSError:
        return False
    return True


class OwnBroker:
    """A broker in a process and session of its own; what it writes goes where this process writes."""

    def __init__(self, address: Address, argv: Sequence[str]) -> None:
        self._address = address
        self._argv = argv
        self._popen: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            OperationalError: it ended at once, or does not listen in time.
        """
        if listens(self._address):
            raise OperationalError(f"a broker listens at {self._address} already")
        self._popen = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", LEASH, str(os.getpid()), sys.executable, "-m", "emq_compat", *self._argv],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _STARTS_S
        while not listens(self._address):
            if self._popen.poll() is not None:
                raise OperationalError(f"the broker ended with {self._popen.returncode}")
            if time.monotonic() >= deadline:
                self.stop()
                raise OperationalError(f"the broker did not begin to listen at {self._address}")
            time.sleep(0.02)

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
