"""A kombu upstream that a test drives as a job manager would, and Celery's messages."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from kombu import Connection, Exchange, Producer, Queue

from emq_compat.ids import new_id
from emq_compat.message import SUCCESS, Delivery, Outcome, Reply
from emq_compat.upstream.base import Connected, Delivered, UpstreamEvent
from emq_compat.upstream.kombu import KombuUpstream
from emq_compat.upstream.kombu_tap import KombuSettings

DONE = Outcome(state=SUCCESS, value=1).encode()


class Bench:
    """One queue of a broker; upstreams that listen on it are made by ``upstream``."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.url = url
        self.queue = f"q-{new_id()}"
        self.late = {"late"}
        self.arguments: dict[str, Any] = {}
        self.exchange_type = "direct"
        self.settings = KombuSettings(
            url=url, queue=self._queue, acks_late=self.late.__contains__, **settings
        )
        self.made: list[Driven] = []

    def _queue(self, name: str) -> Queue:
        exchange = Exchange(name, type=self.exchange_type)
        return Queue(name, exchange, routing_key=name, queue_arguments=self.arguments or None)

    def upstream(self, name: str = "w1@here", **settings: Any) -> Driven:
        """Return a started upstream."""
        made = Driven(
            KombuUpstream(name=name, queues=((10, self.queue),), settings=replace(self.settings, **settings))
        )
        self.made.append(made)
        made.upstream.start()
        return made

    def connection(self) -> Connection:
        """Return a connection of the test's own."""
        return Connection(self.url, transport_options=dict(self.settings.transport_options))

    def publish(self, *ids: str, task: str = "late", body: Any = None, **headers: Any) -> None:
        """Publish task messages of protocol 2, as Celery does."""
        priority = headers.pop("priority", None)
        expires_s = headers.pop("expires_s", None)
        compression = headers.pop("compression", None)
        if expires_s is not None:
            due = datetime.now(timezone.utc) + timedelta(seconds=expires_s)
            headers["expires"] = due.isoformat()
        with self.connection() as connection:
            producer = Producer(connection.channel())
            for task_id in ids:
                producer.publish(
                    [[task_id], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
                    if body is None
                    else body,
                    exchange=self._queue(self.queue).exchange,
                    routing_key=self.queue,
                    declare=[self._queue(self.queue)],
                    serializer="json",
                    correlation_id=task_id,
                    priority=priority,
                    compression=compression,
                    expiration=expires_s,
                    headers={"task": task, "id": task_id, "lang": "py", "retries": 0, **headers},
                )

    def waiting(self) -> list[str]:
        """Take the ids of what waits in the queue off it."""
        ids = []
        with self.connection() as connection:
            channel = connection.channel()
            self._queue(self.queue)(channel).declare()
            while (message := channel.basic_get(self.queue)) is not None:
                made = channel.message_to_python(message)
                ids.append(made.headers["id"])
                made.ack()
        return ids

    def close(self) -> None:
        for driven in self.made:
            driven.stop()
        with self.connection() as connection:
            self._queue(self.queue)(connection.channel()).delete()


class Driven:
    """An upstream and what it told."""

    def __init__(self, upstream: KombuUpstream) -> None:
        self.upstream = upstream
        self.events: list[UpstreamEvent] = []
        self.deliveries: list[Delivery] = []
        self._stopped = False

    def turn(self, timeout_s: float = 0.1) -> None:
        """Take in what it tells."""
        select.select(list(self.upstream.fds()), [], [], timeout_s)
        for event in self.upstream.step(time.monotonic()):
            self.events.append(event)
            if isinstance(event, Delivered):
                self.deliveries.append(event.delivery)

    def until(self, condition: Callable[[], object], timeout_s: float = 10.0, what: str = "it") -> None:
        """Take turns until something holds."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {timeout_s:g} s for {what}: {self.events}")
            self.turn()

    def connected(self, times: int = 1) -> Driven:
        """Wait until it is connected; for the second time, the third …"""
        self.until(lambda: sum(isinstance(event, Connected) for event in self.events) >= times, 20.0)
        return self

    def again(self) -> Driven:
        """Wait for the next connection; Redis' client may have made one that nobody hears of."""
        return self if self.upstream.remembers else self.connected(times=2)

    def take(self, count: int = 1, timeout_s: float = 10.0) -> list[Delivery]:
        """Ask for so many and wait for them."""
        self.upstream.ready(count)
        return self.get(count, timeout_s)

    def get(self, count: int = 1, timeout_s: float = 10.0) -> list[Delivery]:
        """Wait for so many."""
        self.until(lambda: len(self.deliveries) >= count, timeout_s, f"{count} deliveries")
        taken, self.deliveries = self.deliveries[:count], self.deliveries[count:]
        return taken

    def quiet(self, for_s: float = 0.4) -> bool:
        """Return whether nothing is delivered for a while."""
        end = time.monotonic() + for_s
        while time.monotonic() < end and not self.deliveries:
            self.turn(0.05)
        return not self.deliveries

    def begin(self, delivery: Delivery) -> None:
        self.upstream.began([key(delivery)])

    def end(self, delivery: Delivery, reply: Reply = DONE) -> None:
        """Answer, and wait until that is settled."""
        self.upstream.began([key(delivery)])
        self.upstream.reply(key(delivery), reply)
        self.until(lambda: not self.upstream.unacknowledged(), 10.0, "the end of the reply")

    def stop(self, timeout_s: float = 10.0) -> None:
        if not self._stopped:
            self._stopped = True
            self.upstream.leave()
            self.upstream.stop(timeout_s)


def key(delivery: Delivery) -> tuple[str, int]:
    return delivery.msgid, delivery.attempt


def id_of(delivery: Delivery) -> str:
    """Return a delivery's task id."""
    return delivery.headers.task_id


def payload(delivery: Delivery) -> Any:
    """Return a delivery's payload."""
    return json.loads(delivery.payload)
