"""``emq-compat beat --http``: ``/live``, ``/ready`` and ``/metrics`` of a beat.

A beat's loop sleeps most of the time, and can't be called: it notes when it turns (BeatWatch), and when it
will do so again. The broker is asked when somebody asks here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from emq_compat.address import is_kombu
from emq_compat.client import client_for
from emq_compat.monitor import exposition
from emq_compat.monitor.address import HttpAddress
from emq_compat.monitor.beat_figures import BEAT_FAMILIES, BeatCounts
from emq_compat.monitor.checks import told
from emq_compat.monitor.serving import HttpThread, Response
from emq_compat.shim.app import Celery
from emq_compat.shim.beat.watch import BeatWatch

__all__ = ["BeatMonitor", "question_for"]

logger = logging.getLogger(__name__)

#: How long the broker may take to answer: less than a probe usually waits.
ANSWERS_WITHIN_S: Final = 1.5
#: What it has answered, or not, counts so long: it isn't asked for each of many who ask here.
_ASKED_AGAIN_S: Final = 1.0


class BeatMonitor:
    """Serves from ``start`` on; before the schedule is read it tells that this is to come.

    Args:
        written: what ``--http`` says.
        node: the beat's name.
        watch: what is known of it.
        ask: asks its broker, and raises where that doesn't answer; None: it is one that answers nothing.

    Raises:
        ConfigurationError: it is no address, or can't be listened at.
    """

    def __init__(
        self, written: str, node: str, watch: BeatWatch, ask: Callable[[], object] | None
    ) -> None:
        self._node = node
        self._watch = watch
        self._counts = BeatCounts(watch)
        self._broker = None if ask is None else _Broker(ask)
        routes = {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics}
        self._http = HttpThread(HttpAddress.parse(written), routes)
        self.address = self._http.address

    def start(self) -> None:
        """Serve from now on."""
        self._http.start()

    def stop(self) -> None:
        """Serve no more."""
        self._http.stop()

    async def _live(self) -> Response:
        return told({"loop": self._watch.stuck()}, role="beat", node=self._node)

    async def _ready(self) -> Response:
        checks = self._watch.checks()
        if self._watch.started and self._broker is not None:
            checks["broker"] = await self._broker.trouble()
        return told(checks, role="beat", node=self._node, leads=self._watch.leads)

    async def _metrics(self) -> Response:
        answers = None if self._broker is None else not await self._broker.trouble()
        try:
            kind = exposition.kind_of_text()
            body = exposition.exposed(BEAT_FAMILIES, self._counts.figures(broker_answers=answers))
        except ImportError:
            return Response(status=HTTPStatus.NOT_IMPLEMENTED, body=exposition.MISSING.encode())
        return Response(body=body, kind=kind)


class _Broker:
    """Whether a broker answers; asked in a thread, from coroutines of one event loop."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._asked: asyncio.Future[str] | None = None
        self._asked_at = self._answered_at = 0.0

    async def trouble(self) -> str:
        """Return why it doesn't answer; empty: it does."""
        now = time.monotonic()
        answer = self._asked
        if answer is None or (answer.done() and now - self._answered_at > _ASKED_AGAIN_S):
            here = asyncio.get_running_loop()
            answer = self._asked = here.create_future()
            self._asked_at = now
            # A daemon: one that hangs in a connect holds up nobody's end.
            run = partial(self._run, here, answer)
            threading.Thread(target=run, name="BeatAsksBroker", daemon=True).start()
        try:
            return await asyncio.wait_for(asyncio.shield(answer), ANSWERS_WITHIN_S)
        except asyncio.TimeoutError:
            return f"it has not answered for {time.monotonic() - self._asked_at:.1f} s"

    def _run(self, home: asyncio.AbstractEventLoop, answer: asyncio.Future[str]) -> None:
        try:
            self._ask()
            why = ""
        except Exception as exc:  # noqa: BLE001 - each of kombu's transports has errors of its own
            why = str(exc) or repr(exc)
        self._answered_at = time.monotonic()
        try:
            home.call_soon_threadsafe(answer.set_result, why)
        except RuntimeError:  # the server has ended meanwhile
            logger.debug("the broker's answer came too late")


def question_for(app: Any) -> Callable[[], object] | None:
    """Return what asks the broker of an app, of the shim or a genuine one, as BeatMonitor wants it."""
    ours = isinstance(app, Celery)
    url = app.broker_url if ours else app.connection_for_write().as_uri(include_password=True)
    if is_kombu(url) or not (ours or url.startswith(("emq://", "emq+ipc://"))):
        return partial(_connect, app)
    client = app.client if ours else client_for(url)
    return None if client.stock else partial(client.ask, "stats", timeout_s=ANSWERS_WITHIN_S)


def _connect(app: Any) -> None:
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=ANSWERS_WITHIN_S)
