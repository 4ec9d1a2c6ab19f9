"""Our worker on RabbitMQ (R) and Redis (D): losses, long tasks, priorities, broken connections.

Cases 4, 11, 35 and 41. The tasks are a genuine app's; the producer is genuine Celery.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.cases.conftest import pass_s
from tests.mixed_site import MixedSite, combinations
from tests.processes import wait_until
from tests.proxy import Proxy

pytestmark = [pytest.mark.integration, pytest.mark.cases]

#: RabbitMQ and Redis.
BOTH = combinations(apps=("genuine",), brokers=("amqp", "redis"), short=("genuine-amqp", "genuine-redis"))
RABBITMQ = combinations(apps=("genuine",), brokers=("amqp",), short=("genuine-amqp",))
REDIS = combinations(apps=("genuine",), brokers=("redis",), short=("genuine-redis",))
#: A fresh ping ends within this after the broker's return.
BACK_S = 10.0


def lengths(short: float, full: float) -> list[object]:
    """The short form of a case, and the full one."""
    return [pytest.param(short, id="short"), pytest.param(full, id="full", marks=pytest.mark.long)]


def proxied(mixed: MixedSite, proxy: Proxy) -> str:
    """Return the address of the site's broker behind a proxy."""
    parts = urlsplit(mixed.url)
    return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{proxy.port}").geturl()


def do(mixed: MixedSite, code: str) -> None:
    """Have the project's process run this."""
    mixed.ask(f"pass; {code}" if "\n" not in code else code)


@pytest.fixture
def proxy(mixed: MixedSite) -> Iterator[Proxy]:
    with Proxy(urlsplit(mixed.url).port or 0) as made:
        yield made


@pytest.mark.parametrize("mixed", BOTH, indirect=True)
@pytest.mark.parametrize("dead_after_s", lengths(2, 10))
def test_what_a_killed_worker_held_runs_on_another(mixed: MixedSite, dead_after_s: float) -> None:
    """Running, reserved and eta tasks of a worker killed by -9 run on the next one, in a bound (4)."""
    mixed.write_project(broker_transport_options={"emq_dead_after": dead_after_s}, task_acks_late=True)
    first = mixed.start_worker("-c", "1")
    do(mixed, "sleep.delay(30, 'cut')")
    mixed.wait_runs("start cut")
    eta_s = dead_after_s / 2
    do(
        mixed,
        "[ping.delay(f'r{n}') for n in range(4)];"
        f"[ping.apply_async((f'e{{n}}',), countdown={eta_s}) for n in range(5)]",
    )
    pass_s(1)
    os.killpg(first.pid, signal.SIGKILL)
    began = time.monotonic()
    mixed.start_worker("-c", "2")
    bound_s = dead_after_s * 1.5 + 10
    marks = [*(f"r{n}" for n in range(4)), *(f"e{n}" for n in range(5))]
    for mark in marks:
        mixed.wait_runs(f"ping {mark}", timeout_s=bound_s)
    mixed.wait_runs("start cut", 2, timeout_s=bound_s)
    assert time.monotonic() - began < bound_s
    assert [1] * 9 == [mixed.count(f"ping {mark}") for mark in marks]


@pytest.mark.parametrize("mixed", REDIS, indirect=True)
@pytest.mark.parametrize("visible_s", lengths(1.5, 3))
def test_long_and_eta_tasks_run_once(mixed: MixedSite, visible_s: float) -> None:
    """A run and a delay of three visibility timeouts are no second run, with three workers (11)."""
    options = {"visibility_timeout": visible_s, "unacked_restore_interval": 0.5}
    mixed.write_project(broker_transport_options=options, task_acks_late=True)
    for _ in range(3):
        mixed.start_worker("-c", "1")
    long_s = visible_s * 3.3
    do(mixed, f"sleep.delay({long_s}, 'long'); ping.apply_async(('later',), countdown={long_s})")
    mixed.wait_runs("end long", timeout_s=long_s + 20)
    mixed.wait_runs("ping later", timeout_s=long_s + 20)
    pass_s(visible_s)
    assert (1, 1) == (mixed.count("start long"), mixed.count("ping later"))


