"""An hour of a broker, in its engine's own time: each metric against a ledger of what was really done."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Publish, new_id
from emq_compat.monitor import broker_figures
from emq_compat.monitor.broker_figures import BROKER_FAMILIES, BrokerCounts
from emq_compat.monitor.figures import Names
from emq_compat.protocol.commands import Capabilities, Inform, Ready, Request
from tests.broker.bench import CLIENT, Bench, answer, job

pytestmark = [pytest.mark.unit]

#: Metrics that say nothing of messages, and those that need a socket or a disk; test_real_ledger has them.
ELSEWHERE = {
    "emq_broker_clients",
    "emq_broker_commands_forbidden_total",
    "emq_broker_commands_malformed_total",
    "emq_broker_announcements_total",
    "emq_broker_announcements_dropped_total",
    "emq_broker_journal_bytes",
    "emq_broker_journal_write_seconds",
    "emq_broker_loop_turn_seconds",
    "emq_broker_uptime_seconds",
    "emq_broker_messages_joined_total",
    "emq_broker_messages_unroutable_total",
    "emq_broker_queue_messages_held",
    "emq_broker_queue_messages_parked",
}
TASKS = {"late": "l", "early": ""}
WORKER = b"w.1"
LIMIT = 40


class _Server:
    """As much of a server as BrokerCounts looks at, around a bench."""

    trouble = ""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.store, self.engine = bench.store, bench.engine
        self.refusals: dict[str, int] = {}
        self.frontend = self
        self.on_turn: object = None

    def now(self) -> object:
        return self.bench.now

    def connections(self) -> int:
        return 0


class _Ledger:
    """What was done with each message, noted by who published it and who was handed it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.counted: Counter[str] = Counter()
        self.entered: dict[str, float] = {}
        self.waiting: dict[str, None] = {}
        self.delayed: dict[str, float] = {}
        self.running: dict[str, Dispatch] = {}
        self.full = 0
        self.full_since = 0.0

    def publish(self, count: int = 1, eta_s: float = 0.0, **headers: Any) -> list[str]:
        eta = self.bench.wall + eta_s if eta_s else 0.0
        msgids = self.bench.publish(count, eta=eta, **headers)
        self.counted["published"] += count
        for msgid in msgids:
            if eta:
                self.delayed[msgid] = eta
            else:
                self._enter(msgid, self.bench.wall)
        self.look()
        return msgids

    def _enter(self, msgid: str, at: float) -> None:
        self.entered[msgid] = at
        self.waiting[msgid] = None

    def look(self, sent: list[Any] | None = None) -> None:
        """Note what has become due and what was handed out in the last turn, or these."""
        for msgid, eta in list(self.delayed.items()):
            if eta <= self.bench.wall:
                del self.delayed[msgid]
                self._enter(msgid, eta)
        for item in self.bench.sent if sent is None else sent:
            if isinstance(item, Dispatch):
                del self.waiting[item.msgid]
                self.running[item.msgid] = item
                self.counted["delivered"] += 1

    def pass_time(self, seconds: float, *alive: bytes) -> None:
        self.look(self.bench.pass_time(seconds, *alive))

    def ready(self, count: int) -> None:
        self.bench.turn((WORKER, Ready(msgid=new_id(), count=count)))
        self.look()

    def reply(self, msgid: str, state: str) -> None:
        ups: tuple[Publish, ...] = ()
        if state == "RETRY":
            eta = self.bench.wall + 45
            ups = (Publish(queue="q", headers=Headers(task="late", eta=eta), payload=job()),)
            self.counted["published"] += 1
            self.delayed[ups[0].msgid] = eta
        self.bench.turn((WORKER, answer(self.running.pop(msgid), state, follow_ups=ups)))
        self.look()
        self.counted["acknowledged"] += 1
        self.counted["dead_lettered"] += state == "REJECTED"
        self.counted["revoked"] += state == "REVOKED"

    def expected(self) -> dict[str, float]:
        now = self.bench.wall
        kinds = ("published", "delivered", "acknowledged", "redelivered", "lost", "dead_lettered", "expired",
                 "revoked", "duplicate")  # fmt: skip
        return {
            **{f"emq_broker_messages_{kind}_total": self.counted[kind] for kind in kinds},
            "emq_broker_messages_refused_total QueueFull": self.counted["refused"],
            "emq_broker_outcomes_stale_total": self.counted["stale"],
            "emq_broker_queue_messages_waiting q": len(self.waiting),
            "emq_broker_queue_messages_waiting full": self.full,
            "emq_broker_queue_messages_delayed q": len(self.delayed),
            "emq_broker_queue_messages_in_flight q": len(self.running),
            "emq_broker_queue_deliveries_total q": self.counted["delivered"],
            "emq_broker_dead_letters": self.counted["dead_lettered"],
            "emq_broker_queue_oldest_waiting_seconds q": max(
                (now - self.entered[msgid] for msgid in self.waiting), default=0.0
            ),
            "emq_broker_queue_oldest_waiting_seconds full": now - self.full_since if self.full else 0.0,
        }


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while Bench.opened:
        Bench.opened.pop().store.close()


