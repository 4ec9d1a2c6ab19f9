"""A beat that answers ``ping`` and ``health``, so that who watches over it can tell whether it goes on."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emq_compat.errors import OperationalError
from emq_compat.shim.beat.scheduler import DEFAULT_MAX_INTERVAL, logger

if TYPE_CHECKING:
    from emq_compat.shim.beat.service import Service

__all__ = ["Answering", "AnsweringOverKombu"]

#: How often the thread looks whether it is to end; how long it waits for a broker that is away; in seconds.
_LOOK_S = 0.5
_AWAY_S = 1.0
#: A beat isn't called stuck sooner than this, however short its loop is.
_LEAST_AGE_S = 60.0


class Answering(threading.Thread):
    """Answers under a node name, in a thread; no ``ping`` once the loop hasn't moved for too long.

    That is beat_remote_control_max_tick_age, by default two of the scheduler's longest sleeps and at least a
    minute; 0: never.
    """

    def __init__(self, service: Service, node: str) -> None:
        super().__init__(name="BeatAnswering", daemon=True)
        self._service = service
        self.node = node
        self._over = threading.Event()

    @property
    def max_age_s(self) -> float:
        """How long the loop may stand still, in seconds."""
        given = self._service.app.conf.beat_remote_control_max_tick_age
        if given is not None:
            return float(given)
        longest_s = self._service.effective_max_interval or DEFAULT_MAX_INTERVAL
        return max(2 * longest_s, _LEAST_AGE_S)

    def is_stuck(self) -> bool:
        """Return whether the loop has stood still for too long."""
        return 0 < self.max_age_s < time.monotonic() - self._service.watch.turned_at

    def run(self) -> None:
        client: Any = self._service.app.client
        ping, health = (f"ask.{verb}.{self.node}" for verb in ("ping", "health"))
        subscription = client.subscribe([ping, health])
        try:
            while not self._over.is_set():
                try:
                    asked = subscription.take(time.monotonic() + _LOOK_S)
                    if asked is not None:
                        told = "pong" if asked.topic == ping else self._service.watch.checks()
                        self._answer(client, json.loads(asked.payload)["asked"], told)
                except OperationalError as exc:
                    logger.debug("beat: no question can be answered: %s", exc)
                    self._over.wait(_AWAY_S)
        finally:
            subscription.close()

    def _answer(self, client: Any, asked: str, told: str | dict[str, str]) -> None:
        if told == "pong" and self.is_stuck():
            logger.warning("beat: a ping is not answered: the loop has not moved for %g s", self.max_age_s)
        else:
            client.ask("answer", asked=asked, node=self.node, ok=told)

    def stop(self) -> None:
        """End it, soon."""
        self._over.set()


class AnsweringOverKombu(Answering):
    """The same on RabbitMQ, Redis and the like: a node in kombu's pidbox that knows ``ping`` alone."""

    def __init__(self, service: Service, node: str) -> None:
        super().__init__(service, node)
        from emq_compat.shim.remote_kombu import control_settings  # noqa: PLC0415 - kombu is heavy

        self._mailbox = control_settings(service.app.conf).mailbox()

    def run(self) -> None:
        from emq_compat.shim.over_kombu import connection_of  # noqa: PLC0415 - kombu is heavy

        node = self._mailbox.Node(self.node, handlers={"ping": lambda state, **arguments: {"ok": "pong"}})
        while not self._over.is_set():
            try:
                with connection_of(self._service.app) as connection:
                    node.channel = connection.channel()
                    node.listen(callback=lambda body, message: self._hear(node, body, message))
                    while not self._over.is_set():
                        with suppress(TimeoutError):
                            connection.drain_events(timeout=_LOOK_S)
            except Exception as exc:  # noqa: BLE001 - each of kombu's transports has errors of its own
                logger.debug("beat: no question can be answered: %r", exc)
                self._over.wait(_AWAY_S)

    def _hear(self, node: Any, body: Any, message: Any) -> None:
        if not isinstance(body, dict) or body.get("method") != "ping":
            return
        if self.is_stuck():
            logger.warning("beat: a ping is not answered: the loop has not moved for %g s", self.max_age_s)
        else:
            node.handle_message(body, message)
