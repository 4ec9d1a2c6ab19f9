"""``emq-compat broker --http``: ``/live``, ``/ready`` and ``/metrics`` of a broker."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from emq_compat.broker.folder import JOURNAL, REDO
from emq_compat.broker.server import Server
from emq_compat.monitor import exposition
from emq_compat.monitor.address import HttpAddress
from emq_compat.monitor.asking import Asker, LoopStuck
from emq_compat.monitor.broker_figures import BROKER_FAMILIES, BrokerCounts
from emq_compat.monitor.checks import told
from emq_compat.monitor.serving import HttpThread, Response

__all__ = ["BrokerMonitor", "monitored"]

logger = logging.getLogger(__name__)


class BrokerMonitor:
    """Serves from the start on; before the broker is there it tells that this is to come.

    Raises:
        ConfigurationError: it can't listen at the address.
    """

    def __init__(self, address: HttpAddress) -> None:
        routes = {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics}
        self.http = HttpThread(address, routes)
        self._asker: Asker | None = None
        self._server: Server | None = None
        self._counts: BrokerCounts | None = None

    def watch(self, server: Server) -> None:
        """Tell of this broker, whose loop is about to begin."""
        self._server = server
        self._counts = BrokerCounts(server)
        self._asker = Asker(server.call_soon)

    async def _live(self) -> Response:
        # One that is still reading its journal is not to be started anew for it.
        why = "" if self._asker is None else await self._asker.stuck()
        return told({"loop": why}, role="broker")

    async def _ready(self) -> Response:
        if self._asker is None or self._server is None:
            return told({"started": "the journal is being opened"}, role="broker")
        try:
            journal = await self._asker.ask(self._journal)
        except LoopStuck as exc:
            return told({"started": "", "loop": str(exc)}, role="broker")
        return told({"started": "", "loop": "", "journal": journal}, role="broker")

    def _journal(self) -> str:
        return self._server.trouble if self._server is not None else ""

    async def _metrics(self) -> Response:
        if self._asker is None or self._counts is None or self._server is None:
            return Response(status=HTTPStatus.SERVICE_UNAVAILABLE, body=b"the broker is starting\n")
        try:
            kind = exposition.kind_of_text()
            figures = dict(await self._asker.ask(self._counts.figures))
        except ImportError:
            return Response(status=HTTPStatus.NOT_IMPLEMENTED, body=exposition.MISSING.encode())
        except LoopStuck as exc:
            return Response(status=HTTPStatus.SERVICE_UNAVAILABLE, body=f"{exc}\n".encode())
        figures["emq_broker_journal_bytes"] = _journal_bytes(self._server.store.path)
        return Response(body=exposition.exposed(BROKER_FAMILIES, figures), kind=kind)


def _journal_bytes(journal: Path | None) -> dict[tuple[str, ...], float]:
    if journal is None:
        return {}
    files = {"database": journal, "wal": Path(f"{journal}-wal"), "redo": journal.with_name(REDO)}
    assert journal.name == JOURNAL
    sizes: dict[tuple[str, ...], float] = {}
    for name, file in files.items():
        with contextlib.suppress(OSError):
            sizes[(name,)] = float(file.stat().st_size)
    return sizes


@contextlib.contextmanager
def monitored(written: str) -> Iterator[Callable[[Server], None]]:
    """Serve at the address that ``--http`` names within the block; gives what is to be told of the broker.

    Raises:
        ConfigurationError: it is no address, or can't be listened at.
    """
    monitor = BrokerMonitor(HttpAddress.parse(written))
    monitor.http.start()
    logger.info("health and metrics: http://%s/live, /ready, /metrics", monitor.http.address)
    try:
        yield monitor.watch
    finally:
        monitor.http.stop()
