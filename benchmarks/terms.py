"""What unique keys, concurrency keys and shared paces cost in the broker's engine and journal; no sockets.

    python benchmarks/terms.py [-n TASKS] [--durability full|normal] [--batch 256]

Prints microseconds a task for publishing, and for handing out and ending, and the longest turn: of plain
messages, of unique ones, of one key with all messages waiting, of as many keys as messages, and of a task
with a pace that is far behind.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from emq_compat.broker.engine import Engine, EngineOptions
from emq_compat.broker.records import Dispatch, Moment
from emq_compat.broker.store import Store
from emq_compat.message import Headers, Job, ReplyHeaders, new_id
from emq_compat.protocol.commands import Capabilities, Command, Hello, Inform, Ready, Reply, Request
from emq_compat.terms import Once, Share, Shares

TASK = "proj.task"
PAYLOAD = Job(path="proj", callable="task").encode()


class Run:
    """One broker with a worker of two slots, and a clock of its own that can be moved."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.batch: int = options.batch
        self.store = Store(folder, durability=options.durability)
        self.ahead_s = 0.0
        self.longest_s = 0.0
        self.engine = Engine(self.store, EngineOptions(), {}, self.now())
        self.engine.from_client(b"client", Hello(msgid="h", about={}), self.now())

    def now(self) -> Moment:
        return Moment(time.time() + self.ahead_s, time.monotonic() + self.ahead_s)

    def turn(self, publishes: list[Request], said: list[Command]) -> list[Dispatch]:
        began, now, engine = time.perf_counter(), self.now(), self.engine
        engine.begin_turn(publishes)
        for request in publishes:
            engine.from_client(b"client", request, now)
        for command in said:
            engine.from_worker(b"w.1", command, now)
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

    def work(self, handed: list[Dispatch], count: int) -> None:
        """End what is handed out until so many have ended."""
        done = 0
        while done < count:
            replies: list[Command] = [
                Reply(
                    msgid="x",
                    body=b'{"value": null}',
                    request_msgid=d.msgid,
                    headers=ReplyHeaders(attempt=1, state="SUCCESS"),
                )
                for d in handed
            ]
            done += len(handed)
            handed = self.turn([], [*replies, Ready(msgid="r", count=len(replies))])


def requests(n: int, terms: Callable[[int], dict[str, str]]) -> list[Request]:
    made = []
    for i in range(n):
        head = Headers(guarantee=True, no_result=True, task=TASK, task_id=new_id(), **terms(i))
        text = head.encode().encode()
        made.append(Request(msgid=new_id(), queue="celery", headers=head, payload=PAYLOAD, header_text=text))
    return made


KINDS: dict[str, tuple[Callable[[int], dict[str, str]], Shares, float]] = {
    "plain": (lambda i: {}, Shares(), 1.0),
    "unique, each its own": (lambda i: {"once": Once(key=f"proj.task({i})").encode()}, Shares(), 1.0),
    "unique, all but one joined": (lambda i: {"once": Once(key="proj.task()").encode()}, Shares(), 0.0),
    "one concurrency key, 1 place": (lambda i: {"slots": Share(key="k").encode()}, Shares(1, True), 0.02),
    "one concurrency key, 50 places": (lambda i: {"slots": Share(key="k").encode()}, Shares(50, True), 0.2),
    "a concurrency key each": (lambda i: {"slots": Share(key=f"k{i}").encode()}, Shares(1, True), 1.0),
    "1,000 concurrency keys": (lambda i: {"slots": Share(key=f"k{i % 1000}").encode()}, Shares(1, True), 0.2),
    "a pace of 1/s": (lambda i: {}, Shares(pace_s=1.0), 0.002),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--durability", default="full")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    print(f"{options.n} messages; microseconds a message; longest turn in ms")
    for name, (terms, shares, share) in KINDS.items():
        sent = requests(options.n, terms)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / "data", options)
            if any(shares):  # a worker that was there before has told it
                run.engine.gates.tell([TASK], {TASK: shares}, ())
            t0 = time.perf_counter()
            run.publish(sent)
            t1 = time.perf_counter()
            count = max(1, int(options.n * share))
            published_ms, run.longest_s = run.longest_s * 1e3, 0.0
            t2 = time.perf_counter()
            handed = run.start_worker(shares)
            if shares.pace_s:
                done = 0
                while done < count:
                    run.ahead_s += shares.pace_s
                    done += len(handed)
                    replies: list[Command] = [
                        Reply(
                            msgid="x",
                            body=b'{"value": null}',
                            request_msgid=d.msgid,
                            headers=ReplyHeaders(attempt=1, state="SUCCESS"),
                        )
                        for d in handed
                    ]
                    handed = run.turn([], [*replies, Ready(msgid="r", count=len(replies))])
            else:
                run.work(handed, count)
            t3 = time.perf_counter()
            print(
                f"{name:32} publish {(t1 - t0) / options.n * 1e6:6.1f}, longest {published_ms:5.1f}; "
                f"hand out and end {(t3 - t2) / count * 1e6:7.1f}, longest {run.longest_s * 1e3:5.1f}"
            )
            run.store.close()


if __name__ == "__main__":
    main()
