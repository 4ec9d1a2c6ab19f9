"""A broker and two workers, one of them and the client behind networks that fail (tests/proxy.py)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from emq_compat.errors import OperationalError
from tests.faults import faulty_tasks
from tests.faults.conftest import REPOSITORY, Plant
from tests.processes import Proc, wait_until
from tests.proxy import Proxy

FINAL = ("SUCCESS", "FAILURE")


@dataclass(kw_only=True)
class Sent:
    """What the client was told.

    Attributes:
        confirmed: task id → (kind, number) of those whose publish returned.
        raised: how long each publish took that raised.
    """

    confirmed: dict[str, tuple[str, int]] = field(default_factory=dict)
    raised: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of a fault.

    Attributes:
        confirmed, raised: how many publishes returned, and raised.
        lost: confirmed tasks without an end, or that ended well and never ran.
        doubled: early-acked ones that ran more than once.
        again: late-acked ones that ran more than once.
        failed: tasks that ended as a failure: their worker was lost.
        hung: seconds by which a publish was longer than its timeout, at most.
        resumed_s: seconds from the end of the fault until a new task's result and both workers were there.
    """

    confirmed: int
    raised: int
    lost: list[tuple[str, int]]
    doubled: list[int]
    again: list[int]
    failed: list[tuple[str, int]]
    hung: float
    resumed_s: float

    def __str__(self) -> str:
        return (
            f"{self.confirmed} confirmed, {self.raised} raised; lost {len(self.lost)}, "
            f"doubled {len(self.doubled)}, run again {len(self.again)}, lost workers' {len(self.failed)}; "
            f"resumed after {self.resumed_s:.1f} s; late by {self.hung:.1f} s"
        )


class Networks:
    """The plant: worker ``near`` is at the broker, ``far`` behind ``worker_net``; the client has its own."""

    def __init__(self, plant: Plant, dead_after_s: float) -> None:
        self.plant = plant
        self.broker = plant.broker
        self.broker.start("--dead-after", f"{dead_after_s:g}")
        self.client_net = Proxy(self.broker.ports["frontend"])
        self.worker_net = Proxy(self.broker.ports["backend"])
        self.worker_client_net = Proxy(self.broker.ports["frontend"])
        self._count = 0
        self.workers = [
            self._worker("far", self.broker.address(self.worker_client_net.port, self.worker_net.port)),
            self._worker("near", self.broker.url),
        ]
        self._timeout_s = 4.0

    def _worker(self, name: str, url: str) -> Proc:
        return self.plant.procs.emq(
            "worker", "-A", "tests.faults.faulty_tasks", "-b", url, "-c", "2", "-n", f"{name}@%h",
            cwd=REPOSITORY, env={"RUNS": str(self.plant.file)},
        )  # fmt: skip

    def __enter__(self) -> Networks:
        self._stack = contextlib.ExitStack()
        for net in (self.client_net, self.worker_net, self.worker_client_net):
            self._stack.enter_context(net)
        wait_until(lambda: len(self.broker.client.ask("workers")) == 2, 30, what="both workers")
        faulty_tasks.app.conf.broker_url = self.broker.address(self.client_net.port)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def nets(self, pair: str) -> list[Proxy]:
        """The networks of a pair: ``client`` or ``worker``, and the broker."""
        return [self.client_net] if pair == "client" else [self.worker_net, self.worker_client_net]

    @contextlib.contextmanager
    def load(self) -> Iterator[Sent]:
        """Publish of each kind in turn, until the block ends."""
        sent, done = Sent(), threading.Event()

        def publish() -> None:
            kinds = (faulty_tasks.early, faulty_tasks.late, faulty_tasks.once_more)
            while not done.is_set():
                self._count += 1
                n, task = self._count, kinds[self._count % 3]
                arguments = (n,) if task is faulty_tasks.once_more else (n, 0.02)
                began = time.monotonic()
                try:
                    result = task.delay(*arguments)
                except OperationalError:
                    sent.raised.append(time.monotonic() - began)
                else:
                    sent.confirmed[result.id] = (task.name.rpartition(".")[2], n)
                done.wait(0.01)

        publisher = threading.Thread(target=publish)
        publisher.start()
        try:
            yield sent
        finally:
            done.set()
            publisher.join(30)
            assert not publisher.is_alive(), "a publish hangs"

    def fail(self, pair: str, fault: str, seconds: float) -> Report:
        """Let the network of a pair fail for so long, under load; then wait for the end of all tasks."""
        nets, first = self.nets(pair), self._count + 1
        with self.load() as sent:
            wait_until(lambda: len(sent.confirmed) > 10, 20, what="some load")
            for net in nets:
                if fault == "delay":
                    net.delay_s = seconds
                elif fault == "reset":
                    net.reset()
                elif fault == "one way":
                    net.hold_answers()
                else:
                    net.hold()
            time.sleep(seconds)  # this is the fault
            for net in nets:
                net.delay_s = 0.0
                net.let_go()
                if fault == "forgotten":  # a partition that the connections don't outlive
                    net.reset()
            healed = time.monotonic()
            self._count += 1
            n = self._count
            wait_until(lambda: self._again(n), 60, what="a task after the fault", interval_s=0)
            wait_until(self._both_there, 30, what="both workers, as before")
            resumed_s = time.monotonic() - healed
        return self._report(sent, first, resumed_s)

    def _both_there(self) -> bool:
        return 2 == sum(row["present"] for row in self.broker.client.ask("workers"))

    def _again(self, n: int) -> bool:
        try:
            return bool(n == faulty_tasks.early.delay(n, 0).get(timeout=5))
        except (OperationalError, TimeoutError):
            return False

    def _report(self, sent: Sent, first: int, resumed_s: float) -> Report:
        states: dict[str, str] = {}

        def ended() -> bool:
            missing = [task_id for task_id in sent.confirmed if states.get(task_id) not in FINAL]
            told = self.broker.client.ask("results", ids=missing)
            states.update({task_id: row["state"] for task_id, row in told.items() if row})
            return all(states.get(task_id) in FINAL for task_id in sent.confirmed)

        with contextlib.suppress(TimeoutError):
            wait_until(ended, 60, interval_s=0.1)
        runs: Counter[tuple[str, int]] = Counter()
        for line, times in self.plant.runs().items():
            kind, number, *attempt = line.split()
            if int(number) < first:
                continue
            if kind in ("early", "late"):
                runs[kind, int(number)] += times
            elif kind == "retried":
                runs[f"retried.{attempt[0]}", int(number)] += times
        named = {"early": ["early"], "late": ["late"], "once_more": ["retried.0", "retried.1"]}
        lost, failed = [], []
        for task_id, (kind, n) in sent.confirmed.items():
            state = states.get(task_id)
            ran = all(runs[name, n] for name in named[kind])
            if state == "FAILURE":
                failed.append((kind, n))
            if state not in FINAL or (state == "SUCCESS" and not ran):
                lost.append((kind, n))
        return Report(
            confirmed=len(sent.confirmed),
            raised=len(sent.raised),
            lost=lost,
            doubled=[n for (kind, n), times in runs.items() if kind != "late" and times > 1],
            again=[n for (kind, n), times in runs.items() if kind == "late" and times > 1],
            failed=failed,
            hung=max([0.0, *(took - self._timeout_s for took in sent.raised)]),
            resumed_s=resumed_s,
        )

    def alive(self) -> bool:
        """Whether broker and workers live, and are those of the start."""
        procs = [self.broker.proc, *self.workers]
        return all(proc is not None and proc.alive() for proc in procs)
