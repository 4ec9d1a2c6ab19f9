"""What many queues, workers and clients cost: rates with a crowd beside those of the simple case, in one run.

    python benchmarks/crowd.py [--queues 100] [--workers 50] [--clients 500] [-n 2000] [--drain 10000] [-r 1]
                               [--celery PYTHON]

The simple case: one queue, one worker of two children, one client. The crowd: tasks go to ``--queues``
queues in turn, ``--workers`` workers of one process each listen on all of them, ``--clients`` clients are
connected. Printed for both, and as the ratio: messages a second that one client publishes one by one, each
confirmed, and in bulk; those of all clients at once, one message of each under way; tasks a second once
``--drain`` tasks wait and the workers, which were stopped, go on; ms from a publish to its result (median);
beside the rates, microseconds of CPU for each message, and how often threads of workers were woken up for it.
The promise is: no rate falls below half of the simple case. With ``--celery`` the same of genuine Celery on
Redis: published one by one, and from a publish to its result.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import zmq
from _site import Cost, Site, offer_celery, ours, pss_mb, running, theirs, tree, until

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, new_id
from emq_compat.protocol.commands import Ack, Hello, Request
from emq_compat.wire import Wire

#: Results that are waited for, one after the other.
ASKED = 300

#: A client of genuine Celery's: publishes to queues, and waits for results.
PUBLISHER = """
import json, os, statistics, sys, time
from bench_tasks import app, count, echo

workers, n, asked, queues = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
while len(app.control.ping(timeout=2)) < workers:
    pass
counted = os.environ["BENCH_COUNT"]


def publish(k):
    before = os.stat(counted).st_size
    began = time.perf_counter()
    for i in range(k):
        count.apply_async(queue=queues[i % len(queues)])
    rate = k / (time.perf_counter() - began)
    while os.stat(counted).st_size < before + k:
        time.sleep(0.01)
    return rate


publish(len(queues))
told = {"one by one/s": publish(n)}
times = []
for i in range(asked):
    began = time.perf_counter()
    echo.apply_async((5,), queue=queues[i % len(queues)]).get(timeout=30)
    times.append(time.perf_counter() - began)
