"""What ``--http`` costs: a worker a task, a broker a turn, and each of them a scrape; in µs of CPU.

usage: monitor.py [-n N] [--queues N]

The parts are called in a loop, without sockets: each figure is the best of seven rounds.
"""

from __future__ import annotations

import argparse
import tempfile

from _timing import best_us

from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig
from emq_compat.jobmanager import JobManager
from emq_compat.message import SUCCESS, Delivery, Headers, new_id
from emq_compat.monitor.broker_figures import BROKER_FAMILIES, BrokerCounts
from emq_compat.monitor.exposition import exposed
from emq_compat.monitor.worker_figures import WORKER_FAMILIES, WorkerCounts


def worker(count: int) -> None:
    """Show what a worker's loop does for a task, and for a scrape."""
    manager = JobManager("bench", pool="threads", skip_signal=True, allow=["bench.*"])
    counts = WorkerCounts(manager)
    deliveries = [
        Delivery(msgid=new_id(), queue="celery", headers=Headers(task=f"bench.task{n}"), payload=b"")
        for n in range(100)
    ]

    def tasks() -> None:
        for delivery in deliveries:
            counts.began(delivery)
            counts.ended(delivery, SUCCESS, 0.01)

    print(f"worker, counting      {best_us(tasks, count // 100) / 100:8.2f} µs a task")
    print(f"worker, in the loop   {best_us(counts.figures, 20):8.0f} µs a scrape, 100 tasks")
    figures = counts.figures()
    print(f"worker, in the thread {best_us(lambda: exposed(WORKER_FAMILIES, figures), 20):8.0f} µs a scrape")


def broker(count: int, queues: int) -> None:
    """Show what a broker's loop does for a turn, and for a scrape."""
    with tempfile.TemporaryDirectory() as folder:
        sockets = {name: f"ipc://{folder}/{name}" for name in ("frontend", "backend", "admin")}
        server = Server(BrokerConfig(memory=True, **sockets))  # type: ignore[arg-type]
        counts = BrokerCounts(server)
        for number in range(queues):
            server.engine.queues.get(f"queue{number}")

        def turn() -> None:
            counts._turn(lambda: False)
            counts._wrote("record", 0.001)

        print(f"broker, counting      {best_us(turn, count):8.2f} µs a turn")
        print(f"broker, in the loop   {best_us(counts.figures, 20):8.0f} µs a scrape, {queues} queues")
        figures = counts.figures()
        print(
            f"broker, in the thread {best_us(lambda: exposed(BROKER_FAMILIES, figures), 20):8.0f} µs a scrape"
        )
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=20_000, help="tasks and turns in a round")
    parser.add_argument("--queues", type=int, default=200, help="queues of the broker")
    options = parser.parse_args()
    worker(options.n)
    broker(options.n, options.queues)


if __name__ == "__main__":
    main()
