"""What an open dashboard costs the broker while it is drained, and how often the page hears of it.

    python benchmarks/dashboard.py [-n 20000] [-r 3] [--pages 2] [--queues 200]

Each round publishes ``-n`` messages to queues of a broker and drains them twice, with a worker that is played
by this process: once with ``--pages`` pages of a dashboard open, once with none; which comes first changes
from round to round. With each task the worker announces three events, as one with ``-E`` does, and each
hundredth task fails with a traceback. All are steps of a group. Prints events and drained messages a second,
microseconds of the broker's CPU for each message, the longest time between two updates of a page, and what an
answer costs the broker that has ``--queues`` queues. The promise is: with 10,000 events a second and more, a
page hears every second, and the broker keeps 0.95 of its rate.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import zmq
from _site import BIN, Cost, Site, free_ports, ours, running, until

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import Capabilities, Inform, PublishTopic, Ready, Reply, Request
from emq_compat.wire import Wire

#: What a dashboard asks for again and again: verb → every so many seconds.
ASKED = {"overview": 1, "workflows": 3}
QUEUES = ("mails", "images", "reports", "default")
TASK = "proj.tasks.add"
#: Each is a step of one large group, so that what is told of workflows is as much as it can be.
PAYLOAD = Job(path="proj.tasks", callable="add", args=[2, 3], celery={"group": new_id()}).encode()
DONE = b'{"value":5,"state":"SUCCESS"}'
FAILED = json.dumps(
    {
        "value": "no",
        "state": "FAILURE",
        "error": {"type": "ValueError", "module": "builtins", "args": ["no"], "message": "no"},
        "traceback": "Traceback (most recent call last):\n" + '  File "proj/tasks.py", line 5, in add\n' * 20,
    }
).encode()
EVENT = {
    "type": "task-succeeded",
    "uuid": new_id(),
    "hostname": "w@here",
    "clock": 1,
    "timestamp": 1.0,
    "pid": 7,
}
#: Reads a page's updates, and notes when each came.
READER = """
import sys, time, urllib.request
with urllib.request.urlopen(sys.argv[1]) as updates:
    for line in updates:
        if line.startswith(b"data:"):
            print(time.monotonic(), len(line), flush=True)
"""


class Drained(NamedTuple):
    """Messages and events a second, microseconds of the broker's CPU for a message, seconds of the longest
    time between two updates, and how many updates there were."""

    per_s: float
    events_s: float
    cpu_us: float
    gap_s: float
    updates: int


def publish(client: Client, n: int) -> None:
    """Publish n messages in bulk, to the queues in turn."""
    for start in range(0, n, 10_000):
        client.publish_all(
            Publish(
                queue=QUEUES[i % len(QUEUES)],
                headers=Headers(guarantee=True, task_id=new_id(), task=TASK),
                payload=PAYLOAD,
            )
            for i in range(start, min(n, start + 10_000))
        )


def drain(endpoint: str, broker: int, n: int) -> tuple[float, float, float, float]:
    """Be a worker of n messages; returns when it began and ended, events told, CPU seconds of the broker."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wire = Wire(context, endpoint, identity=new_id().encode())
    about = Capabilities(slots=64, pid=0, hostname="bench", tasks={TASK: ""})
    wire.send(Inform(msgid=new_id(), queues=tuple((0, q) for q in QUEUES), role="worker", capabilities=about))
    wire.send(Ready(msgid=new_id(), count=min(n, 1000)))
    taken, asked, events = 0, min(n, 1000), 0
    began, cost = 0.0, Cost.of(broker)
    try:
        while taken < n:
            assert wire.socket.poll(30_000), f"{taken} of {n} messages came"
            given = [command for command in wire.receive() if isinstance(command, Request)]
            began = began or time.monotonic()
            for request in given:
                taken += 1
                fails = taken % 100 == 0
                headers = ReplyHeaders(
                    attempt=request.headers.attempt, state="FAILURE" if fails else "SUCCESS"
                )
                body = FAILED if fails else DONE
                wire.send(Reply(msgid=new_id(), body=body, request_msgid=request.msgid, headers=headers))
            for start in range(0, len(given), 66):
                told = [EVENT] * (3 * len(given[start : start + 66]))
                events += len(told)
                payload = json.dumps(told).encode()
                wire.send(PublishTopic(msgid=new_id(), topic="celeryev.task.multi", payload=payload))
            more = min(len(given), n - asked)
            if more:
                wire.send(Ready(msgid=new_id(), count=more))
                asked += more
        return began, time.monotonic(), events, Cost.of(broker).since(cost).cpu_s
    finally:
        wire.close(1.0)
        context.term()


