"""Kombu upstreams whose connection breaks, whose broker or neighbour is gone, whose queue is another one."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from kombu import Connection

from emq_compat.message import REQUEUED, SUCCESS, Headers, Job, Outcome, Publish
from tests.processes import wait_until
from tests.proxy import Proxy
from tests.upstream.kombu_bench import DONE, Bench, Driven, id_of, key

pytestmark = pytest.mark.integration


def through(proxy: Proxy, url: str) -> str:
    """Return a URL by which a server is reached through a proxy."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{proxy.port}").geturl()


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


@pytest.fixture(params=["amqp", "quorum", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    kind = request.param
    url = request.getfixturevalue("redis_url" if kind == "redis" else "amqp_url")
    made = Bench(url, quorum=kind == "quorum")
    if kind == "quorum":
        made.arguments = {"x-queue-type": "quorum"}
    yield made
    made.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Bench]:
    made = Bench(redis_url)
    yield made
    made.close()


@pytest.fixture
def amqp(amqp_url: str) -> Iterator[Bench]:
    made = Bench(amqp_url)
    yield made
    made.close()


@pytest.fixture
def proxy(bench: Bench) -> Iterator[Proxy]:
    with Proxy(port_of(bench.url)) as made:
        yield made


def test_a_running_task_survives_its_connection(bench: Bench, proxy: Proxy) -> None:
    """Five cuts within a second: what runs isn't delivered again while it runs, and its end settles it."""
    bench.publish("running")
    worker = bench.upstream(url=through(proxy, bench.url)).connected()
    [one] = worker.take()
    worker.begin(one)
    for _ in range(5):
        proxy.cut()
        worker.quiet(0.2)
    bench.publish("fresh")
    worker.until(lambda: worker.upstream.stats()["connected"], what="the connection")
    worker.upstream.ready(1)
    assert "fresh" == id_of(worker.get(1, timeout_s=15)[0])
    worker.end(one)
    worker.stop()
    assert [] == [name for name in bench.waiting() if name != "fresh"]


def test_what_ended_during_a_cut_is_not_run_again(bench: Bench, proxy: Proxy) -> None:
    """A task that ends while there is no connection is settled when there is one, without a second run."""
    bench.publish("t1")
    worker = bench.upstream(url=through(proxy, bench.url)).connected()
    [one] = worker.take()
    worker.begin(one)
    proxy.cut()
    worker.upstream.reply(key(one), DONE)
    worker.again()
    worker.upstream.ready(1)
    assert worker.quiet(0.7)
    worker.stop()
    assert [] == bench.waiting()


def test_what_had_not_begun_is_not_lost_with_the_connection(bench: Bench, proxy: Proxy) -> None:
    """A delivery that the job manager forgets at a cut comes again; where the broker knows it, it stays."""
    bench.publish("t1")
    worker = bench.upstream(url=through(proxy, bench.url)).connected()
    [one] = worker.take()
    proxy.cut()
    worker.again()
    if not worker.upstream.remembers:
        worker.upstream.nack([key(one)])  # what a job manager does at Disconnected
        [one] = worker.take()
    worker.end(one)
    worker.stop()
    assert [] == bench.waiting()


def test_messages_of_a_silent_worker_go_to_another(redis: Bench) -> None:
    """On Redis what a dead worker held comes to another one within dead_after and a beat; nothing before."""
    with Proxy(port_of(redis.url)) as proxy:
        redis.publish("t1", "t2")
        dying = redis.upstream("dying@here", url=through(proxy, redis.url), dead_after_s=1.0).connected()
        taken = [id_of(delivery) for delivery in dying.take(2)]
        other = redis.upstream("other@here", dead_after_s=1.0).connected()
        other.upstream.ready(5)
        assert other.quiet(2.5), "the holder lives"
        silence(dying)
        again = other.get(2, timeout_s=5)
        assert sorted(taken) == sorted(id_of(delivery) for delivery in again)
        assert all(delivery.headers.redelivered for delivery in again)
        for delivery in again:
            other.end(delivery)
        other.stop()
        dying.stop(0.1)
    assert [] == redis.waiting()


def silence(driven: Driven) -> None:
    """Have an upstream say nothing more, as if its process were gone."""
    worker = driven.upstream._worker
    worker._do_vanish = lambda: time.sleep(5)  # type: ignore[attr-defined]
    worker.do("vanish")


def test_a_late_word_of_a_silent_worker_changes_nothing(redis: Bench) -> None:
    """One that was only paused can't acknowledge what another one holds meanwhile."""
    redis.publish("t1")
    paused = redis.upstream("paused@here", dead_after_s=0.6).connected()
    [one] = paused.take()
    paused.begin(one)
    worker = paused.upstream._worker
    worker._do_nap = lambda: time.sleep(3)  # type: ignore[attr-defined]
    worker.do("nap")
    other = redis.upstream("other@here", dead_after_s=0.6).connected()
    [again] = other.take()
    paused.end(one)
    other.begin(again)
    assert 1 == held_on(redis)
    other.end(again)
    assert 0 == held_on(redis)


def held_on(bench: Bench) -> int:
    with bench.connection() as connection:
        channel = connection.channel()
        return int(channel.client.hlen(channel.unacked_key))


def test_the_visibility_timeout_does_not_pass(redis: Bench) -> None:
    """What runs, or waits for its eta, longer than the visibility timeout is delivered once."""
    options = {"visibility_timeout": 1, "unacked_restore_interval": 0.3}
    redis.publish("runs")
    redis.publish("waits", eta=time.time() + 3)
    worker = redis.upstream(transport_options=options).connected()
    [one] = worker.take(1)
    worker.begin(one)
    worker.upstream.ready(1)
    worker.until(lambda: worker.upstream.stats()["waiting_for_eta"], what="the one with an eta")
    other = redis.upstream("other@here", transport_options=options).connected()
    other.upstream.ready(2)
    assert other.quiet(2.5)
    [two] = worker.get(1)
    assert "waits" == id_of(two)
    worker.end(one)
    worker.end(two)
    assert other.quiet()


def test_a_closed_channel_is_no_end(amqp: Bench) -> None:
    """RabbitMQ closes the channel of a long task (consumer_timeout): it runs on, its copy is put aside."""
    amqp.publish("long")
    worker = amqp.upstream().connected()
    [one] = worker.take()
    worker.begin(one)
    inner = worker.upstream._worker
    inner._do_offend = lambda: inner._tap._channel.basic_ack(99_999)  # type: ignore[attr-defined,union-attr]
    inner.do("offend")  # an unknown tag: PRECONDITION_FAILED, as at that timeout
    worker.connected(times=2)
    worker.upstream.ready(1)
    assert worker.quiet(0.7)
    assert 1 == worker.upstream.stats()["copies"]
    worker.end(one)
    worker.stop()
    assert [] == amqp.waiting()


def test_a_queue_with_other_arguments_is_used_and_named(
    amqp: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue that exists with other arguments isn't declared again: the log names it, and it is used."""
    amqp.publish("t1")
    before, amqp.arguments = amqp.arguments, {"x-max-priority": 9}
    with caplog.at_level(logging.ERROR):
        worker = amqp.upstream().connected()
        [one] = worker.take()
    amqp.arguments = before
    assert repr(amqp.queue) in caplog.text
    assert "other arguments" in caplog.text
    worker.end(one)


def test_a_deleted_queue_is_declared_again(amqp: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever deletes the queue of a running worker has it made anew; the log shows the end of it."""
    worker = amqp.upstream().connected()
    worker.upstream.ready(1)
    worker.turn()
    with Connection(amqp.url) as connection:
        wait_until(lambda: consumers(connection, amqp.queue) == 1, 10, what="the consumer")
        connection.channel().queue_delete(amqp.queue)
    worker.connected(times=2)
    warned = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["lost", "connected again to"] == [line.partition(" amqp://")[0] for line in warned]
    amqp.publish("t1")
    [one] = worker.take()
    worker.end(one)


def consumers(connection: Connection, queue: str) -> int:
    return int(connection.channel().queue_declare(queue, passive=True).consumer_count)


def test_rejected_messages_reach_the_dead_letters(amqp: Bench) -> None:
    """REJECTED, and what can't be read, arrive at the queue's dead-letter exchange."""
    dead = f"{amqp.queue}-dead"
    with Connection(amqp.url) as connection:
        connection.channel().queue_declare(dead, auto_delete=False)
    amqp.arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
    amqp.publish("bad", body={"not": "a task"}, task="")
    worker = amqp.upstream().connected()
    worker.upstream.ready(1)
    with Connection(amqp.url) as connection:
        channel = connection.channel()
        wait_until(lambda: channel.basic_get(dead, no_ack=True), 10, what="the dead letter")
        worker.stop()
        channel.queue_delete(dead)


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_a_broker_that_says_nothing_does_not_hold_up_the_end(scheme: str) -> None:
    """A worker that has nothing to tell it ends though its thread waits for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        upstream = Bench(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}//").upstream().upstream
        silent.settimeout(10.0)
        connection, _ = silent.accept()  # it is connecting now, and waits
        with connection:
            began = time.monotonic()
            assert [] == upstream.epilogues()
            upstream.stop(10.0)
            assert time.monotonic() - began < 3.0  # the connection is given up after 4 s at the earliest


def test_follow_ups_wait_for_the_broker(bench: Bench, proxy: Proxy) -> None:
    """What a task wants published next, while there is no connection, is published once when there is one."""
    bench.publish("t1")
    worker = bench.upstream(url=through(proxy, bench.url)).connected()
    [one] = worker.take()
    worker.begin(one)
    follow_ups = tuple(follow_up(bench, f"f{n}") for n in range(3))
    proxy.cut()
    worker.upstream.reply(key(one), Outcome(state=SUCCESS, follow_ups=follow_ups).encode())
    proxy.cut()
    worker.until(lambda: not worker.upstream.unacknowledged(), 15, "the end of the reply")
    worker.again()
    worker.upstream.ready(1)
    [first] = worker.get(1, timeout_s=15)  # the copy of what has ended is settled before it
    worker.upstream.nack([key(first)])
    worker.stop()
    assert ["f0", "f1", "f2"] == sorted(bench.waiting())


def follow_up(bench: Bench, task_id: str) -> Publish:
    job = Job(path="proj", callable="next", celery={"id": task_id})
    headers = Headers(task="proj.next", task_id=task_id)
    return Publish(queue=bench.queue, headers=headers, payload=job.encode())


def test_rabbitmq_holds_what_has_an_eta_where_celery_has_it_do_so(amqp: Bench) -> None:
    """With quorum queues on a topic exchange a retry's delay is the broker's: nothing is held here."""
    amqp.arguments = {"x-queue-type": "quorum"}
    amqp.exchange_type = "topic"
    amqp.publish("t1")
    worker = amqp.upstream(quorum=True).connected()
    [one] = worker.take()
    job = Job(path="proj", callable="next", celery={"id": "t2"})
    due = time.time() + 3.5
    again = Publish(
        queue=amqp.queue, headers=Headers(task="proj.next", task_id="t2", eta=due), payload=job.encode()
    )
    worker.end(one, Outcome(state=SUCCESS, follow_ups=(again,)).encode())
    worker.upstream.ready(1)
    assert worker.quiet(1.5)
    assert 0 == worker.upstream.stats()["held"]
    [two] = worker.get(1, timeout_s=10)
    assert "t2" == id_of(two)
    assert time.time() >= due
    worker.end(two)


@pytest.mark.parametrize("bench", ["amqp", "redis"], indirect=True)
def test_the_number_of_held_etas_is_bounded(bench: Bench) -> None:
    """Above eta_limit no more is taken; one that is due makes room."""
    worker = bench.upstream(eta_limit=2).connected()
    due = time.time() + 2.5
    bench.publish("e1", "e2", eta=due)
    worker.upstream.ready(1)
    worker.until(lambda: worker.upstream.stats()["waiting_for_eta"] == 2, what="the two")
    bench.publish("now")
    assert worker.quiet(0.7)
    names = []
    for _ in range(3):
        [one] = worker.get(1)
        names.append(id_of(one))
        worker.end(one)
        worker.upstream.ready(1)
    assert ["e1", "e2", "now"] == sorted(names)
    assert time.time() >= due


def test_keys_have_the_global_prefix(redis: Bench) -> None:
    """Behind global_keyprefix everything is as without: taken, waited for, settled, given back."""
    redis.settings = replace(redis.settings, transport_options={"global_keyprefix": "site-"})
    redis.publish("t1", "t2", "t3")
    worker = redis.upstream().connected()
    one, two = worker.take(2)
    worker.end(one)
    worker.end(two, Outcome(state=REQUEUED).encode())
    with redis.connection() as connection:
        client = connection.channel().client
        keys = {key.decode() for key in client.keys("*emq-compat*")}
    assert {key for key in keys if key.startswith("site-emq-compat.holders")}
    worker.stop()
    assert ["t2", "t3"] == sorted(redis.waiting())
