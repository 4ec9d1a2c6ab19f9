"""A broker in this process, and what its pages tell of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig
from emq_compat.errors import JournalError
from emq_compat.monitor import asking
from emq_compat.monitor.address import HttpAddress
from emq_compat.monitor.broker import BrokerMonitor
from tests.monitor.pages import health, page, read
from tests.processes import wait_until

pytestmark = [pytest.mark.integration]


@pytest.fixture
def monitor() -> Iterator[BrokerMonitor]:
    made = BrokerMonitor(HttpAddress("127.0.0.1", 0))
    made.http.start()
    yield made
    made.http.stop()


@pytest.fixture
def server(tmp_path: Path, monitor: BrokerMonitor) -> Iterator[Server]:
    sockets = {
        name: f"ipc://{tmp_path}/{socket}.sock"
        for name, socket in (("frontend", "client"), ("backend", "worker"), ("admin", "admin"))
    }
    made = Server(BrokerConfig(data=tmp_path / "data", **sockets))
    monitor.watch(made)
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    made.stop()
    thread.join()
    made.close()


def test_one_that_starts_lives_and_is_not_ready(monitor: BrokerMonitor) -> None:
    """While the journal is being opened a broker lives and is not ready."""
    address = monitor.http.address
    assert 200 == page(address, "/live").status
    assert (503, {"started": "the journal is being opened"}) == (
        (answer := page(address, "/ready")).status,
        answer.wrong,
    )
    assert (1, "not ready: started: the journal is being opened") == health("--http", str(address))
    assert 503 == read(address, "/metrics")[0]


def test_one_whose_loop_is_stuck_does_not_live(
    monitor: BrokerMonitor, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that doesn't turn is told within the time that it has, and forgiven once it turns again."""
    address = monitor.http.address
    assert monitor._asker is not None
    monkeypatch.setattr(monitor._asker, "_within_s", 0.3)
    assert (200, {}) == ((answer := page(address, "/live")).status, answer.wrong)
    held, let_go = threading.Event(), threading.Event()

    def hold_up() -> None:
        held.set()
        let_go.wait(20)

    server.call_soon(hold_up)
    assert held.wait(20)
    for path in ("/live", "/ready"):
        assert {"loop": "the loop has not turned for 0.3 s"} == page(address, path).wrong
    assert (1, "not live: the loop has not turned for 0.3 s") == health(
        "--live", "--http", str(address)
    )
    assert 503 == read(address, "/metrics")[0]
    # However often it is asked meanwhile, the loop is asked once for each page.
    assert len(server._calls) <= 3
    let_go.set()
    assert (0, "live") == health("--live", "--http", str(address))
    assert asking.TURNS_WITHIN_S < 3.0  # what probes usually wait


def test_one_that_cannot_write_lives_and_is_not_ready(
    monitor: BrokerMonitor, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk makes a broker not ready, for those who ask it by its protocol as well, and passes."""
    address, url = monitor.http.address, f"emq+ipc://{tmp_path}"
    assert (0, "ready") == health("--http", str(address))
    assert (0, "ready") == health("-b", url)
    full = threading.Event()
    full.set()

    def commit(*, told: bool = True) -> None:
        if full.is_set():
            raise JournalError("the journal can't be written: no space left on device")
        real(told=told)

    real = server.store.commit
    monkeypatch.setattr(server.store, "commit", commit)
    monkeypatch.setattr(server.store, "probe", lambda: not full.is_set())
    server.call_soon(lambda: None)  # a turn
    wait_until(lambda: page(address, "/ready").status == 503)
    assert (1, "not ready: journal: the journal can't be written: no space left on device") == health(
        "--http", str(address)
    )
    assert (0, "live") == health("--live", "--http", str(address))
    status, line = health("-b", url)
    assert status == 1
    assert "not ready: journal: the broker answers and changes nothing until" in line
    assert (0, "live") == health("--live", "-b", url)
    full.clear()
    wait_until(lambda: page(address, "/ready").status == 200)
    assert (0, "ready") == health("-b", url)


def test_without_prometheus_client_metrics_say_what_to_install(
    monitor: BrokerMonitor, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra health is told as ever, and the page of metrics says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    status, body = read(monitor.http.address, "/metrics")
    assert (501, True) == (status, b"pip install 'emq-compat[metrics]'" in body)
    assert 200 == page(monitor.http.address, "/ready").status


def test_nobody_there_is_not_live(tmp_path: Path, free_port: object) -> None:
    """Where nothing answers, health says so in one line and ends with 1; a wrong call ends with 2."""
    assert callable(free_port)
    port = str(free_port())
    assert (1, f"not live: no answer from 127.0.0.1:{port}: Connection refused") == health(
        "--live", "--http", port
    )
    status, line = health("--live", "-t", "0.3", "-b", f"emq+ipc://{tmp_path}")
    assert (1, True) == (status, line.startswith("not live: "))
    assert 2 == health("--http", "nonsense")[0]
    assert 2 == health("--http", port, "-d", "celery@here")[0]
