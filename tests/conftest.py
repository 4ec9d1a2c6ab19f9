"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import zmq

from tests.broker_process import Broker
from tests.hand_worker import HandWorker
from tests.processes import Procs, unused_port, wait_until
from tests.services.state import service_url
from tests.site import Site, open_site

pytest_plugins = ["pytester", "tests.stock.fixtures"]

# A shell ignores SIGINT for what it runs in the background, and what that starts does as well. Tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_REPORT = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        item.stash[_REPORT] = True
    return report


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a free TCP port on 127.0.0.1, another one at each call."""
    return unused_port


@pytest.fixture
def procs(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Procs]:
    """Starts real processes and ends them; a failed test shows the ends of their logs."""
    folder = tmp_path / "procs"
    folder.mkdir()
    processes = Procs(folder)
    try:
        yield processes
    finally:
        try:
            processes.close()
        finally:
            if request.node.stash.get(_REPORT, False):
                print(processes.report())


@pytest.fixture
def site(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> Iterator[Site]:
    """A project with tasks, whose broker and workers a test starts (tests/site.py)."""
    with open_site(tmp_path, procs, free_port) as made:
        yield made


@pytest.fixture
def broker(procs: Procs, free_port: Callable[[], int], tmp_path: Path) -> Iterator[Broker]:
    """A broker that is not started yet."""
    made = Broker(procs, free_port, tmp_path / "data")
    yield made
    made.client.close()


@pytest.fixture
def hand_worker(broker: Broker) -> Iterator[Callable[..., HandWorker]]:
    """A function that connects workers played by hand."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[HandWorker] = []

    def worker(*queues: str, tasks: Mapping[str, str] | None = None) -> HandWorker:
        made.append(HandWorker(context, broker.endpoint("backend"), *queues, tasks=tasks))
        return made[-1]

    yield worker
    for one in made:
        one.close()
    context.destroy(linger=0)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """A function that writes a text file below `tmp_path`, making folders, and returns its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The URL of a real Redis."""
    return _required("redis", "EMQ_TEST_REDIS")


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """The URL of a real RabbitMQ."""
    return _required("amqp", "EMQ_TEST_AMQP")


def _required(service: str, variable: str) -> str:
    url = os.environ.get(variable) or service_url(service)
    if url:
        return url
    missing = f"no {service} service: run `make services`, or set {variable}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


__all__ = ["wait_until"]
