"""``emq-compat worker --http``: ``/live``, ``/ready`` and ``/metrics`` of a worker."""

from __future__ import annotations

import logging
from http import HTTPStatus

from emq_compat.jobmanager import JobManager
from emq_compat.manager import health
from emq_compat.monitor import exposition
from emq_compat.monitor.address import HttpAddress
from emq_compat.monitor.asking import Asker, LoopStuck
from emq_compat.monitor.checks import told
from emq_compat.monitor.figures import Figures
from emq_compat.monitor.serving import HttpThread, Response
from emq_compat.monitor.worker_figures import WORKER_FAMILIES, WorkerCounts, memory_of

__all__ = ["WorkerMonitor"]

logger = logging.getLogger(__name__)


class WorkerMonitor:
    """Serves from ``start`` on, which is after the pool has forked: its zygotes must have no thread.

    Args:
        written: what ``--http`` says.

    Raises:
        ConfigurationError: it is no address.
    """

    def __init__(self, written: str) -> None:
        self._address = HttpAddress.parse(written)
        self._http: HttpThread | None = None

    def start(self, manager: JobManager) -> HttpAddress:
        """Count and serve from now on; returns where.

        Raises:
            ConfigurationError: it can't listen at the address.
        """
        self._manager = manager
        self._counts = WorkerCounts(manager)
        self._asker = Asker(manager.call_soon)
        routes = {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics}
        self._http = HttpThread(self._address, routes)
        self._http.start()
        logger.info("health and metrics: http://%s/live, /ready, /metrics", self._http.address)
        return self._http.address

    def stop(self) -> None:
        """Serve no more."""
        if self._http is not None:
            self._http.stop()

    async def _live(self) -> Response:
        return told({"loop": await self._asker.stuck()}, role="worker", node=self._manager.name)

    async def _ready(self) -> Response:
        try:
            checks = {"loop": "", **await self._asker.ask(self._checks)}
        except LoopStuck as exc:
            checks = {"loop": str(exc)}
        return told(checks, role="worker", node=self._manager.name)

    def _checks(self) -> dict[str, str]:
        return health.checks(self._manager)

    async def _metrics(self) -> Response:
        try:
            kind = exposition.kind_of_text()
            figures, children = await self._asker.ask(self._look)
        except ImportError:
            return Response(status=HTTPStatus.NOT_IMPLEMENTED, body=exposition.MISSING.encode())
        except LoopStuck as exc:
            return Response(status=HTTPStatus.SERVICE_UNAVAILABLE, body=f"{exc}\n".encode())
        all_figures: Figures = {
            **figures,
            "emq_worker_children_resident_memory_bytes": {(): memory_of(children)},
        }
        return Response(body=exposition.exposed(WORKER_FAMILIES, all_figures), kind=kind)

    def _look(self) -> tuple[Figures, list[int]]:
        return self._counts.figures(), self._counts.children()