def _flat(figures: Any) -> dict[str, float]:
    return {
        " ".join((name, *labels)): value
        for name, values in figures.items()
        for labels, value in values.items()
    }


def _compare(ledger: _Ledger, counts: BrokerCounts) -> None:
    found, expected = _flat(counts.figures()), ledger.expected()
    for name, value in expected.items():
        if "oldest" in name:
            assert found.get(name, 0.0) == pytest.approx(value, abs=2.5, rel=0.01), name
        else:
            assert value == found.get(name, 0), name


def test_an_hour_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Publishes, etas, retries, losses, dead letters, revokes, expiries, refusals: counted as they were."""
    monkeypatch.setattr(broker_figures, "_COUNTING_SHARE", 1e9)
    dice = random.Random(8)
    bench = Bench(queue_limit=LIMIT)
    ledger, counts = _Ledger(bench), BrokerCounts(_Server(bench))  # type: ignore[arg-type]
    bench.worker(WORKER, slots=4, credit=0, tasks=TASKS)
    for minute in range(60):
        msgids = ledger.publish(dice.randint(0, 4), task=dice.choice(("late", "early")))
        if msgids and minute % 6 == 5:
            again = Headers(guarantee=True, task_id="t-" + msgids[0])
            bench.turn((CLIENT, Request(msgid=msgids[0], queue="q", headers=again, payload=job())))
            ledger.look()
            ledger.counted["duplicate"] += 1
        if minute % 5 == 0:
            ledger.publish(eta_s=dice.uniform(61, 300), task="early")
        if minute % 15 == 3:
            bench.publish(50, queue="full")
            taken = LIMIT - ledger.full
            ledger.counted["published"] += taken
            ledger.counted["refused"] += 50 - taken
            ledger.full_since = ledger.full_since or bench.wall
            ledger.full = LIMIT
        ledger.pass_time(20, WORKER)
        _compare(ledger, counts)
        if minute % 7 == 6:
            _doom(ledger)
        ledger.ready(dice.randint(0, 4))
        ledger.pass_time(30, WORKER)
        for msgid in list(ledger.running):
            if dice.random() < 0.8:
                ledger.reply(
                    msgid, dice.choice(("SUCCESS", "SUCCESS", "FAILURE", "RETRY", "REJECTED", "REVOKED"))
                )
        if minute % 20 == 19:
            _lose_the_worker(ledger)
        ledger.pass_time(10, WORKER)
        _compare(ledger, counts)
    never = [kind for kind in ("redelivered", "lost", "expired", "revoked", "stale", "refused", "duplicate",
                               "dead_lettered") if not ledger.counted[kind]]  # fmt: skip
    assert [] == never, "the hour had none of these"
    names = {family.name for family in BROKER_FAMILIES} - ELSEWHERE
    known = {name.split()[0] for name in ledger.expected()}
    assert {"emq_broker_queue_workers", "emq_broker_results", "emq_broker_workers",
            "emq_broker_journal_writable"} == names - known  # fmt: skip
    found = _flat(counts.figures())
    assert (1, 1, 1) == tuple(
        found[name]
        for name in ("emq_broker_queue_workers q", "emq_broker_workers", "emq_broker_journal_writable")
    )
    stored = bench.store.results(["t-" + msgid for msgid in ledger.entered])
    assert len(stored) == found["emq_broker_results"]


def _doom(ledger: _Ledger) -> None:
    """Have a message expire and one be revoked in front of all others, and one hand-out find them."""
    bench = ledger.bench
    first = ledger.publish(priority=9, expires=bench.wall + 5, task="early")
    second = ledger.publish(priority=9, task="early")
    ledger.publish(task="late")
    doomed = [
        (msgid, kind)
        for (msgid,), kind in ((first, "expired"), (second, "revoked"))
        if msgid in ledger.waiting
    ]
    if second[0] in ledger.waiting:
        bench.engine.withdrawals.revoke("t-" + second[0], bench.now, terminate=False, signal="SIGTERM")
    ledger.pass_time(6, WORKER)
    ledger.ready(1)
    for msgid, kind in doomed:
        del ledger.waiting[msgid]
        ledger.counted[kind] += 1


def _lose_the_worker(ledger: _Ledger) -> None:
    """Have the worker be silent until what it holds is lost, and its outcome come too late."""
    bench = ledger.bench
    ledger.publish(2, task="late")
    ledger.publish(2, task="early")
    ledger.ready(100)
    held = dict(ledger.running)
    assert held
    ledger.running.clear()
    ledger.pass_time(12)
    for msgid, dispatch in held.items():
        ledger.counted["lost"] += 1
        if Headers.decode(dispatch.header_text).task == "late":
            ledger.counted["redelivered"] += 1
            ledger.waiting[msgid] = None
        else:
            ledger.counted["dead_lettered"] += 1
    early = next(d for d in held.values() if Headers.decode(d.header_text).task == "early")
    bench.turn((WORKER, answer(early)))
    ledger.look()
    ledger.counted["stale"] += 1
    bench.worker(WORKER, slots=4, credit=0, tasks=TASKS)
    ledger.look()


def test_queues_beyond_the_limit_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many queues have series of their own; the others are summed, and take the place of one that goes."""
    monkeypatch.setattr(broker_figures, "MOST_QUEUES", 2)
    bench = Bench()
    counts = BrokerCounts(_Server(bench))  # type: ignore[arg-type]
    for number in range(1, 5):
        bench.publish(number, queue=f"q{number}")
    bench.pass_time(10)
    waiting, oldest = "emq_broker_queue_messages_waiting", "emq_broker_queue_oldest_waiting_seconds"
    found = counts.figures()
    assert {("q1",): 1, ("q2",): 2, ("other",): 7} == found[waiting]
    assert 10 == pytest.approx(found[oldest]["other",], abs=1.5)
    queues = bench.engine.queues
    bench.engine.withdrawals.purge(queues.by_name["q1"], bench.now)
    queues.remove(queues.by_name["q1"])
    assert {("q2",): 2, ("q3",): 3, ("other",): 4} == counts.figures()[waiting]


def test_a_worker_counts_once_for_a_queue() -> None:
    """One that names a queue under two weights is one listener, in metrics and in what the broker tells."""
    bench = Bench()
    counts = BrokerCounts(_Server(bench))  # type: ignore[arg-type]
    twice, capabilities = ((9, "q"), (1, "q")), Capabilities(slots=1)
    bench.turn((WORKER, Inform(msgid=new_id(), queues=twice, capabilities=capabilities)))
    assert {("q",): 1} == counts.figures()["emq_broker_queue_workers"]
    [queue] = bench.ask("overview")["ok"]["queues"]
    assert ("q", 1) == (queue["name"], queue["workers"])


def test_names_beyond_the_limit_are_one() -> None:
    """The first names have series of their own, and every other one is ``other``."""
    names = Names(2)
    assert ["a", "b", "a", "other", "b"] == [names.label(name) for name in ("a", "b", "a", "c", "b")]
