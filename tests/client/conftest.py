"""Fixtures of the client's tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from emq_compat.client import Client
from emq_compat.message import Headers, Publish, new_id
from tests.client.fake_broker import FakeBroker
from tests.processes import Proc, Procs


def message(queue: str = "q", **headers: Any) -> Publish:
    """A message that any broker takes."""
    payload = b'["run",{"path":"m","callable":"f"}]'
    return Publish(queue=queue, headers=Headers(task_id=new_id(), **headers), payload=payload)


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """The block takes at most ``limit_s``."""
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun <= limit_s


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """A function that makes clients, which are closed at the end."""
    made: list[Client] = []

    def client(url: str, timeout_s: float = 4.0, **options: Any) -> Client:
        made.append(Client(url, timeout_s=timeout_s, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture
def client(broker: FakeBroker, connect: Callable[..., Client]) -> Client:
    return connect(broker.url)


class BrokerProcess:
    """The fake broker as a process that can be stopped, killed and started again on its port."""

    def __init__(self, procs: Procs, port: int, file: Path) -> None:
        self.procs = procs
        self.port = port
        self.file = file
        self.url = f"emq://127.0.0.1:{port}"
        self.proc = self.start()

    def start(self) -> Proc:
        endpoint = f"tcp://127.0.0.1:{self.port}"
        argv = ("-m", "tests.client.fake_broker", endpoint, self.file)
        self.proc = self.procs.python(*argv, ready="listening")
        return self.proc

    def taken(self) -> list[str]:
        """The msgids that were taken, one for each time."""
        return self.file.read_text().split()


@pytest.fixture
def broker_process(procs: Procs, free_port: Callable[[], int], tmp_path: Path) -> BrokerProcess:
    return BrokerProcess(procs, free_port(), tmp_path / "taken")