print(json.dumps({**told, "to the result, ms": 1e3 * statistics.median(times)}))
"""


def message(queue: str, task: str, *, no_result: bool = False) -> Publish:
    """A task of ``bench_tasks``."""
    args, told = [] if task == "count" else [5], {"task": f"bench_tasks.{task}"}
    payload = Job(path="bench_tasks", callable=task, args=args, celery=told).encode()
    headers = Headers(guarantee=True, task_id=new_id(), task=f"bench_tasks.{task}", no_result=no_result)
    return Publish(queue=queue, headers=headers, payload=payload)


class Clients:
    """Connected clients, all in this process."""

    def __init__(self, endpoint: str, count: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 16_384)
        self._poller = zmq.Poller()
        self._wires: dict[zmq.Socket[bytes], Wire] = {}
        for i in range(count):
            wire = Wire(self._context, endpoint, identity=f"crowd-{i}".encode(), once=True)
            wire.send(Hello(msgid=new_id(), about={}))
            self._wires[wire.socket] = wire
            self._poller.register(wire.socket, zmq.POLLIN)
        self._answered(count, Hello)

    def _answered(self, count: int, kind: type, each: Sequence[Request] = ()) -> None:
        """Receive so many answers; after each, its client sends one more of ``each``."""
        left = iter(each)
        deadline = time.monotonic() + 120
        while count > 0:
            assert time.monotonic() < deadline, f"{count} clients have no answer"
            for readable, _ in self._poller.poll(1000):
                wire = self._wires[readable]
                for command in wire.receive():
                    if isinstance(command, kind):
                        count -= 1
                        if (request := next(left, None)) is not None:
                            wire.send(request)

    def publish(self, requests: list[Request]) -> None:
        """Publish them all, one message of each client under way."""
        first = requests[: len(self._wires)]
        for wire, request in zip(self._wires.values(), first):  # noqa: B905 - fewer messages than clients
            wire.send(request)
        self._answered(len(requests), Ack, requests[len(first) :])

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._context.term()


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that don't run inside the block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def measure(
    site: Site, workers: int, queues: list[str], clients: int, n: int, drain: int
) -> dict[str, float]:
    """The rates of one case."""
    solo = workers > 1
    argv = [*site.worker[:-1], "1", "-P", "solo"] if solo else site.worker
    counted = Path(site.env["BENCH_COUNT"])

    def spread(count: int, task: str, *, no_result: bool = True) -> list[Publish]:
        return [message(queues[i % len(queues)], task, no_result=no_result) for i in range(count)]

    with ExitStack() as stack:
        client = stack.enter_context(Client(site.env["BENCH_BROKER"], timeout_s=60))
        started: list[subprocess.Popen[bytes]] = []
        for i in range(workers):
            named = [*argv, "-Q", ",".join(queues), "-n", f"worker-{i}@crowd"]
            started.append(stack.enter_context(running(named, site.folder, site.env)))
        until(lambda: len(client.ask("workers")) == workers, 170, f"{workers} workers are here", pause_s=0.1)
        crowd = Clients(site.env["BENCH_BROKER"].replace("emq://", "tcp://").partition("?")[0], clients)
        stack.callback(crowd.close)

        def ran(count: int) -> None:
            until(lambda: counted.stat().st_size >= count, 120, f"{count} tasks ran")
            counted.write_bytes(b"")

        client.publish_all(spread(len(queues), "count"))
        ran(len(queues))
        rates: dict[str, float] = {}

        @contextmanager
        def timed(what: str, count: int) -> Iterator[None]:
            began, cost = time.perf_counter(), Cost.of(site.broker.pid)
            yield
            rates[f"{what}/s"] = count / (time.perf_counter() - began)
            rates[f"{what}, broker us"] = 1e6 * Cost.of(site.broker.pid).since(cost).cpu_s / count

        one_by_one = spread(n, "count")
        costs, own = [Cost.of(worker.pid) for worker in started], time.process_time()
        with timed("one by one", n):
            for publish in one_by_one:
                client.publish(publish)
        rates["one by one, client us"] = 1e6 * (time.process_time() - own) / n
        ran(n)
        used = [Cost.of(w.pid).since(was) for w, was in zip(started, costs, strict=True)]
        rates["one by one, workers us"] = 1e6 * sum(cost.cpu_s for cost in used) / n
        rates["one by one, workers' wakes"] = sum(cost.wakes for cost in used) / n
        by_all = [
            Request(msgid=p.msgid, queue=p.queue, headers=p.headers, payload=p.payload)
            for p in spread(n, "count")
        ]
        with timed("by all clients", n):
            crowd.publish(by_all)
        ran(n)
        many = spread(drain, "count")
        pids = [process.pid for worker in started for process in tree(worker.pid)]
        with stopped(pids):
            with timed("in bulk", drain):
                client.publish_all(many)
            costs = [Cost.of(worker.pid) for worker in started]  # takes a while: they would drain meanwhile
        with timed("drained", drain):
            until(lambda: counted.stat().st_size >= drain, 120, f"{drain} tasks ran")
        used = [Cost.of(w.pid).since(was) for w, was in zip(started, costs, strict=True)]
        rates["drained, workers us"] = 1e6 * sum(cost.cpu_s for cost in used) / drain
        times = []
        costs, own = [Cost.of(worker.pid) for worker in (*started, site.broker)], time.process_time()
        for publish in spread(ASKED, "echo", no_result=False):
            began = time.perf_counter()
            client.publish(publish)
            client.wait(publish.headers.task_id, timeout_s=30)
            times.append(time.perf_counter() - began)
        own = time.process_time() - own
        used = [Cost.of(w.pid).since(was) for w, was in zip((*started, site.broker), costs, strict=True)]
        rates["to the result, ms"] = 1e3 * statistics.median(times)
        rates["to the result, broker us"] = 1e6 * used[-1].cpu_s / ASKED
        rates["to the result, client us"] = 1e6 * own / ASKED
        rates["to the result, workers us"] = 1e6 * sum(cost.cpu_s for cost in used[:-1]) / ASKED
        rates["broker, MB"] = pss_mb(site.broker.pid)
        rates["a worker, MB"] = pss_mb(started[0].pid)
        return rates


def measure_celery(site: Site, workers: int, queues: list[str], clients: int, n: int) -> dict[str, float]:
    """The same of genuine Celery: rates of one case."""
    argv = [*site.worker[:-1], "1", "-P", "solo"] if workers > 1 else site.worker
    listen = ["--without-gossip", "--without-mingle", "-Q", ",".join(queues)]
    redis = "127.0.0.1", int(site.env["BENCH_BROKER"].rpartition(":")[2].partition("/")[0])

    def connects() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(redis) == 0

    until(connects, 10, "Redis is here")
    with ExitStack() as stack:
        for i in range(workers):
            stack.enter_context(running([*argv, *listen, "-n", f"worker-{i}@crowd"], site.folder, site.env))
        for _ in range(clients):
            stack.enter_context(socket.create_connection(redis))
        asked = [site.python, "-c", PUBLISHER, str(workers), str(n), str(ASKED), ",".join(queues)]
        told = subprocess.run(asked, env=site.env, cwd=site.folder, stdout=subprocess.PIPE, check=True)
        rates: dict[str, float] = json.loads(told.stdout)
        return {f"Celery, {kind}": rate for kind, rate in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queues", type=int, default=100)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--drain", type=int, default=10_000)
    parser.add_argument("-r", "--rounds", type=int, default=1)
    offer_celery(parser)
    options = parser.parse_args()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    queues = [f"bench-{i}" for i in range(options.queues)]
    cases = {"simple": (1, ["bench"], 1), "crowd": (options.workers, queues, options.clients)}
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name, (workers, listened, clients) in cases.items():
            with ours() as site:
                row = measure(site, workers, listened, clients, options.n, options.drain)
            if options.celery is not None:
                with theirs(options.celery) as site:
                    row |= measure_celery(site, workers, listened, clients, options.n)
            found.setdefault(name, []).append(row)
    simple, crowd = (
        {kind: statistics.median(row[kind] for row in rows) for kind in rows[0]} for rows in found.values()
    )
    print(f"{'':<28} {'simple':>10} {'crowd':>10} {'ratio':>7}")
    for kind, value in simple.items():
        ratio = f"{crowd[kind] / value:7.2f}" if value else f"{'-':>7}"  # CPU time below a tick
        print(f"{kind:<28} {value:10.1f} {crowd[kind]:10.1f} {ratio}")


if __name__ == "__main__":
    main()
