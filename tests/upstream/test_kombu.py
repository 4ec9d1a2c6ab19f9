"""The contract of kombu upstreams, on each kind of broker: RabbitMQ, Redis, a folder, memory."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emq_compat.message import REJECTED, REQUEUED, RETURNED, REVOKED, Headers, Job, Outcome, Publish
from emq_compat.shim.packing import unpack
from emq_compat.upstream.base import Asked, Connected
from emq_compat.upstream.kombu import KombuUpstream
from emq_compat.upstream.kombu_control import ControlSettings
from emq_compat.upstream.kombu_thread import Worker
from tests.processes import open_pipes
from tests.upstream.kombu_bench import DONE, Bench, id_of, key, payload

pytestmark = pytest.mark.integration

REAL = ("amqp", "quorum", "redis")
EACH = (*REAL, "filesystem", "memory")


def made(kind: str, request: pytest.FixtureRequest, folder: Path) -> Bench:
    if kind in ("amqp", "quorum"):
        bench = Bench(request.getfixturevalue("amqp_url"), quorum=kind == "quorum")
        if kind == "quorum":
            bench.arguments = {"x-queue-type": "quorum"}
        return bench
    if kind == "redis":
        return Bench(request.getfixturevalue("redis_url"))
    if kind == "filesystem":
        options = {"data_folder_in": str(folder), "data_folder_out": str(folder)}
        options["control_folder"] = str(folder / "control")
        return Bench("filesystem://", transport_options=options)
    return Bench("memory://")


@pytest.fixture(params=EACH)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    built = made(request.param, request, tmp_path)
    before = open_pipes()
    yield built
    built.close()
    assert before == open_pipes(), "what wakes the two threads of an upstream is closed at its end"


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    built = made(request.param, request, tmp_path)
    yield built
    built.close()


def test_as_much_is_delivered_as_was_asked_for(bench: Bench) -> None:
    """Three of five come on a credit of three, in their order (but a folder has none); the rest on more."""
    bench.publish("t1", "t2", "t3", "t4", "t5")
    worker = bench.upstream().connected()
    first = worker.take(3)
    names = [id_of(delivery) for delivery in first]
    assert worker.quiet()
    for delivery in first:
        worker.end(delivery)
    names += [id_of(delivery) for delivery in worker.take(2)]
    in_order = ["t1", "t2", "t3", "t4", "t5"]
    assert in_order == (names if bench.settings.url != "filesystem://" else sorted(names))


def test_what_has_ended_is_gone_and_what_has_not_begun_goes_back(bench: Bench) -> None:
    """After a stop the queue holds what was not run."""
    bench.publish("t1", "t2", "t3")
    worker = bench.upstream().connected()
    one, two = worker.take(2)
    worker.end(one)
    worker.upstream.nack([key(two)])
    worker.stop()
    assert {"t1", "t2", "t3"} - {id_of(one)} == set(bench.waiting())


def test_early_acknowledged_when_it_begins(bench: Bench) -> None:
    """A task that doesn't acknowledge late is off its queue as soon as it has begun."""
    bench.publish("t1", task="early")
    worker = bench.upstream().connected()
    [one] = worker.take()
    worker.begin(one)
    worker.until(lambda: worker.upstream.stats()["unacked"] == 0, what="the acknowledgement")
    worker.end(one, Outcome(state=REQUEUED).encode())  # too late for that
    worker.stop()
    assert [] == bench.waiting()


@pytest.mark.parametrize("state", [REQUEUED, RETURNED])
def test_late_acknowledged_goes_back_when_its_process_is_lost(bench: Bench, state: str) -> None:
    """REQUEUED and RETURNED put the message back: it comes again, flagged as redelivered once it began."""
    bench.publish("t1")
    worker = bench.upstream().connected()
    [one] = worker.take()
    assert not one.headers.redelivered
    worker.end(one, Outcome(state=state).encode())
    [again] = worker.take()
    assert "t1" == id_of(again)
    assert again.headers.redelivered or state == RETURNED
    worker.end(again)
    worker.stop()
    assert [] == bench.waiting()


def test_rejected_is_dropped(bench: Bench) -> None:
    """REJECTED takes the message off its queue."""
    bench.publish("t1")
    worker = bench.upstream().connected()
    [one] = worker.take()
    worker.end(one, Outcome(state=REJECTED).encode())
    worker.stop()
    assert [] == bench.waiting()


