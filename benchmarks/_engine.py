"""The broker's engine and journal with a worker of two slots, driven without sockets: for the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from emq_compat.broker.engine import Engine, EngineOptions
from emq_compat.broker.records import Dispatch, Moment
from emq_compat.broker.store import Store
from emq_compat.message import Headers, Job, ReplyHeaders, new_id
from emq_compat.protocol.commands import Capabilities, Command, Hello, Inform, Ready, Reply, Request
from emq_compat.terms import Shares

TASK = "proj.task"
PAYLOAD = Job(path="proj", callable="task").encode()


class Run:
    """One broker with a worker of two slots, and a clock of its own that can be moved."""

    def __init__(self, folder: Path | None, *, batch: int, durability: str) -> None:
        self.batch = batch
        self.store = Store(folder, durability=durability)
        self.ahead_s = 0.0
        self.longest_s = 0.0
        self.engine = Engine(self.store, EngineOptions(), {}, self.now())
        self.engine.from_client(b"client", Hello(msgid="h", about={}), self.now())

    def now(self) -> Moment:
        return Moment(time.time() + self.ahead_s, time.monotonic() + self.ahead_s)

    def turn(self, publishes: list[Request], said: list[Command], worker: bytes = b"w.1") -> list[Dispatch]:
        began, now, engine = time.perf_counter(), self.now(), self.engine
        engine.begin_turn(publishes)
        for request in publishes:
            engine.from_client(b"client", request, now)
        for command in said:
            engine.from_worker(worker, command, now)
        engine.tick(now)
        engine.hand_out(now)
        engine.close_turn(now)
        self.store.commit()
        self.longest_s = max(self.longest_s, time.perf_counter() - began)
        return [one for one in engine.take_outbox() if isinstance(one, Dispatch)]

    def publish(self, requests: list[Request]) -> None:
        for i in range(0, len(requests), self.batch):
            self.turn(requests[i : i + self.batch], [])

    def start_worker(self, shares: Shares, credit: int = 66) -> list[Dispatch]:
        about = Capabilities(slots=2, tasks={TASK: ""}, shares={TASK: shares} if any(shares) else {})
        inform = Inform(msgid="i", queues=((0, "celery"),), capabilities=about)
        return self.turn([], [inform, Ready(msgid="r", count=credit)])

    def end(self, handed: list[Dispatch]) -> list[Dispatch]:
        """End what one worker was handed; returns what is handed out then."""
        replies: list[Command] = [
            Reply(
                msgid="x",
                body=b'{"value": null}',
                request_msgid=d.msgid,
                headers=ReplyHeaders(attempt=1, state="SUCCESS"),
            )
            for d in handed
        ]
        ready = Ready(msgid="r", count=len(replies))
        return self.turn([], [*replies, ready], handed[0].identity)

    def work(self, handed: list[Dispatch], count: int, *, seconds_on: float = 0.0) -> None:
        """End what is handed out until so many have ended, with the clock put on before each turn."""
        done = 0
        while done < count:
            self.ahead_s += seconds_on
            done += len(handed)
            handed = self.end(handed)


def requests(n: int, terms: Callable[[int], dict[str, str]] = lambda i: {}) -> list[Request]:
    """So many messages; ``terms`` gives the further headers of each."""
    made = []
    for i in range(n):
        head = Headers(guarantee=True, no_result=True, task=TASK, task_id=new_id(), **terms(i))
        text = head.encode().encode()
        made.append(Request(msgid=new_id(), queue="celery", headers=head, payload=PAYLOAD, header_text=text))
    return made
