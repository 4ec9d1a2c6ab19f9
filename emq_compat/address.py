"""Where a broker is: ``emq://host:47291``, ``emq+ipc://FOLDER``, or a stock router's ``tcp://host:port``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Address"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One broker's address.

    Attributes:
        host: its name or IP address (IPv6 without brackets); the folder for ``emq+ipc://``.
        client_endpoint, worker_endpoint, admin_endpoint: ZeroMQ endpoints to connect to.
        stock: it is a stock eventmq 0.3.13 router: no confirm, no results, only stock headers.
        keys_dir: folder of CURVE keys; None: no encryption.
        is_loopback: reachable from this machine only (127.0.0.0/8, ::1, localhost, ipc).
    """

    host: str
    client_endpoint: str
    worker_endpoint: str
    admin_endpoint: str
    stock: bool = False
    keys_dir: Path | None = None
    is_loopback: bool = False

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str] | None = None) -> tuple[Address, ...]:
        """Read a URL, or several separated by ``;`` (failover, in this order); ``environ``: os.environ."""
        raise NotImplementedError
