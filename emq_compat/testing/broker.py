"""The broker of ``memory://`` in tests: what one test leaves in it, the next doesn't meet."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from emq_compat.address import Address
from emq_compat.broker import inprocess
from emq_compat.client import client_for
from emq_compat.errors import AddressError, OperationalError

__all__ = ["MemoryBroker", "keep_real_time", "memory_broker"]

#: How many blocks around each broker are open.
_depth: dict[str, int] = {}


class MemoryBroker:
    """The broker of ``memory://`` in this process; it is started when it is first needed.

    Args:
        url: ``memory://NAME``.

    Raises:
        AddressError: it isn't.
    """

    def __init__(self, url: str = "memory://") -> None:
        [address] = Address.parse(url)
        if not address.in_process:
            raise AddressError(f"{url} is no broker in this process: write memory://")
        self.url = url
        self._folder = address.host

    def advance(self, seconds: float) -> None:
        """Put the broker's clock ahead: what has its ETA, a retry or an expiry by then is due now.

        It stays ahead until the broker ends. With 0 the broker looks at its clock again, for a test that has
        put the process's forward.

        Raises:
            OperationalError: the broker is that of the process this one was forked from.
        """
        inprocess.begin(self._folder)
        broker = inprocess.running(self._folder)
        if broker is None:
            raise OperationalError(f"{self.url} is another process's broker: only there its clock can be set")
        broker.server.advance(seconds)

    def purge(self) -> None:
        """Drop all that waits in it; results stay."""
        client = client_for(self.url)
        for queue in client.ask("queues"):
            client.ask("purge", queue=queue["name"])

    def end(self) -> None:
        """End it: all that it holds is forgotten. Whoever connects next starts a new one."""
        client_for(self.url).close()
        inprocess.end(self._folder)

    def __repr__(self) -> str:
        return f"MemoryBroker({self.url!r})"


def keep_real_time() -> None:
    """Have freezegun, if it is in use, leave emq-compat's clocks alone.

    It stops the monotonic one, too, by which timeouts end and workers are known to live: everything would
    hang, or be taken for lost.
    """
    freezegun = sys.modules.get("freezegun")
    if freezegun is not None and "emq_compat" not in freezegun.config.settings.default_ignore_list:
        freezegun.configure(extend_ignore_list=["emq_compat"])


@contextmanager
def memory_broker(url: str = "memory://") -> Iterator[MemoryBroker]:
    """Have a broker of this process for a block: at its end all that it holds is forgotten.

    Blocks may stand inside one another, as fixtures of a test inside those of its session do: the end of an
    inner one drops what waits then, and leaves the broker, its results and its workers there. Nothing is
    started before somebody connects.

    Raises:
        AddressError: ``url`` isn't ``memory://NAME``.
    """
    keep_real_time()
    broker = MemoryBroker(url)
    folder = broker._folder
    _depth[folder] = _depth.get(folder, 0) + 1
    try:
        yield broker
    finally:
        _depth[folder] -= 1
        if not _depth[folder]:
            del _depth[folder]
            broker.end()
        elif inprocess.running(folder) is not None:
            broker.purge()
