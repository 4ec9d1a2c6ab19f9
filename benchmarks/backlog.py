"""What a backlog costs the broker: publishing, draining, memory and a new start, beside an empty broker's.

    python benchmarks/backlog.py [-n 20000] [--eta 0] [--results 0] [--probe 20000] [-r 3]
        [--durability full|normal]

Fills one of two brokers with ``-n`` waiting messages, and ``--eta`` that are due in an hour, and waits there
for the results of ``--results`` tasks. Then it publishes ``--probe`` messages in bulk to the empty broker and
drains them (a worker played by this process), and does the same with the full one, ``-r`` times in turn. At
last the full broker is stopped and started again. Prints messages a second (and microseconds of the broker's
CPU for each) of each turn and their medians, MiB resident of the full broker, and seconds from its start to
its first answer. The promise is: with a million waiting, a million delayed and 100,000 results waited for,
bulk publishing keeps 0.6 of its rate and draining 0.9, the broker stays below 300 MB and starts in less than
5 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil
import zmq
from _site import BIN, Cost, free_ports, until

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import Capabilities, Inform, Ready, Reply, Request
from emq_compat.wire import Wire

PAYLOAD = Job(path="proj.tasks", callable="add", args=[2, 3]).encode()
CHUNK = 10_000


class Rate(NamedTuple):
    """Messages a second, and microseconds of the broker's CPU for each."""

    per_s: float
    cpu_us: float

    @classmethod
    def median(cls, rates: Sequence[Rate]) -> Rate:
        """The medians of both."""
        return cls(*(statistics.median(each) for each in zip(*rates, strict=True)))

    def beside(self, empty: Rate) -> str:
        """It, and what it is of an empty broker's."""
        return f"{self}   {self.per_s / empty.per_s:.2f} of empty; CPU {self.cpu_us / empty.cpu_us:.2f} of it"

    def __str__(self) -> str:
        return f"{self.per_s:10.0f} messages/s {self.cpu_us:6.1f} us"


class Watch:
    """Times what the broker is asked to do."""

    def __init__(self, broker: int) -> None:
        self._broker = broker
        self._began, self._cost = time.perf_counter(), Cost.of(broker)

    def rate(self, n: int) -> Rate:
        took = time.perf_counter() - self._began
        return Rate(n / took, 1e6 * Cost.of(self._broker).since(self._cost).cpu_s / n)


def messages(n: int, eta: float) -> Iterator[Publish]:
    """n messages of a short task."""
    for _ in range(n):
        headers = Headers(guarantee=True, task_id=new_id(), task="proj.tasks.add", eta=eta)
        yield Publish(queue="celery", headers=headers, payload=PAYLOAD)


def publish(client: Client, broker: int, n: int, eta: float = 0.0) -> Rate:
    """Publish n in bulk."""
    watch = Watch(broker)
    for i in range(0, n, CHUNK):
        client.publish_all(messages(min(CHUNK, n - i), eta))
    return watch.rate(max(n, 1))


