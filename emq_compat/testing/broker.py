"""The broker of ``memory://`` in tests: what one test leaves in it, the next doesn't meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from emq_compat.address import Address
from emq_compat.broker import inprocess
from emq_compat.client import client_for

__all__ = ["memory_broker"]

#: How many blocks around each broker are open.
_depth: dict[str, int] = {}


@contextmanager
def memory_broker(url: str = "memory://") -> Iterator[None]:
    """Have a broker of this process for a block: at its end all that it holds is forgotten.

    Blocks may stand inside one another, as fixtures of a test inside those of its session do: the end of an
    inner one drops what waits then, and leaves the broker, its results and its workers there. Nothing is
    started before somebody connects.

    Raises:
        AddressError: ``url`` isn't ``memory://NAME``.
    """
    [address] = Address.parse(url)
    folder = address.host
    _depth[folder] = _depth.get(folder, 0) + 1
    try:
        yield
    finally:
        _depth[folder] -= 1
        if not _depth[folder]:
            del _depth[folder]
            client_for(url).close()
            inprocess.end(folder)
        elif inprocess.running(folder) is not None:
            _drop_what_waits(url)


def _drop_what_waits(url: str) -> None:
    client = client_for(url)
    for queue in client.ask("queues"):
        if queue["waiting"] or queue["delayed"] or queue["held"]:
            client.ask("purge", queue=queue["name"])
