"""Publishing while the broker is away (case 40)."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from emq_compat.celery_shim import OperationalError
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

#: What a call may take beyond its limit on a machine that is busy.
SLACK_S = 1.0


@pytest.fixture(params=[pytest.param(1.0, id="short"), pytest.param(None, id="full", marks=pytest.mark.long)])
def limit_s(site: Site, request: pytest.FixtureRequest) -> float:
    """Within how many seconds a call returns or raises: as the project says, or 5 where it says nothing."""
    if request.param is None:
        return 5.0
    site.write_project(f"\napp.conf.broker_connection_timeout = {request.param}\n")
    return float(request.param) + SLACK_S


class Publisher:
    """Publishes pings, and knows which of them were confirmed."""

    def __init__(self, site: Site, limit_s: float) -> None:
        self.site = site
        self.limit_s = limit_s
        self.confirmed: set[str] = set()
        self.raised: set[str] = set()
        self.longest_s = 0.0

    def publish(self, mark: str) -> bool:
        """Publish one; returns whether it was confirmed. Asserts that the call ended in time."""
        began = time.monotonic()
        try:
            self.site.tasks.ping.delay(mark)
        except OperationalError:
            self.raised.add(mark)
        else:
            self.confirmed.add(mark)
        took_s = time.monotonic() - began
        self.longest_s = max(self.longest_s, took_s)
        assert took_s < self.limit_s
        return mark in self.confirmed

    def assert_each_ran_once(self) -> None:
        """Start a worker: what was confirmed runs once, what raised at most once."""
        self.site.start_worker("-P", "threads")
        last = self.site.tasks.ping.delay("last")
        assert "last" == last.get(timeout=10)
        for mark in self.confirmed:
            self.site.wait_runs(f"ping {mark}", timeout_s=10)
        for mark in self.confirmed | self.raised:
            assert self.site.count(f"ping {mark}") in ((1,) if mark in self.confirmed else (0, 1))


@pytest.fixture
def publisher(site: Site, limit_s: float) -> Publisher:
    """A publisher under the limit."""
    return Publisher(site, limit_s)


@pytest.fixture
def silent(site: Site) -> Iterator[socket.socket]:
    """Whoever connects to the broker's address is accepted, and never answered."""
    with socket.create_server(("127.0.0.1", site.ports["frontend"])) as listener:
        yield listener


def test_nobody_listens(site: Site, publisher: Publisher) -> None:
    """40: the first call raises in time, and so does the second; once there is a broker, the next returns."""
    assert not publisher.publish("first")
    assert not publisher.publish("second")

    site.start_broker()

    assert publisher.publish("third")
    publisher.assert_each_ran_once()
    assert 0 == site.count("ping first") + site.count("ping second")


def test_nobody_answers(site: Site, publisher: Publisher, silent: socket.socket) -> None:
    """40: a port that accepts and is silent costs no more than the limit, again and again."""
    assert not publisher.publish("first")
    assert not publisher.publish("second")
    silent.close()

    site.start_broker()

    assert publisher.publish("third")
    publisher.assert_each_ran_once()
    assert 0 == site.count("ping first") + site.count("ping second")


def test_the_broker_stands_still_between_two_calls(site: Site, publisher: Publisher) -> None:
    """40: the calls in between raise in time; afterwards the next works, and nothing is there twice."""
    broker = site.start_broker()
    assert publisher.publish("before")
    broker.send_signal(signal.SIGSTOP)

    assert not publisher.publish("first")
    assert not publisher.publish("second")
    broker.send_signal(signal.SIGCONT)

    assert publisher.publish("after")
    publisher.assert_each_ran_once()


def test_the_broker_is_gone_between_two_calls(site: Site, publisher: Publisher) -> None:
    """40: the same when it ended, and when it was killed."""
    for way in ("stopped", "killed"):
        broker = site.start_broker()
        assert publisher.publish(f"before-{way}")
        if way == "stopped":
            broker.stop()
        else:
            broker.kill()
        assert not publisher.publish(f"first-{way}")

    site.start_broker()

    assert publisher.publish("after")
    publisher.assert_each_ran_once()


def test_ten_threads(site: Site, publisher: Publisher) -> None:
    """40: calls of ten threads raise in time, each for itself, and all work afterwards."""
    broker = site.start_broker()
    errors: list[BaseException] = []

    def run(prefix: str, calls: int) -> None:
        def call(n: int) -> None:
            try:
                for k in range(calls):
                    publisher.publish(f"{prefix}{n}-{k}")
            except BaseException as exc:  # noqa: BLE001 - told to the test
                errors.append(exc)

        threads = [threading.Thread(target=call, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()

    run("before", 5)
    assert set() == publisher.raised
    broker.send_signal(signal.SIGSTOP)
    run("during", 1)
    assert 10 == len(publisher.raised)
    broker.send_signal(signal.SIGCONT)
    run("after", 5)

    assert [] == errors
    assert 10 == len(publisher.raised)
    publisher.assert_each_ran_once()


FORKING = '''
import json, os, signal, sys, time
import siteproj
from emq_compat.celery_shim import OperationalError


def publish(mark):
    began = time.monotonic()
    try:
        siteproj.ping.delay(mark)
    except OperationalError:
        outcome = "raised"
    else:
        outcome = "confirmed"
    line = json.dumps([mark, outcome, time.monotonic() - began])
    os.write(1, line.encode() + b"\\n")


broker = int(sys.argv[1])
publish("before")
pid = os.fork()
who = "parent" if pid else "child"
publish(f"{who}-up")
if pid:
    os.waitpid(pid, 0)
    os.kill(broker, signal.SIGSTOP)
    pid = os.fork()
    who = "parent" if pid else "grandchild"
    publish(f"{who}-down")
    if pid:
        os.waitpid(pid, 0)
        os.kill(broker, signal.SIGCONT)
        pid = os.fork()
        who = "parent" if pid else "last"
        publish(f"{who}-again")
        if pid:
            os.waitpid(pid, 0)
os._exit(0)
'''


def test_after_a_fork(site: Site, publisher: Publisher, limit_s: float) -> None:
    """40: parent and child publish on their own, with the broker there, standing still, and back."""
    broker = site.start_broker()
    (site.folder / "forking.py").write_text(FORKING)

    program = site.procs.python("-W", "ignore", "forking.py", f"{broker.pid}", cwd=site.folder)

    assert 0 == program.wait(60)
    lines = map(json.loads, program.output().splitlines())
    told = {mark: (outcome, took_s) for mark, outcome, took_s in lines}
    assert {
        "before": "confirmed",
        "child-up": "confirmed",
        "parent-up": "confirmed",
        "grandchild-down": "raised",
        "parent-down": "raised",
        "last-again": "confirmed",
        "parent-again": "confirmed",
    } == {mark: outcome for mark, (outcome, _) in told.items()}
    assert max(took_s for _, took_s in told.values()) < limit_s
    publisher.confirmed = {mark for mark, (outcome, _) in told.items() if outcome == "confirmed"}
    publisher.raised = set(told) - publisher.confirmed
    publisher.assert_each_ran_once()