def drain(endpoint: str, broker: int, n: int) -> Rate:
    """Be a worker that is given n messages and answers each at once."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wire = Wire(context, endpoint, identity=new_id().encode())
    about = Capabilities(slots=64, pid=0, hostname="bench", tasks={"proj.tasks.add": ""})
    wire.send(Inform(msgid=new_id(), queues=((0, "celery"),), role="worker", capabilities=about))
    wire.send(Ready(msgid=new_id(), count=min(n, 1000)))
    taken, asked = 0, min(n, 1000)
    watch: Watch | None = None
    try:
        while taken < n:
            assert wire.socket.poll(30_000), f"{taken} of {n} messages came"
            given = [command for command in wire.receive() if isinstance(command, Request)]
            if watch is None and given:
                watch = Watch(broker)
            taken += len(given)
            for request in given:
                headers = ReplyHeaders(attempt=request.headers.attempt, state="SUCCESS")
                body = b'{"value":5,"state":"SUCCESS"}'
                wire.send(Reply(msgid=new_id(), body=body, request_msgid=request.msgid, headers=headers))
            more = min(len(given), n - asked)
            if more:
                wire.send(Ready(msgid=new_id(), count=more))
                asked += more
        assert watch is not None
        return watch.rate(n)
    finally:
        wire.close(1.0)
        context.term()


class Place:
    """A broker of its own, below a folder.

    Attributes:
        process: it, while it runs.
    """

    def __init__(self, folder: Path, durability: str) -> None:
        folder.mkdir(0o700)
        client_port, worker_port, admin_port = free_ports(3)
        self.url = f"emq://127.0.0.1:{client_port}"
        self._backend = f"tcp://127.0.0.1:{worker_port}"
        self._argv = [
            str(BIN / "emq-compat"), "broker", "--data", str(folder), "--durability", durability,
            "-l", "error", "--frontend", f"tcp://127.0.0.1:{client_port}", "--backend", self._backend,
            "--admin", f"tcp://127.0.0.1:{admin_port}",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._argv)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def turn(self, client: Client, n: int) -> tuple[Rate, Rate]:
        """Publish n in bulk and drain them."""
        return publish(client, self.process.pid, n), drain(self._backend, self.process.pid, n)

    @property
    def mib(self) -> float:
        """MiB resident."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--eta", type=int, default=0)
    parser.add_argument("--results", type=int, default=0)
    parser.add_argument("--probe", type=int, default=20_000)
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--durability", default="full", choices=["full", "normal"])
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        empty, full = (Place(folder / name, options.durability) for name in ("empty", "full"))
        stack.callback(empty.stop)
        stack.callback(full.stop)
        with Client(empty.url, timeout_s=60) as to_empty, Client(full.url, timeout_s=60) as client:
            fill(full, client, options, stack)
            turns = []
            for _ in range(options.rounds):
                turns.append((*empty.turn(to_empty, options.probe), *full.turn(client, options.probe)))
                bulk, drained, bulk_full, drained_full = turns[-1]
                print(f"bulk                  {bulk_full.beside(bulk)}")
                print(f"drain                 {drained_full.beside(drained)}", flush=True)
            bulk, drained, bulk_full, drained_full = map(Rate.median, zip(*turns, strict=True))
            print(f"bulk, empty           {bulk}")
            print(f"bulk, full            {bulk_full.beside(bulk)}")
            print(f"drain, empty          {drained}")
            print(f"drain, full           {drained_full.beside(drained)}")
            print(f"broker's memory       {full.mib:10.1f} MiB; an empty one's {empty.mib:.1f}")
        full.stop()
        begun = time.perf_counter()
        full.start()
        with Client(full.url, timeout_s=60) as client:
            [queue] = client.ask("queues")
            print(f"start to first answer {time.perf_counter() - begun:10.2f} s")
            print(f"its memory then       {full.mib:10.1f} MiB")
            assert options.n + options.eta == queue["waiting"] + queue["delayed"]
            print(f"journal               {client.ask('stats')['journal_bytes'] / 2**20:10.1f} MiB")


def fill(place: Place, client: Client, options: argparse.Namespace, stack: ExitStack) -> None:
    """Have the broker hold what the options say; until ``stack`` ends it is waited for results."""
    hour = time.time() + 3600
    for what, count, eta in (("wait", options.n, 0.0), ("are delayed", options.eta, hour)):
        if count:
            print(f"bulk, filling         {publish(client, place.process.pid, count, eta)}")
            print(f"{count:>9} {what:<11} {place.mib:10.1f} MiB", flush=True)
    if options.results:
        waiting = client.waiting(new_id() for _ in range(options.results))
        stack.callback(waiting.close)
        waiting.take(time.monotonic() + 0.1)
        until(lambda: client.ask("stats")["waits"] >= options.results, 60, "the broker knows them")
        print(f"{options.results:>9} waited for  {place.mib:10.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
