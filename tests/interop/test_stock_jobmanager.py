"""A stock job manager under our broker."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from tests.broker_process import Broker
from tests.interop.conftest import Notes, defer
from tests.processes import Proc, wait_until
from tests.stock.peers import Stock

pytestmark = [pytest.mark.interop]


def _in_flight(broker: Broker) -> int:
    return sum(row["in_flight"] for row in broker.client.ask("queues"))


def _waiting(broker: Broker) -> int:
    return broker.waiting("default")


def _unhurt(manager: Proc) -> None:
    """Nothing that our broker said was strange to it."""
    output = manager.output()
    for trouble in ("Unhandled exception", "Traceback", "No handler", "Invalid message"):
        assert trouble not in output


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.long)])
def test_jobs_run_and_end(broker: Broker, stock: Stock, notes: Notes, count: int) -> None:
    """Every job runs once, is answered to the client that asked, and leaves nothing behind."""
    broker.start()
    manager = stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    stock.client(
        f"""
asked = {{
    messages.defer_job(socket, stock_tasks.note, args=[{notes.path!r}, str(n)], reply_requested=True): str(n)
    for n in range({count})
}}
for frames in replies({count}, timeout_s=40):
    assert frames[:3] == ["", "eMQP/1.0", "REPLY"] and len(frames) == 6, frames
    assert frames[4] == '{{"value": "%s"}}' % asked.pop(frames[5]), frames
""",
        broker=broker.endpoint("frontend"),
        timeout_s=60,
    )
    assert {str(n): 1 for n in range(count)} == notes.counts()
    assert (0, 0) == (_waiting(broker), _in_flight(broker))
    _unhurt(manager)


def test_a_killed_child_of_a_stock_job_manager(broker: Broker, stock: Stock, notes: Notes) -> None:
    """No REPLY ever comes for what it ran: after stock_timeout it is handed out again, and nothing else."""
    broker.start("--stock-timeout", "3", "--dead-after", "2")
    manager = stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    defer(
        stock,
        broker.endpoint("frontend"),
        f"'stock_tasks.note_and_die_once', args=[{notes.path + '-killed'!r}, 'killed']",
        *(f"'stock_tasks.note', args=[{notes.path!r}, '{n}']" for n in range(8)),
    )
    notes.wait(8)
    killed = Notes(Path(notes.path + "-killed"))
    wait_until(lambda: killed.lines() == ["killed"] * 2, 20, what="the second run")
    wait_until(lambda: (_waiting(broker), _in_flight(broker)) == (0, 0), what="its end")
    assert {1} == set(notes.counts().values())
    assert 1 == broker.client.ask("stats")["redelivered"]
    _unhurt(manager)


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_killed_stock_job_manager(broker: Broker, stock: Stock, notes: Notes, alone: bool) -> None:
    """What it held is handed out again, once stock_timeout has passed; nothing is lost.

    Children that outlive it keep its connection open, so that only its silence tells.
    """
    broker.start("--stock-timeout", "2")
    first = stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    defer(
        stock,
        broker.endpoint("frontend"),
        *(f"'stock_tasks.note_and_hang_once', args=[{notes.path!r}, 'held-{n}', 60]" for n in range(2)),
        *(f"'stock_tasks.note', args=[{notes.path!r}, '{n}']" for n in range(20)),
    )
    notes.wait(2)
    children = [] if alone else first.children()
    first.kill()
    for child in children:
        child.kill()
    stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    notes.wait(22)
    wait_until(lambda: (_waiting(broker), _in_flight(broker)) == (0, 0), what="the end of all")
    counts = notes.counts()
    assert {"held-0": 2, "held-1": 2} == {text: counts.pop(text) for text in ("held-0", "held-1")}
    assert {1} == set(counts.values())


def test_term_of_a_stock_job_manager(broker: Broker, stock: Stock, notes: Notes) -> None:
    """It says KBYE, then runs what it had, and its replies count: nothing is lost, nothing runs twice."""
    broker.start()
    first = stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    defer(
        stock,
        broker.endpoint("frontend"),
        *(f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, '{n}', 1]" for n in range(2)),
        *(f"'stock_tasks.note', args=[{notes.path!r}, 'waiting-{n}']" for n in range(4)),
    )
    notes.wait(2)
    first.send_signal(signal.SIGTERM)
    assert 0 == first.wait()
    assert {"0": 1, "1": 1, "0 ended": 1, "1 ended": 1} == notes.counts()
    wait_until(lambda: _in_flight(broker) == 0, what="the replies")
    assert 4 == _waiting(broker)
    wait_until(lambda: broker.client.ask("workers") == [], what="the end of the worker")
    stock.jobmanager(broker=broker.endpoint("backend"), jobs=2)
    notes.wait(8)
    assert {1} == set(notes.counts().values())


def test_a_broker_that_is_killed_and_started_again(broker: Broker, stock: Stock, notes: Notes) -> None:
    """A stock job manager comes back; what it runs meanwhile isn't handed out again, and its REPLY counts."""
    broker.start("--dead-after", "4")
    manager = stock.jobmanager(broker=broker.endpoint("backend"), jobs=2, HEARTBEAT_TIMEOUT="1")
    frontend = broker.endpoint("frontend")
    defer(stock, frontend, f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, 'long', 5]")
    notes.wait(1)
    assert broker.proc is not None
    broker.proc.kill()
    broker.start("--dead-after", "4")
    manager.wait_line("Reconnecting")
    defer(stock, frontend, *(f"'stock_tasks.note', args=[{notes.path!r}, '{n}']" for n in range(5)))
    notes.wait(7)
    wait_until(lambda: (_waiting(broker), _in_flight(broker)) == (0, 0), what="the end of all")
    assert {1} == set(notes.counts().values())
    assert "long ended" in notes.lines()


@pytest.mark.long
def test_a_stopped_stock_job_manager(broker: Broker, stock: Stock, notes: Notes) -> None:
    """One that was frozen for longer than its silence is allowed comes back by itself and loses nothing."""
    broker.start("--stock-timeout", "60", "--dead-after", "4")
    manager = stock.jobmanager(broker=broker.endpoint("backend"), jobs=1, HEARTBEAT_TIMEOUT="1")
    frontend = broker.endpoint("frontend")
    defer(stock, frontend, f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, 'held', 1]")
    notes.wait(1)
    family = [psutil.Process(manager.pid), *manager.children()]
    for process in family:
        process.suspend()
    wait_until(lambda: not broker.client.ask("workers")[0]["credit"], what="no credit")
    defer(stock, frontend, f"'stock_tasks.note', args=[{notes.path!r}, 'later']")
    wait_until(lambda: broker.client.ask("workers")[0]["silent_s"] > 10.5, 20, what="silence")
    for process in family:
        process.resume()
    notes.wait(3)
    assert {1} == set(notes.counts().values())
