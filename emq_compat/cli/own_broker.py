"""A broker that a command starts beside itself: where it listens, its command line, its process."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from emq_compat.address import Address
from emq_compat.cli.companion import Companion
from emq_compat.errors import ConfigurationError, OperationalError

__all__ = ["OwnBroker", "broker_argv", "in_use", "listens", "own_address"]

_STARTS_S = 20.0


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


def in_use(address: Address) -> OperationalError:
    """Return what is raised where somebody listens already, and a broker is to be started."""
    return OperationalError(
        f"somebody listens at {address} already. If it is a broker, `emq-compat worker -A …` uses it; else "
        "start one at another port: -b emq://127.0.0.1:PORT"
    )


class OwnBroker(Companion):
    """A broker in a process and session of its own; see Companion."""

    def __init__(self, address: Address, argv: Sequence[str], log: Path | None) -> None:
        super().__init__(argv, log)
        self._address = address

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            OperationalError: it ended at once, or does not listen in time.
        """
        if listens(self._address):
            raise in_use(self._address)
        super().start()
        deadline = time.monotonic() + _STARTS_S
        while not listens(self._address):
            status = self.ended_with()
            if status is not None:
                raise OperationalError(f"the broker ended with {status}")
            if time.monotonic() >= deadline:
                self.stop()
                raise OperationalError(f"the broker did not begin to listen at {self._address}")
            time.sleep(0.02)
