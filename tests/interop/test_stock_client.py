"""Stock clients, emq-cli and the stock scheduler at our broker."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import zmq

from emq_compat.client import Client
from tests.broker_process import Broker
from tests.interop.conftest import Notes, OurJobManager, defer, shown
from tests.processes import Procs, wait_until
from tests.stock.peers import Stock

pytestmark = [pytest.mark.interop]


@pytest.fixture
def served(broker: Broker, our_jobmanager: OurJobManager) -> Broker:
    """Our broker, with a job manager of ours."""
    broker.start()
    our_jobmanager(broker.endpoint("backend"))
    return broker


def test_every_header_of_a_request(served: Broker, stock: Stock, notes: Notes) -> None:
    """guarantee is acknowledged, a reply that was asked for comes, retries and timeouts are kept."""
    printed = stock.client(
        f"""
import json

def ask(func, **options):
    messages.defer_job(socket, func, reply_requested=True, **options)
    [frames] = replies(1)
    assert frames[2] == "REPLY" and len(frames) == 6, frames
    return json.loads(frames[4])["value"]

msgid = messages.defer_job(socket, stock_tasks.note, args=[{notes.path!r}, "plain"])
msgid = messages.defer_job(socket, stock_tasks.note, args=[{notes.path!r}, "guarantee"], guarantee=True)
[frames] = replies(1)
assert frames[:3] == ["", "eMQP/1.0", "ACK"] and frames[4:] == [msgid], frames

assert ask(stock_tasks.add, args=[2], kwargs={{"y": 5}}) == 7
assert ask("stock_tasks.add", args=["gr\\xfc\\xdfe ", "\\u2713"]) == "gr\\xfc\\xdfe \\u2713"
assert ask(stock_tasks.Counter().up, args=[4], class_args=[1], class_kwargs={{"step": 2}}) == 9
assert ask(stock_tasks.fail, args=["no such luck"]) == "no such luck"
assert ask(stock_tasks.sleep, args=[30], timeout=1) == "TimeoutError"
assert ask(stock_tasks.fail_twice, args=[{notes.path + "-tries"!r}], retry_count=2) == 3
assert ask(stock_tasks.add, args=[1, 1], retry_count=3, timeout=9) == 2
msgid = messages.defer_job(
    socket, stock_tasks.add, args=[1, 2], reply_requested=True, guarantee=True, retry_count=1, timeout=9
)
assert sorted(frames[2] for frames in replies(2)) == ["ACK", "REPLY"]
print("all answered")
""",
        broker=served.endpoint("frontend"),
    )
    assert "all answered" in printed
    assert {"plain": 1, "guarantee": 1} == notes.counts()


def test_schedules(served: Broker, stock: Stock, notes: Notes) -> None:
    """interval, run_count, nohaste and cron mean what they mean to a stock scheduler; unscheduling works."""
    frontend = served.endpoint("frontend")

    def call(text: str, **options: object) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        args = [notes.path, text]
        return f"assert messages.schedule(socket, stock_tasks.note, args={args!r}, {given})\n"

    stock.client(
        call("thrice", interval_secs=1, headers=["guarantee", "run_count:3"])
        + call("at once", interval_secs=3600)
        + call("in an hour", interval_secs=3600, headers=["nohaste"])
        + call("cron", cron="0 0 1 1 *")
        + call("cron later", cron="0 0 1 1 *", headers=["nohaste"])
        + call("for ever", interval_secs=1)
        + call("twice after a second", interval_secs=1, headers=["nohaste", "run_count:2"])
        + "finish()",
        broker=frontend,
    )
    started = time.time()
    wait_until(lambda: notes.counts()["for ever"] >= 4, 20, what="four runs")
    assert time.time() - started >= 2.5
    counts = notes.counts()
    del counts["for ever"]
    assert {"thrice": 3, "at once": 1, "cron": 1, "twice after a second": 2} == counts
    schedules = served.client.ask("schedules")
    assert [("", 1), ("", 3600), ("", 3600), ("0 0 1 1 *", -1), ("0 0 1 1 *", -1)] == sorted(
        (row["cron"], row["interval_s"]) for row in schedules
    )
    stock.client(
        call("for ever", interval_secs=1, unschedule=True)
        + call("at once", unschedule=True)
        + call("never scheduled", unschedule=True)
        + "finish()",
        broker=frontend,
    )
    wait_until(lambda: len(served.client.ask("schedules")) == 3, what="the end of two schedules")
    waiting = served.waiting("default")
    wait_until(lambda: served.waiting("default") == 0, what=f"{waiting} runs")


@pytest.fixture
def publisher(procs: Procs, free_port: Callable[[], int]) -> tuple[str, str]:
    """A broker of ours that also forwards PUBLISH: where that comes in, and where it goes out."""
    frontend, backend, admin, incoming, outgoing = (f"tcp://127.0.0.1:{free_port()}" for _ in range(5))
    code = (
        "from emq_compat.broker.running import run_broker\n"
        "from emq_compat.config import BrokerConfig\n"
        f"run_broker(BrokerConfig(frontend={frontend!r}, backend={backend!r}, admin={admin!r}, memory=True,"
        f" publish_in={incoming!r}, publish_out={outgoing!r}))"
    )
    procs.python("-c", code, name="our-broker")
    with Client(f"emq://127.0.0.1:{frontend.rpartition(':')[2]}", timeout_s=20) as client:
        client.ask("stats")
    return incoming, outgoing


def test_publish_reaches_subscribers(publisher: tuple[str, str], stock: Stock) -> None:
    """What a stock client publishes arrives at those who subscribed to its topic, as two frames."""
    incoming, outgoing = publisher
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    try:
        subscriber.setsockopt(zmq.SUBSCRIBE, b"topic")
        subscriber.connect(outgoing)
        # A PUB socket drops what it gets before the subscription has arrived.
        stock.client(
            """
