"""RabbitMQ that restarts, stands still, or takes a long task for stuck (case 41): a node of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cases.conftest import pass_s
from tests.mixed_site import MixedSite, open_mixed_site
from tests.processes import Procs, wait_until
from tests.services import rabbitmq
from tests.services.launch import end
from tests.services.state import Owned, Service

pytestmark = [pytest.mark.faults, pytest.mark.long]

#: A fresh ping ends within this after the broker's return.
BACK_S = 10.0

START = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from tests.services import rabbitmq
program, port, folder, advanced = sys.argv[1:]
print(json.dumps(asdict(rabbitmq.start(program, int(port), Path(folder), advanced))))
"""


class Node:
    """A RabbitMQ of the test's own, at one port."""

    def __init__(self, program: str, port: int, folder: Path) -> None:
        self._program, self._port, self._folder = program, port, folder
        self.service: Service | None = None

    def start(self, advanced: str = "") -> None:
        # By a process that ends: this one must not be the parent of what it ends and starts again.
        argv = (sys.executable, "-c", START, self._program, str(self._port), str(self._folder), advanced)
        told = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=150).stdout)
        owned = tuple(Owned(**one) for one in told["owned"])
        self.service = Service(name="amqp", url=told["url"], folder=str(self._folder), owned=owned)

    def signal(self, signum: int) -> None:
        assert self.service is not None
        os.kill(self.service.owned[0].pid, signum)

    def stop(self) -> None:
        """End it; the folder stays."""
        assert self.service is not None
        for owned in self.service.owned:
            process = owned.process()
            if process is not None:
                process.terminate()
                wait_until(lambda owned=owned: owned.process() is None, 60)

    def remove(self) -> None:
        if self.service is not None:
            end(self.service, 30)


@pytest.fixture
def node(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Node]:
    program = rabbitmq.program()
    if program is None:
        missing = "RabbitMQ isn't installed: run `make services`"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    folder = tmp_path / "node"
    folder.mkdir()
    made = Node(program, free_port(), folder)
    yield made
    made.remove()


@pytest.fixture
def site(
    request: pytest.FixtureRequest, node: Node, tmp_path: Path, procs: Procs, free_port: Callable[[], int]
) -> Iterator[MixedSite]:
    node.start(getattr(request, "param", ""))

    def url() -> str:
        assert node.service is not None
        return node.service.url

    with open_mixed_site("genuine-amqp", tmp_path, procs, free_port, url) as made:
        made.write_project(task_acks_late=True)
        yield made


@pytest.mark.parametrize(
    "site",
    ["[{rabbit, [{consumer_timeout, 5000}, {channel_tick_interval, 1000}]}]."],
    indirect=True,
    ids=["5s"],
)
def test_the_consumer_timeout_ends_no_task(site: MixedSite) -> None:
    """A task of 12 s under a timeout of 5 s runs once, and its result comes; the worker lives (41b)."""
    worker = site.start_worker("-c", "1")
    assert "long" == site.ask("sleep.delay(12, 'long').get(timeout=40)")
    assert "after" == site.ask("ping.delay('after').get(timeout=20)")
    assert "PRECONDITION" in worker.output() or "PreconditionFailed" in worker.output()
    assert 1 == site.count("start long")
    assert worker.alive()


@pytest.mark.parametrize("fault", ["restart", "stopped"])
def test_a_broker_that_is_away(site: MixedSite, node: Node, fault: str) -> None:
    """After a restart of 20 s, or 30 s of standing still, nothing is lost, no running task starts again."""
    worker = site.start_worker("-c", "2")
    site.ask("pass; sleep.delay(45, 'busy'); [ping.delay(f'p{n}') for n in range(5)]")
    site.wait_runs("start busy")
    if fault == "restart":
        node.stop()
        pass_s(20)
        node.start()
    else:
        node.signal(signal.SIGSTOP)
        pass_s(30)
        node.signal(signal.SIGCONT)
    site.ask("pass; ping.delay('after')")
    site.wait_runs("ping after", timeout_s=BACK_S)
    site.wait_runs("end busy", timeout_s=60)
    pass_s(2)
    assert 1 == site.count("start busy")
    assert [1] * 5 == [site.count(f"ping p{n}") for n in range(5)]
    assert worker.alive()
