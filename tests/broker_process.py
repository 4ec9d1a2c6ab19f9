"""A real broker process. The fixture is ``broker`` of tests/conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from emq_compat.client import Client
from tests.processes import Proc, Procs

#: What the broker says once it listens.
STARTED = "clients tcp://"


class Broker:
    """A broker process that can be killed and started again on its folder and ports.

    Attributes:
        url: its address, for clients and workers.
        proc: the process, once it was started.
    """

    def __init__(self, procs: Procs, port: Callable[[], int], data: Path) -> None:
        self.procs = procs
        self.data = data
        self.ports = {name: port() for name in ("frontend", "backend", "admin")}
        self.url = self.address()
        self.client = Client(self.url)
        self.proc: Proc | None = None

    def address(self, frontend: int = 0, backend: int = 0) -> str:
        """Its address, or that of a proxy at these ports in front of it."""
        ports = frontend or self.ports["frontend"], backend or self.ports["backend"]
        return "emq://127.0.0.1:{}?worker_port={}".format(*ports)

    def argv(self, *options: str) -> list[str]:
        """The command line."""
        sockets = [part for name, n in self.ports.items() for part in (f"--{name}", f"tcp://127.0.0.1:{n}")]
        return ["broker", *sockets, *([] if "--memory" in options else ["--data", str(self.data)]), *options]

    def start(self, *options: str, ready: str | None = STARTED) -> Proc:
        """Start it, and wait until it is up."""
        self.proc = self.procs.emq(*self.argv(*options), ready=ready, timeout_s=60)
        return self.proc

    def endpoint(self, name: str) -> str:
        """One of its endpoints."""
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def waiting(self, queue: str = "q") -> int:
        """How many messages wait in a queue, delayed ones included."""
        rows = self.client.ask("queues")
        return sum(row["waiting"] + row["delayed"] for row in rows if row["name"] == queue)

    def held(self, queue: str = "q") -> int:
        """How many messages of a queue have not ended: those that wait, and those that somebody has."""
        rows = self.client.ask("queues")
        return sum(row["waiting"] + row["delayed"] + row["in_flight"] for row in rows if row["name"] == queue)