end = time.monotonic() + 1.5
while time.monotonic() < end:
    assert messages.send_publish_request(socket, "other", ["never"])
    assert messages.send_publish_request(socket, "topic", ["update", "1"])
    time.sleep(0.05)
finish()
""",
            broker=incoming,
        )
        assert subscriber.poll(10_000)
        assert [b"topic", b'["update", "1"]'] == subscriber.recv_multipart()
    finally:
        context.destroy(linger=0)


def test_emq_cli(served: Broker, stock: Stock, notes: Notes) -> None:
    """status, show workers and show schedulers print what is there; shutdown ends the broker."""
    admin, frontend = served.endpoint("admin"), served.endpoint("frontend")
    stock.jobmanager(broker=served.endpoint("backend"), jobs=1, queues=((10, "mail"), (5, "default")))
    stock.scheduler(frontend=frontend)
    defer(
        stock,
        frontend,
        f"'stock_tasks.note_and_sleep', args=[{notes.path!r}, 'mail', 3], queue='mail'",
        "'stock_tasks.note', args=['x', 'y'], queue='nobody'",
    )
    notes.wait(1)
    status = shown(stock, admin, "status")
    assert {"mail": 1} == status["inflight_messages_by_queue"]
    assert 1 == status["waiting_messages_by_queue"]["nobody"]
    assert 1 == status["processed_messages_by_queue"]["mail"]
    workers = shown(stock, admin, "show_workers")
    assert sorted([[[10, "default"]], [[10, "mail"], [5, "default"]]]) == sorted(
        worker["queues"] for worker in workers["connected_workers"].values()
    )
    assert {"default", "mail", "nobody"} >= set(workers["connected_queues"]) >= {"default", "mail"}
    assert 1 == len(shown(stock, admin, "show_schedulers")["connected_schedulers"])
    assert served.proc is not None
    stock.cli(admin, "shutdown")
    assert 0 == served.proc.wait()


@pytest.mark.parametrize("lives_s", [4.0, pytest.param(40.0, marks=pytest.mark.long)])
def test_a_stock_scheduler_lives(broker: Broker, stock: Stock, lives_s: float) -> None:
    """A stock scheduler is acknowledged and kept alive: it never takes the broker for gone."""
    broker.start("--dead-after", "2")
    scheduler = stock.scheduler(frontend=broker.endpoint("frontend"), HEARTBEAT_TIMEOUT="1")
    end = time.monotonic() + lives_s
    wait_until(lambda: time.monotonic() > end, lives_s + 5, what="time to pass")
    for trouble in ("Reconnecting", "Traceback", "No handler"):
        assert trouble not in scheduler.output()
    assert 1 == len(shown(stock, broker.endpoint("admin"), "show_schedulers")["connected_schedulers"])


@pytest.mark.long
def test_a_stock_scheduler_comes_back(broker: Broker, stock: Stock) -> None:
    """A broker that was killed and started again is found by a stock scheduler."""
    broker.start("--dead-after", "2")
    scheduler = stock.scheduler(frontend=broker.endpoint("frontend"), HEARTBEAT_TIMEOUT="1")
    assert broker.proc is not None
    broker.proc.kill()
    broker.start("--dead-after", "2")
    admin = broker.endpoint("admin")
    wait_until(lambda: shown(stock, admin, "show_schedulers")["connected_schedulers"], 30, what="its return")
    assert scheduler.alive()


@pytest.mark.long
def test_a_stock_cron_schedule_runs_on_the_minute(served: Broker, stock: Stock, notes: Notes) -> None:
    """A cron schedule of every minute runs in the first seconds of the next one."""
    call = f"cron='* * * * *', args=[{notes.path!r}, 'cron'], headers=['nohaste']"
    code = f"assert messages.schedule(socket, stock_tasks.note_time, {call})\nfinish()"
    stock.client(code, broker=served.endpoint("frontend"))
    [line] = notes.wait(1, timeout_s=75)
    assert float(line.split()[1]) % 60 < 5
