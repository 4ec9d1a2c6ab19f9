"""What events cost: in a worker's parent and in its child, in µs of CPU a task, and end to end.

usage: events.py [-n N] [--live]

Without ``--live`` the parts that a job manager calls are called in a loop, with task events off and on: each
figure is the best of seven rounds. With it, a broker and a prefork worker run N tasks without and with -E,
while a receiver takes all events in.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _timing import best_us

from emq_compat.celery_shim import Celery
from emq_compat.client import Client
from emq_compat.message import Delivery, Headers, Publish
from emq_compat.shim.program import ShimProgram

PROJECT = """
from emq_compat.celery_shim import Celery

app = Celery("benchproj", broker={url!r})


@app.task(ignore_result=True)
def add(x, y):
    return x + y
"""


class Null:
    """A client that takes a message and does nothing with it."""

    stock = False
    last: Publish

    def publish(self, message: Publish) -> None:
        self.last = message


class Manager:
    """What an onlooker looks at."""

    def __init__(self) -> None:
        self.jobs_in_flight: dict[str, Any] = {}
        self.runs_by_task: dict[str, int] = {}


def parts(count: int, *, on: bool) -> None:
    """Show what the parent and the child do for a task, beside what they do anyway."""
    app = Celery("bench")
    client = Null()
    app.client = client  # type: ignore[assignment]
    app.conf.worker_send_task_events = on

    @app.task(name="bench.add")
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 2)
    message = client.last
    headers = Headers.decode(message.headers.encode())
    delivery = Delivery(msgid=message.msgid, queue=message.queue, headers=headers, payload=message.payload)
    program = ShimProgram(app)
    program.load()
    onlooker, manager = program.announcer, Manager()
    onlooker.connected(manager, lambda topic, payload: True, anew=True)
    reply = program.work(delivery, lambda state, body: None)

    def parent() -> None:
        onlooker.received(delivery)
        onlooker.began(delivery)
        onlooker.ended(delivery, reply)
        onlooker.turn(manager, 0.0)

    def child() -> None:
        program.work(delivery, lambda state, body: None)

    what = "with events" if on else "without"
    print(f"{what:12} in the parent    {best_us(parent, count):6.2f} µs a task")
    print(f"{what:12} in the child     {best_us(child, count):6.2f} µs a task")


def live(count: int, *options: str) -> None:
    """Show how many tasks a second a worker runs with these options."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"emq+ipc://{folder}/sockets"
        Path(folder, "benchproj.py").write_text(PROJECT.format(url=url))
        sys.path.insert(0, folder)
        sys.modules.pop("benchproj", None)
        project = importlib.import_module("benchproj")
        emq = [sys.executable, "-m", "emq_compat"]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        worker = [*emq, "worker", "-A", "benchproj", "-c", "2", *options]
        processes = [subprocess.Popen([*emq, "broker", "--memory", "--ipc", f"{folder}/sockets"], **quiet)]
        try:
            client = Client(url, timeout_s=20)
            client.ask("stats")
            heard: list[object] = []
            receiver = project.app.events.Receiver(project.app.connection(), {"*": heard.append})
            receiver.queue.declare()
            taking = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
            taking.start()
            with project.app.pipeline():
                for number in range(count):
                    project.add.delay(number, 1)
            processes.append(subprocess.Popen(worker, **quiet))
            while not (before := client.ask("stats")["finished"]):
                time.sleep(0.01)
            began = time.monotonic()
            while (finished := client.ask("stats")["finished"]) < count:
                time.sleep(0.02)
            per_s = (finished - before) / (time.monotonic() - began)
            stats = client.ask("stats")
            receiver.should_stop = True
            taking.join(5)
            what = " ".join(options) or "without"
            print(f"{what:12} {per_s:8.0f} tasks/s")
            print(f"{what:12} {len(heard):8} events in {stats['topics']} messages")
        finally:
            for process in reversed(processes):
                process.terminate()
                process.wait(30)
            sys.path.remove(folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--live", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    if options.live:
        live(options.n)
        live(options.n, "-E")
    else:
        parts(options.n, on=False)
        parts(options.n, on=True)


if __name__ == "__main__":
    main()