@contextmanager
def pages(url: str, folder: Path, count: int) -> Iterator[list[Path]]:
    """So many pages that are open for as long as the block lasts; their notes."""
    with ExitStack() as stack:
        notes = []
        for n in range(count):
            (place := folder / f"page{n}").mkdir(exist_ok=True)
            (place / "log").write_bytes(b"")
            stack.enter_context(running([sys.executable, "-c", READER, f"{url}api/updates"], place))
            notes.append(place / "log")
        until(lambda: all(note.stat().st_size for note in notes), 30, "an update of each page")
        yield notes


def gap(note: Path, began: float, ended: float) -> tuple[float, int]:
    """The longest time between two updates in this time, and how many there were."""
    found = [float(line.split()[0]) for line in note.read_text().splitlines()]
    within = [at for at in found if began <= at <= ended]
    edges = [began, *within, ended]
    return max(b - a for a, b in pairwise(edges)), len(within)


def measured(site: Site, client: Client, endpoint: str, n: int, dashboard: str, count: int) -> Drained:
    """Publish n messages and drain them with so many pages open."""
    publish(client, n)
    with ExitStack() as stack:
        notes = stack.enter_context(pages(dashboard, site.folder, count)) if count else []
        began, ended, events, cpu_s = drain(endpoint, site.broker.pid, n)
        took = ended - began
        gaps = [gap(note, began, ended) for note in notes]
    longest, updates = max((g for g, _ in gaps), default=0.0), min((u for _, u in gaps), default=0)
    return Drained(n / took, events / took, 1e6 * cpu_s / n, longest, updates)


@contextmanager
def dashboard_of(site: Site) -> Iterator[str]:
    """The address of a dashboard of this site's broker."""
    [port] = free_ports(1)
    (folder := site.folder / "dashboard").mkdir()
    url = f"http://127.0.0.1:{port}/"
    listen = f"127.0.0.1:{port}"
    argv = [str(BIN / "emq-compat"), "dashboard", "-b", site.env["BENCH_BROKER"], "--listen", listen]
    with running(argv, folder):

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"{url}api/session", timeout=5) as answer:
                    return bool(json.load(answer)["secret"])
            except OSError:
                return False

        until(answers, 30, "the dashboard")
        yield url


def fill(client: Client, queues: int) -> None:
    """Have something wait in so many queues."""
    client.publish_all(
        Publish(
            queue=f"many{n}",
            headers=Headers(guarantee=True, task_id=new_id(), task=TASK),
            payload=PAYLOAD,
        )
        for n in range(queues)
    )


def one_answer(client: Client, broker: int, verb: str, times: int) -> float:
    """Milliseconds of the broker's CPU for an answer."""
    client.ask(verb)
    cost = Cost.of(broker)
    for _ in range(times):
        client.ask(verb)
    return 1e3 * Cost.of(broker).since(cost).cpu_s / times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--pages", type=int, default=2)
    parser.add_argument("--queues", type=int, default=200)
    options = parser.parse_args()
    without: list[Drained] = []
    beside: list[Drained] = []
    with (
        ours() as site,
        dashboard_of(site) as dashboard,
        Client(site.env["BENCH_BROKER"], timeout_s=30) as client,
    ):
        found = re.search(r"worker_port=(\d+)", site.env["BENCH_BROKER"])
        assert found is not None
        endpoint = f"tcp://127.0.0.1:{found[1]}"
        until(lambda: client.ask("stats"), 30, "the broker")
        for number in range(options.rounds):
            for count in (0, options.pages) if number % 2 == 0 else (options.pages, 0):
                drained = measured(site, client, endpoint, options.n, dashboard, count)
                (beside if count else without).append(drained)
        fill(client, options.queues)
        answers_ms = {verb: one_answer(client, site.broker.pid, verb, 50) for verb in ASKED}
    for name, rounds in (("no page open", without), (f"{options.pages} pages open", beside)):
        print(
            f"{name:15} {_median(rounds, 'per_s'):8.0f} drained/s  "
            f"{_median(rounds, 'events_s'):8.0f} events/s  "
            f"{_median(rounds, 'cpu_us'):5.1f} us of the broker's CPU a message"
        )
    rate = _median(beside, "per_s") / _median(without, "per_s")
    cpu = _median(beside, "cpu_us") / _median(without, "cpu_us")
    print(f"with pages open {rate:.3f} of the rate, {cpu:.3f} of the CPU")
    print(
        f"updates of a page: {sum(one.updates for one in beside)}, "
        f"at most {max(one.gap_s for one in beside):.2f} s apart"
    )
    for verb, every_s in ASKED.items():
        print(
            f"one answer to {verb}, asked every {every_s} s, with {options.queues} queues: "
            f"{answers_ms[verb]:.1f} ms of the broker's CPU"
        )


def _median(rounds: list[Drained], field: str) -> float:
    return statistics.median(getattr(one, field) for one in rounds)


if __name__ == "__main__":
    main()