@pytest.mark.parametrize("mixed", BOTH, indirect=True)
def test_priorities(mixed: MixedSite) -> None:
    """Of 200 low and then 10 high ones the 10 run among the first 12: 9 first on R, 0 first on D (35c)."""
    low, high = (1, 9) if mixed.kind == "amqp" else (9, 0)
    mixed.write_project(task_queue_max_priority=9 if mixed.kind == "amqp" else None)
    do(
        mixed,
        f"[ping.apply_async((f'low{{n}}',), priority={low}) for n in range(200)],"
        f"[ping.apply_async((f'high{{n}}',), priority={high}) for n in range(10)]",
    )
    mixed.start_worker("-c", "1")
    mixed.wait_runs("ping low199", timeout_s=60)
    assert 10 == sum("high" in line for line in mixed.runs()[:12])


@pytest.mark.parametrize("mixed", RABBITMQ, indirect=True)
def test_what_expires_behind_long_tasks_is_revoked(mixed: MixedSite) -> None:
    """It never runs, and who waits for it is told so, though RabbitMQ drops what expires in a queue."""
    mixed.start_worker("-c", "1")
    do(mixed, "sleep.delay(1.5, 'first'), sleep.delay(0.1, 'second')")
    mixed.ask("r = ping.apply_async(('late',), expires=0.8)")
    mixed.wait_runs("end second")
    wait_until(lambda: mixed.ask("r.state") == "REVOKED", 20, what="REVOKED")
    assert 0 == mixed.count("ping late")


@pytest.mark.parametrize("mixed", BOTH, indirect=True)
def test_connections_that_are_cut(mixed: MixedSite, proxy: Proxy) -> None:
    """Five cuts in three seconds, busy and idle: nothing is lost, what runs isn't started again (41a)."""
    mixed.write_project(task_acks_late=True)
    worker = mixed.start_worker("-c", "2", "-b", proxied(mixed, proxy))
    do(mixed, "sleep.delay(6, 'busy'), [ping.delay(f'before{n}') for n in range(3)]")
    mixed.wait_runs("start busy")
    for n in range(5):
        proxy.cut()
        do(mixed, f"ping.delay('between{n}')")
        pass_s(0.6)
    do(mixed, "ping.delay('after')")
    mixed.wait_runs("ping after", timeout_s=BACK_S)
    mixed.wait_runs("end busy", timeout_s=20)
    for n in range(5):
        mixed.wait_runs(f"ping between{n}", timeout_s=BACK_S)
    pass_s(1)
    assert 1 == mixed.count("start busy")
    assert worker.alive()
    proxy.cut()
    do(mixed, "ping.delay('idle')")
    mixed.wait_runs("ping idle", timeout_s=BACK_S)


@pytest.mark.parametrize("mixed", REDIS, indirect=True)
@pytest.mark.parametrize("away_s", lengths(2, 30))
def test_a_broker_that_stands_still(mixed: MixedSite, away_s: float) -> None:
    """Redis stopped by SIGSTOP: a ping ends soon after it goes on, and what ran is not run again (41a)."""
    mixed.write_project(task_acks_late=True, broker_transport_options={"emq_dead_after": 2})
    worker = mixed.start_worker("-c", "2")
    other = mixed.start_worker("-c", "1")
    do(mixed, f"sleep.delay({away_s + 2}, 'busy')")
    mixed.wait_runs("start busy")
    assert mixed.redis is not None
    mixed.redis.send_signal(signal.SIGSTOP)
    pass_s(away_s)
    mixed.redis.send_signal(signal.SIGCONT)
    do(mixed, "ping.delay('after')")
    mixed.wait_runs("ping after", timeout_s=BACK_S)
    mixed.wait_runs("end busy", timeout_s=away_s + 20)
    pass_s(3)
    assert 1 == mixed.count("start busy")
    assert worker.alive()
    assert other.alive()


@pytest.mark.parametrize("mixed", REDIS, indirect=True)
def test_two_brokers_at_once(mixed: MixedSite) -> None:
    """With -b twice one worker takes tasks from both brokers; what waits in the old one isn't starved."""
    old = mixed.url.rpartition("/")[0] + "/5"
    do(mixed, "[ping.delay(f'new{n}') for n in range(300)]")
    do(
        mixed,
        f"c = app.connection_for_write('{old}')\n"
        "[ping.apply_async((f'old{n}',), connection=c) for n in range(100)]",
    )
    mixed.start_worker("-c", "1", "-b", mixed.url, "-b", old)
    mixed.wait_runs("ping old99", timeout_s=60)
    mixed.wait_runs("ping new299", timeout_s=60)
    assert 400 == len(mixed.runs())
    marks = mixed.runs()
    assert marks.index("ping old49") < 250, "a fair share"
