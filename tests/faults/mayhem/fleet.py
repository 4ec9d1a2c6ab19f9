"""All processes of the mayhem, each started again when it has ended; each start and end is written down."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from emq_compat.celery_shim import AsyncResult
from emq_compat.errors import OperationalError
from tests.broker_process import STARTED, Broker
from tests.faults.mayhem import load
from tests.faults.mayhem.client import last_known
from tests.faults.mayhem.ledger import Ledger
from tests.processes import Proc, Procs, wait_until

__all__ = ["LARGE", "SMALL", "Fleet", "Member", "Size", "up"]

REPOSITORY = Path(__file__).parents[3]
_RESULTS_A_TIME = 200


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a fleet has, beside its broker and two beats.

    Attributes:
        workers: each worker's options.
        dead_after_s: after so much silence the broker gives a worker up.
    """

    workers: tuple[tuple[str, ...], ...]
    clients: int
    dead_after_s: float


#: Two workers that fork, and one without children.
LARGE = Size(workers=(("-c", "2"), ("-c", "2"), ("-P", "threads", "-c", "2")), clients=3, dead_after_s=4.0)
SMALL = Size(workers=(("-c", "2"), ("-P", "threads", "-c", "2")), clients=1, dead_after_s=2.0)


@dataclass(kw_only=True)
class Member:
    """A process of the fleet and its successors.

    Attributes:
        role: ``broker``, ``worker``, ``client`` or ``beat``.
        forks: it has a zygote and children.
        start: starts it under this name.
        ready: what its output says once it works; empty: it does at once.
    """

    role: str
    place: str
    start: Callable[[str], Proc]
    ready: str = ""
    forks: bool = False
    wanted: bool = True
    generation: int = 0
    proc: Proc | None = None
    works: bool = False

    @property
    def name(self) -> str:
        """Its name, another one after each start."""
        return f"{self.place}g{self.generation}"

    def alive(self) -> bool:
        """Whether it runs now."""
        return self.proc is not None and self.proc.alive()

    def descendants(self, kind: str) -> list[psutil.Process]:
        """Its living descendants of this kind: ``zygote`` (the spare is one, too) or ``child``."""
        if self.proc is None:
            return []
        found = []
        for process in self.proc.children():
            try:
                if process.name().startswith(f"emq-{kind}"):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found