def test_unreadable_messages_are_put_aside(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """What is no task is logged, counted and off the queue, and the next one runs."""
    bench.publish("bad", body={"not": "a task"}, task="")
    bench.publish("good")
    worker = bench.upstream().connected()
    with caplog.at_level(logging.ERROR):
        [one] = worker.take()
        worker.upstream.ready(1)
        worker.until(lambda: worker.upstream.stats()["unreadable"], what="the bad one")
    assert "good" == id_of(one)
    assert 1 == worker.upstream.stats()["unreadable"]
    assert "is refused" in caplog.text
    worker.end(one)
    worker.stop()
    assert [] == bench.waiting()


def test_eta_is_waited_for_without_a_slot(bench: Bench) -> None:
    """What has an eta is held, later ones come in between, and it is delivered in time."""
    worker = bench.upstream().connected()
    due = time.time() + 1.5
    bench.publish("later", eta=due)
    bench.publish("now")
    [one] = worker.take(1)
    assert "now" == id_of(one)
    worker.end(one)
    [two] = worker.take(1)
    assert "later" == id_of(two)
    assert time.time() >= due
    worker.end(two)


def test_held_etas_go_back_at_the_end(bench: Bench) -> None:
    """What waited here for its eta is on its queue after a stop."""
    bench.publish("later", eta=time.time() + 600)
    worker = bench.upstream().connected()
    worker.upstream.ready(1)
    worker.until(lambda: worker.upstream.stats()["waiting_for_eta"] == 1, what="the message")
    worker.stop()
    assert ["later"] == bench.waiting()


def test_follow_ups_are_published_before_the_end(bench: Bench) -> None:
    """What a task wants published next is on its queue when the task is settled."""
    bench.publish("t1")
    worker = bench.upstream().connected()
    [one] = worker.take()
    job = Job(path="proj", callable="next", args=[1])
    follow = Publish(queue=bench.queue, headers=Headers(task="proj.next", task_id="t2"), payload=job.encode())
    worker.end(one, Outcome(state="SUCCESS", follow_ups=(follow,)).encode())
    [two] = worker.take()
    assert ("t2", "proj.next", [1]) == (id_of(two), two.headers.task, payload(two)[1]["args"])
    worker.end(two)


def test_an_end_without_a_word_is_concluded_by_a_child(bench: Bench) -> None:
    """An unattended reply becomes an epilogue; the message is acknowledged when that has ended."""
    bench.publish("t1")
    worker = bench.upstream().connected()
    [one] = worker.take()
    lost = Outcome(state=REVOKED).encode()
    worker.upstream.began([key(one)])
    worker.upstream.reply(key(one), type(lost)(state=REVOKED, body=lost.body, unattended=True))
    [end] = worker.take()
    assert end.headers.concludes
    kind, options, told = payload(end)
    assert ("epilogue", "t1", REVOKED) == (kind, options["celery"]["id"], told["state"])
    assert 1 == worker.upstream.stats()["unacked"]
    worker.end(end)
    assert 0 == worker.upstream.stats()["unacked"]


def test_epilogues_of_the_last_moment_are_asked_for(bench: Bench) -> None:
    """Where no child is left, the job manager gets them to run them itself."""
    bench.publish("t1")
    worker = bench.upstream().connected()
    [one] = worker.take()
    worker.upstream.leave()
    worker.begin(one)
    reply = Outcome(state=REVOKED).encode()
    worker.upstream.reply(key(one), type(reply)(state=REVOKED, body=reply.body, unattended=True))
    [end] = worker.upstream.epilogues()
    assert end.headers.concludes
    worker.upstream.reply(key(end), DONE)
    worker.stop()
    assert [] == bench.waiting()


def test_queues_change_while_it_listens(bench: Bench) -> None:
    """After ``listen`` only the new queue's messages come."""
    worker = bench.upstream().connected()
    old, bench.queue = bench.queue, bench.queue + "-2"
    assert worker.upstream.listen(((10, bench.queue),))
    bench.publish("new")
    [one] = worker.take()
    assert ("new", bench.queue) == (id_of(one), one.queue)
    worker.end(one)
    new, bench.queue = bench.queue, old
    bench.publish("old")
    worker.upstream.ready(1)
    assert worker.quiet()
    worker.stop()
    assert ["old"] == bench.waiting()
    bench.queue = new


def test_idle_credit_is_not_spent_twice(real: Bench) -> None:
    """Messages that come one by one to an idle worker come up to its credit."""
    worker = real.upstream().connected()
    worker.upstream.ready(2)
    for name in ("a", "b", "c"):
        real.publish(name)
        worker.quiet(0.2)
    assert ["a", "b"] == [id_of(delivery) for delivery in worker.get(2)]
    assert worker.quiet()
    worker.upstream.ready(1)
    assert "c" == id_of(worker.get()[0])


def test_commands_are_heard_once_it_is_connected(real: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broadcast when a worker has just said that it is connected reaches it."""
    sent = threading.Event()
    turn = Worker._turn

    def later(worker: Worker) -> None:
        assert sent.wait(20)
        turn(worker)

    monkeypatch.setattr(Worker, "_turn", later)
    control = ControlSettings(namespace=real.queue, event_exchange=f"{real.queue}ev", mingles=False)
    worker = real.upstream(control=control).connected()
    with real.connection() as connection:
        control.mailbox()(connection).abcast("ping")
    sent.set()
    worker.until(lambda: any(isinstance(event, Asked) for event in worker.events), what="the command")


def test_one_that_never_started_stops() -> None:
    """Where a worker fails before it starts, there is nothing to wait for, and nothing to poll."""
    bench = Bench("redis://127.0.0.1:1/0")
    upstream = KombuUpstream(name="w1@here", queues=((10, "q"),), settings=bench.settings)
    upstream.leave()
    assert ([], ()) == (upstream.epilogues(), upstream.fds())
    upstream.stop(10)


def test_connects_when_a_broker_is_there(free_port: object) -> None:
    """Nobody listens: it tries on, and stops at once when it is told."""
    bench = Bench(f"redis://127.0.0.1:{free_port()}/0")  # type: ignore[operator]
    worker = bench.upstream()
    bench.made.clear()
    assert worker.quiet(1.0)
    assert not any(isinstance(event, Connected) for event in worker.events)
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 5


def test_a_compressed_body_can_be_read(bench: Bench) -> None:
    """A compressed task message comes so that its arguments can be read, packed or not."""
    bench.publish("t1", compression="gzip")

    [delivery] = bench.upstream().connected().take()

    [_, options] = payload(delivery)
    packed = options["celery"].get("packed")
    assert ["t1"] == (options["args"] if packed is None else unpack(packed, None)[0])
