"""``--http ADDR``: where health and metrics are served, and asked for."""

from __future__ import annotations

from typing import NamedTuple

from emq_compat.errors import ConfigurationError

__all__ = ["HttpAddress"]


class HttpAddress(NamedTuple):
    """A host (a name or an IP address) and a port; port 0: one that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, written: str) -> HttpAddress:
        """Read ``PORT`` (of this machine alone: 127.0.0.1), ``HOST:PORT`` or ``[IPV6]:PORT``.

        Raises:
            ConfigurationError: it is none of them.
        """
        host, _, port = written.strip().removeprefix("http://").rstrip("/").rpartition(":")
        if not (port.isascii() and port.isdigit()) or int(port) > 65535 or ("[" in host) != (":" in host):
            raise ConfigurationError(
                f"--http {written!r} is no address: write PORT (for this machine alone), HOST:PORT or "
                "[IPV6]:PORT"
            )
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
