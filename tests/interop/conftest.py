"""Both sides of each meeting: a stock router, our broker, our job manager, and the notes that jobs leave."""

from __future__ import annotations

import ast
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Proc, Procs, wait_until
from tests.stock.peers import TASKS, Stock


class Notes:
    """The file to which `stock_tasks.note` appends a line for each run."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def lines(self) -> list[str]:
        """What has been noted so far, in order."""
        return Path(self.path).read_text().splitlines() if Path(self.path).exists() else []

    def counts(self) -> Counter[str]:
        """How often each line has been noted."""
        return Counter(self.lines())

    def wait(self, count: int, timeout_s: float = 20.0) -> list[str]:
        """Wait until so many different lines are there; returns all of them."""
        wait_until(lambda: len(self.counts()) >= count, timeout_s, what=f"{count} notes")
        return self.lines()


class StockRouter:
    """A stock router that can be killed and started again at its addresses."""

    def __init__(self, stock: Stock, port: Callable[[], int]) -> None:
        self.stock = stock
        self.ports = {name: port() for name in ("frontend", "backend", "admin")}
        self.url = f"emq://127.0.0.1:{self.ports['frontend']}?worker_port={self.ports['backend']}&stock=1"
        self.proc: Proc | None = None

    def endpoint(self, name: str) -> str:
        """One of its endpoints."""
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def start(self, **settings: str) -> Proc:
        """Start it, to beat every second; `settings` are eventmq's."""
        settings = {"HEARTBEAT_INTERVAL": "1", **settings}
        frontend, backend, admin = (self.endpoint(name) for name in ("frontend", "backend", "admin"))
        self.proc = self.stock.router(frontend=frontend, backend=backend, admin=admin, **settings)
        return self.proc

    def shown(self, command: str) -> dict[str, Any]:
        """What emq-cli shows for `status`, `show_workers` or `show_schedulers`."""
        return shown(self.stock, self.endpoint("admin"), command)

    def defer(self, *jobs: str, timeout_s: float = 20.0) -> str:
        """Have a stock client defer jobs, each the arguments of `defer_job` behind the socket."""
        return defer(self.stock, self.endpoint("frontend"), *jobs, timeout_s=timeout_s)


def shown(stock: Stock, admin: str, command: str) -> dict[str, Any]:
    """The object that emq-cli prints for a command."""
    printed = stock.cli(admin, command)
    found: dict[str, Any] = ast.literal_eval(printed[printed.index("{") : printed.rindex("}") + 1])
    return found


def defer(stock: Stock, frontend: str, *jobs: str, timeout_s: float = 20.0) -> str:
    """Have a stock client at `frontend` defer jobs; it ends once its socket has sent them."""
    lines = [f"assert messages.defer_job(socket, {job})" for job in jobs]
    code = "\n".join([*lines, "finish()"])
    return stock.client(code, broker=frontend, timeout_s=timeout_s)


class OurJobManager:
    """Starts `emq-compat jobmanager`, told by eventmq's settings in the environment."""

    def __init__(self, procs: Procs, folder: Path) -> None:
        self.procs = procs
        self.folder = folder

    def __call__(
        self,
        backend: str,
        *,
        jobs: int = 2,
        queues: Sequence[tuple[int, str]] = ((10, "default"),),
        ready: str | None = "connected to",
        path: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Proc:
        """Start one at the workers' address `backend`.

        Without the setting ALLOW it may run the sample tasks and nothing else; `path` holds further folders
        of importable modules.
        """
        env = {
            **(env or {}),
            "EVENTMQ_CONFIG_FILE": str(self.folder / "no-such.conf"),
            "EVENTMQ_WORKER_ADDR": backend,
            "EVENTMQ_CONCURRENT_JOBS": str(jobs),
            "EVENTMQ_QUEUES": json.dumps(queues),
            "EVENTMQ_ALLOW": '["stock_tasks*"]',
            **{f"EVENTMQ_{name}": value for name, value in settings.items()},
            "PYTHONPATH": os.pathsep.join(map(str, (TASKS, *path))),
        }
        return self.procs.emq("jobmanager", env=env, ready=ready)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """Where jobs note that they ran."""
    return Notes(tmp_path / "notes")


@pytest.fixture
def router(stock: Stock, free_port: Callable[[], int]) -> StockRouter:
    """A stock router that is not started yet."""
    return StockRouter(stock, free_port)


@pytest.fixture
def our_jobmanager(procs: Procs, tmp_path: Path) -> OurJobManager:
    """Starts job managers of ours."""
    return OurJobManager(procs, tmp_path)
