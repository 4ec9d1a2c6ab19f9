"""Any order of publishes, ends, losses, revokes, purges and kills: no key ever has more than it may have."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Heartbeat, Ready
from emq_compat.terms import DONE, FOLLOW, JOIN, Once, Share, Shares
from tests.broker.bench import CLIENT, Bench, hello, job, nack

pytestmark = pytest.mark.unit

#: Places of each key.
PLACES = {"a": 1, "b": 2, "c": 3}
#: Seconds between two of a task.
PACE_S = 2.0
QUEUES = ("q", "q2")
TASKS = {"late": "l", "early": "", "paced": "l"}


class Terms(RuleBasedStateMachine):
    """A broker with two workers; what is handed out is counted beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.b = Bench()
        self.b.turn((CLIENT, hello()))
        #: what each worker runs: msgid → hand-out.
        self.running: dict[bytes, dict[str, Dispatch]] = {}
        #: when a task with a pace was handed out.
        self.paced_at: list[float] = []
        self.ids = 0
        self.lost = b""
        for name in (b"w.1", b"w.2"):
            self._start(name)

    def teardown(self) -> None:
        """Everything that is left ends: nothing is stuck, nothing is counted any more."""
        b = self.b
        for _ in range(2000):
            for runs in list(self.running.values()):
                for d in list(runs.values()):
                    self._end(d, "SUCCESS")
            self._pass(1.0)
            if not any(self.running.values()) and not self._left():
                break
        assert not self._left()
        gates, locks = b.engine.gates, b.engine.endings.locks
        assert ({}, {}, {}, {}) == (gates.running, gates.parked, gates._let_in, locks.followed)
        assert [] == b.store.parked_counts() == b.store.all_locks("", 9)
        b.store.close()

    def _left(self) -> int:
        return sum(queue.total + queue.held for queue in self.b.engine.queues.by_name.values())

    # Workers

    def _start(self, name: bytes) -> None:
        shares = {"paced": Shares(pace_s=PACE_S)}
        self.running[name] = {}
        self._take(self.b.worker(name, queues=QUEUES, slots=6, credit=6, tasks=TASKS, shares=shares))

    def _take(self, handed: list[Dispatch]) -> None:
        for d in handed:
            self.running.setdefault(d.identity, {})[d.msgid] = d
            if Headers.decode(d.header_text).task == "paced":
                self.paced_at.append(self.b.mono)

    def _end(self, d: Dispatch, state: str, **more: Any) -> None:
        del self.running[d.identity][d.msgid]
        self._take(self.b.reply(d, state, ready=1, **more))

    def _pass(self, seconds: float) -> None:
        alive = [name for name in self.running if name != self.lost]
        beats = [(name, Heartbeat(msgid=new_id(), timestamp=self.b.wall)) for name in alive]
        self._take(self.b.handed(*beats, passed_s=seconds))

    def _one(self, pick: int) -> Dispatch | None:
        found = [d for runs in self.running.values() for d in runs.values()]
        return found[pick % len(found)] if found else None

    # What happens

    @rule(
        key=st.sampled_from(["", *PLACES]),
        unique=st.sampled_from(["", "", "u", "v"]),
        mode=st.sampled_from([JOIN, FOLLOW]),
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([0, 0, 5]),
        task=st.sampled_from(sorted(TASKS)),
        n=st.integers(1, 4),
        delayed=st.booleans(),
        expires=st.booleans(),
    )
    def publish(
        self, key: str, unique: str, mode: str, queue: str, priority: int, task: str, n: int,
        delayed: bool, expires: bool,
    ) -> None:  # fmt: skip
        more: dict[str, Any] = {}
        if key:
            more["slots"] = Share(key=key, number=PLACES[key]).encode()
        if unique:
            more["once"] = Once(key=unique, until=DONE, mode=mode).encode()
        if delayed:
            more["eta"] = self.b.wall + 3
        if expires:
            more["expires"] = self.b.wall + 6
        for _ in range(n):
            self.ids += 1
            self.b.publish(queue=queue, priority=priority, task=task, task_id=f"t{self.ids}", **more)
            self._take([s for s in self.b.sent if isinstance(s, Dispatch)])

    @rule(pick=st.integers(0, 99), state=st.sampled_from(["SUCCESS", "FAILURE", "IGNORED", "REJECTED"]))
    def end(self, pick: int, state: str) -> None:
        if (d := self._one(pick)) is not None:
            self._end(d, state)

    @rule(pick=st.integers(0, 99))
    def retry(self, pick: int) -> None:
        if (d := self._one(pick)) is not None:
            was = Headers.decode(d.header_text)
            head = Headers(
                task_id=was.task_id, task=was.task, once=was.once, slots=was.slots, eta=self.b.wall + 2
            )
            self._end(d, "RETRY", follow_ups=(Publish(queue=d.queue, headers=head, payload=job()),))

    @rule(pick=st.integers(0, 99))
    def give_back(self, pick: int) -> None:
        if (d := self._one(pick)) is not None:
            del self.running[d.identity][d.msgid]
            self._take(self.b.handed((d.identity, nack(d)), (d.identity, Ready(msgid=new_id(), count=1))))

    @rule(name=st.sampled_from([b"w.1", b"w.2"]))
    def lose_a_worker(self, name: bytes) -> None:
        # It is silent, and until that counts what is handed to it is lost with it.
        self.lost = name
        for _ in range(12):
            self._pass(1.0)
        del self.running[name]
        self.lost = b""
        self._start(name)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self._pass(seconds)

    @rule(number=st.integers(1, 60))
    def revoke(self, number: int) -> None:
        self.b.engine.withdrawals.revoke(f"t{number}", self.b.now, terminate=False, signal="SIGTERM")
        self._pass(0.0)

    @rule(queue=st.sampled_from(QUEUES))
    def purge(self, queue: str) -> None:
        if (found := self.b.engine.queues.by_name.get(queue)) is not None:
            self.b.engine.withdrawals.purge(found, self.b.now)
            self._pass(0.0)

    @rule()
    def kill_the_broker(self) -> None:
        self.b.restart()
        self.b.turn((CLIENT, hello()))
        for name, runs in self.running.items():
            held = tuple((d.msgid, Headers.decode(d.header_text).attempt, True) for d in runs.values())
            shares = {"paced": Shares(pace_s=PACE_S)}
            self._take(
                self.b.worker(
                    name, queues=QUEUES, slots=6, credit=6 - len(held), tasks=TASKS, shares=shares, held=held
                )
            )

    # What holds always

    @invariant()
    def no_key_has_more_than_its_places(self) -> None:
        counts: Counter[str] = Counter()
        for flight in self.b.engine.flights.by_msgid.values():
            if flight.headers.slots:
                counts[Share.decode(flight.headers.slots).key] += 1
        assert all(n <= PLACES[key] for key, n in counts.items()), counts

    @invariant()
    def no_unique_key_lives_twice(self) -> None:
        store = self.b.store
        found: Counter[str] = Counter()
        rows = store._db.execute(
            "SELECT headers FROM messages WHERE headers LIKE '%once:%' AND coalesce(gate, '') NOT LIKE 'f%'"
        )
        for (text,) in rows:
            headers = Headers.decode(text)
            expired = 0 < headers.expires <= self.b.wall
            if not expired or self._flies(headers):
                found[Once.decode(headers.once).key] += 1
        assert all(n == 1 for n in found.values()), found

    def _flies(self, headers: Headers) -> bool:
        return headers.task_id in self.b.engine.flights.by_task

    @invariant()
    def the_pace_is_kept(self) -> None:
        at = self.paced_at
        assert all(second - first >= PACE_S - 0.06 for first, second in pairwise(at)), at


TestTerms = Terms.TestCase
TestTerms.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
