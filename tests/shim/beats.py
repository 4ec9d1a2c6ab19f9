"""Beats on a broker's engine in this process, by a clock that the test moves: no socket, no sleep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from emq_compat.broker.asks import Asks
from emq_compat.celery_shim import Celery
from emq_compat.errors import BrokerRefused, OperationalError
from emq_compat.message import Job, new_id
from emq_compat.protocol.commands import Answer, Ask
from emq_compat.shim.beat.persistent import PersistentScheduler
from tests.broker.bench import CLIENT, Bench


class BrokerHere:
    """A broker; what apps need of a client is answered by its engine."""

    stock = False

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.bench = Bench(folder, **options)
        self._serve()
        #: How many answers get lost, after the broker has done what it was asked.
        self.losing = 0
        self.down = False
        self.asked: list[str] = []

    def _serve(self) -> None:
        self._asks = Asks(self.bench.engine, lambda file, done: None, self.bench.now)

    def restart(self) -> None:
        self.bench.restart()
        self._serve()

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        if self.down:
            raise OperationalError("the broker is down")
        self.asked.append(verb)
        ask = Ask(msgid=new_id(), verb=verb, arguments=json.loads(json.dumps(arguments)))
        [answer] = [s.command for s in self.bench.turn((CLIENT, ask)) if isinstance(s.command, Answer)]  # type: ignore[union-attr]
        if self.losing and verb == "periodic_send":
            self.losing -= 1
            raise OperationalError("no answer")
        document = json.loads(answer.body)
        if "error" in document:
            raise BrokerRefused(f"{document['error']['type']}: {document['error']['message']}")
        return document["ok"]

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.bench.wall, timezone.utc)

    def set_clock(self, moment: datetime) -> None:
        """Put the clock there; no time passes."""
        self.bench.wall = moment.timestamp()

    def pass_time(self, seconds: float) -> None:
        self.bench.turn(passed_s=seconds)

    def sent(self, queue: str = "celery") -> list[list[Any]]:
        """The arguments of every message that waits, in order."""
        known = self.bench.engine.queues.by_name.get(queue)
        if known is None:
            return []
        low, high = known.id << 45, (known.id + 1) << 45
        rows = self.bench.store.read_messages(low, high, 100_000)
        return [list(Job.decode(row.payload).args) for row in rows]


class ClockedApp(Celery):
    """An app whose clock is the broker's, which the test moves."""

    def now(self) -> datetime:
        here: Any = self.client
        return here.now  # type: ignore[no-any-return]


def app_on(broker: Any, entries: Mapping[str, Any], **conf: Any) -> Celery:
    """An app on that broker with this beat_schedule and a task ``t``; messages stay in the queue."""
    app = ClockedApp("beats", set_as_current=False)
    app.conf.update(beat_schedule=entries, **conf)
    app.client = broker
    app.task(lambda *args: None, name="t")
    return app


def every(seconds: Any, *args: Any, **more: Any) -> dict[str, Any]:
    """An entry of the task ``t``."""
    return {"task": "t", "schedule": seconds, "args": args, **more}


def run_due(scheduler: Any, most: int = 1000) -> int:
    """Tick until nothing is due; returns how often."""
    for ticks in range(1, most):
        if scheduler.tick() > 0:
            return ticks
    raise AssertionError(f"still due after {most} ticks")


def beat(app: Celery, **options: Any) -> PersistentScheduler:
    """A beat of an app, as one that was started just now."""
    return PersistentScheduler(app, **options)


NOON = datetime(2026, 8, 8, 12, 0, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
