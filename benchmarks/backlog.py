"""What a backlog costs the broker: publishing in bulk to an empty one and to a full one, memory, a new start.

    python benchmarks/backlog.py [-n 20000] [--probe 20000] [--durability full|normal] [--eta]

Publishes ``--probe`` messages in bulk to an empty broker, then fills it up to ``-n`` waiting ones (``--eta``:
due in an hour), publishes as many again, stops it and starts it again. Prints messages a second, MiB resident
of the broker, and seconds from its start to its first answer. The promise is: with a million waiting bulk
publishing keeps 0.6 of its rate, the broker stays below 300 MB and starts in less than 5 s.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, new_id

PAYLOAD = Job(path="proj.tasks", callable="add", args=[2, 3]).encode()
CHUNK = 10_000


def free_ports(n: int) -> list[int]:
    """Ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def messages(n: int, eta: float) -> Iterator[Publish]:
    """n messages of a short task."""
    for _ in range(n):
        headers = Headers(guarantee=True, task_id=new_id(), task="proj.tasks.add", eta=eta)
        yield Publish(queue="celery", headers=headers, payload=PAYLOAD)


def publish(client: Client, n: int, eta: float = 0.0) -> float:
    """Publish n in bulk; returns messages a second."""
    begun = time.perf_counter()
    for i in range(0, n, CHUNK):
        client.publish_all(messages(min(CHUNK, n - i), eta))
    return n / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--probe", type=int, default=20_000)
    parser.add_argument("--durability", default="full", choices=["full", "normal"])
    parser.add_argument("--eta", action="store_true")
    options = parser.parse_args()
    eta = time.time() + 3600 if options.eta else 0.0
    client_port, worker_port, admin_port = free_ports(3)
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            str(Path(sys.executable).with_name("emq-compat")), "broker", "--data", f"{folder}/data",
            "--durability", options.durability, "-l", "warning",
            "--frontend", f"tcp://127.0.0.1:{client_port}", "--backend", f"tcp://127.0.0.1:{worker_port}",
            "--admin", f"tcp://127.0.0.1:{admin_port}",
        ]  # fmt: skip
        broker = subprocess.Popen(argv)
        try:
            with Client(f"emq://127.0.0.1:{client_port}", timeout_s=60) as client:
                client.ask("stats")
                empty = publish(client, options.probe)
                print(f"bulk, empty broker    {empty:10.0f} messages/s")
                filled = publish(client, max(options.n - options.probe, 0), eta)
                print(f"bulk, filling         {filled:10.0f} messages/s")
                full = publish(client, options.probe)
                print(f"bulk, {options.n:>9} wait  {full:10.0f} messages/s  {full / empty:.2f} of empty")
                print(f"broker's memory       {rss(broker.pid):10.1f} MiB")
            broker.terminate()
            broker.wait()
            begun = time.perf_counter()
            broker = subprocess.Popen(argv)
            with Client(f"emq://127.0.0.1:{client_port}", timeout_s=60) as client:
                [queue] = client.ask("queues")
                print(f"start to first answer {time.perf_counter() - begun:10.2f} s")
                print(f"its memory then       {rss(broker.pid):10.1f} MiB")
                assert queue["waiting"] + queue["delayed"] >= options.n + options.probe
                print(f"journal               {client.ask('stats')['journal_bytes'] / 2**20:10.1f} MiB")
        finally:
            broker.terminate()
            broker.wait()


def rss(pid: int) -> float:
    """MiB resident."""
    return float(psutil.Process(pid).memory_info().rss / 2**20)


if __name__ == "__main__":
    main()