@dataclass
class Fleet:
    """The fleet; ``tend`` is to be called often."""

    procs: Procs
    broker: Broker
    folder: Path
    seed: int
    size: Size = LARGE
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.diary = Ledger(self.folder / "diary")
        self.diary.write({"what": "begin", "dead_after_s": self.size.dead_after_s, "at": time.time()})
        self._stop = self.folder / "stop"
        self._env = {"RUNS": str(self.folder / "runs"), "BROKER": self.broker.url}
        load.app.conf.broker_url = self.broker.url
        self.members.append(Member(role="broker", place="broker", start=self._start_broker, ready=STARTED))
        for n, options in enumerate(self.size.workers):
            start, forks = self._worker(options), "-P" not in options
            self.members.append(
                Member(role="worker", place=f"w{n}", start=start, ready=" ready", forks=forks)
            )
        self.members += [Member(role="beat", place=f"beat{n}", start=self._start_beat) for n in range(2)]
        self.members += [
            Member(role="client", place=f"client{n}", start=self._client(n)) for n in range(self.size.clients)
        ]

    def _start_broker(self, name: str) -> Proc:
        return self.broker.start("--dead-after", str(self.size.dead_after_s), ready=None)

    def _worker(self, options: tuple[str, ...]) -> Callable[[str], Proc]:
        return lambda name: self.procs.emq(
            "worker", "-A", "tests.faults.mayhem.load", "-n", f"{name}@%h", *options,
            cwd=REPOSITORY, env=self._env, name=name,
        )  # fmt: skip

    def _start_beat(self, name: str) -> Proc:
        return self.procs.emq(
            "beat", "-A", "tests.faults.mayhem.load", cwd=REPOSITORY, env=self._env, name=name
        )

    def _client(self, n: int) -> Callable[[str], Proc]:
        path = self.folder / f"client{n}"
        return lambda name: self.procs.python(
            "-m", "tests.faults.mayhem.client", str(path), f"{self.seed}{n}", str(self._stop),
            cwd=REPOSITORY, env=self._env, name=name,
        )  # fmt: skip

    def tend(self) -> None:
        """Start what has ended, and note what works now."""
        for member in self.members:
            if member.proc is not None and not member.alive():
                code = member.proc.returncode
                self._note("ended", member, code=code)
                member.proc, member.works = None, False
                if self._stop.exists() and member.role == "client" and code == 0:
                    member.wanted = False
            if member.proc is None and member.wanted:
                member.generation += 1
                self._note("starts", member)
                member.proc = member.start(member.name)
            if member.proc is not None and not member.works and member.ready in member.proc.output():
                member.works = True
                self._note("works", member)

    def _note(self, what: str, member: Member, **more: object) -> None:
        self.diary.write({"what": what, "role": member.role, "name": member.name, "at": time.time(), **more})

    def chosen(self, role: str, chance: random.Random, *, starting: bool) -> Member | None:
        """A living member of this role; of workers for their zygotes and children, one that has these.

        ``starting``: also one that doesn't work yet.
        """
        fitting = [
            member
            for member in self.members
            if member.role == role or (role in ("child", "zygote") and member.forks)
            if member.alive() and (member.works or starting)
        ]
        return chance.choice(fitting) if fitting else None

    # The end

    def drain(self, timeout_s: float) -> None:
        """Let clients be told all that they wait for, everything run that waits, and end.

        Whatever doesn't come to its end in time is written down as hung.
        """
        self._stop.touch()
        deadline = time.monotonic() + timeout_s
        clients = [member for member in self.members if member.role == "client"]
        self._until(lambda: not any(member.wanted for member in clients), deadline, "clients")
        self._end([member for member in self.members if member.role == "beat"], deadline)
        self._until(self._idle, deadline, "tasks")
        self._audit()
        self._end([member for member in self.members if member.role == "worker"], deadline)
        self._end(self.members, deadline)

    def _until(self, done: Callable[[], bool], deadline: float, what: str) -> None:
        while not done():
            if time.monotonic() > deadline:
                self.diary.write({"what": "hung", "which": what, "at": time.time()})
                return
            self.tend()
            time.sleep(0.02)

    def _idle(self) -> bool:
        try:
            queues = self.broker.client.ask("queues")
            stats = self.broker.client.ask("stats")
            if self.broker.client.ask("schedules"):
                return False
        except OperationalError:
            return False
        waiting = sum(row["waiting"] + row["delayed"] for row in queues if row["name"] == load.QUEUE)
        return waiting + stats["in_flight"] == 0

    def _audit(self) -> None:
        """Write down what is kept of every task of the clients, and what was put aside."""
        ids = [
            task_id for n in range(self.size.clients) for task_id in last_known(self.folder / f"client{n}")
        ]
        audit = Ledger(self.folder / "audit", durable=False)
        for n in range(0, len(ids), _RESULTS_A_TIME):
            for task_id in ids[n : n + _RESULTS_A_TIME]:
                result = AsyncResult(task_id, app=load.app)
                line = {"what": "kept", "id": task_id, "state": result.state}
                if line["state"] == "SUCCESS":
                    line["value"] = result.result
                elif isinstance(result.result, BaseException):
                    line |= {"error": type(result.result).__name__, "text": str(result.result)}
                audit.write(line)
        for row in self._dead():
            shown = self.broker.client.ask("dead_show", key=row["key"])
            dead = {name: row[name] for name in ("msgid", "task_id", "reason")}
            audit.write({"what": "dead", **dead, "payload": shown["payload"]})
        audit.close()

    def _dead(self) -> Iterator[dict[str, Any]]:
        after = 0
        while rows := self.broker.client.ask("dead_list", after=after, limit=1000):
            yield from rows
            after = rows[-1]["key"]

    def _end(self, members: list[Member], deadline: float) -> None:
        for member in members:
            if member.proc is None and not member.wanted:
                continue
            member.wanted = False
            if member.proc is None:
                continue
            member.proc.send_signal(signal.SIGCONT)
            self._note("told to end", member)
            member.proc.send_signal(signal.SIGTERM)
        self._until(lambda: all(member.proc is None for member in members), deadline, "an end")

    def kill_all(self) -> None:
        """SIGKILL everything that is left."""
        for member in self.members:
            if member.alive():
                assert member.proc is not None
                member.proc.kill()


def up(fleet: Fleet, timeout_s: float = 60) -> None:
    """Start everything and wait until all of it works."""

    def works() -> bool:
        fleet.tend()
        return all(member.works for member in fleet.members)

    wait_until(works, timeout_s, what="a fleet that works", interval_s=0.02)
