"""The examples of projects that keep Celery, or their broker, and of a move from one broker to another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection

from emq_compat.ids import new_id
from tests.environments import genuine_celery
from tests.processes import Procs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DAY = (
    "order: 240 paid, at try 3\n"
    "delivered: a wrapped cup, a wrapped pot, a wrapped tea\n"
    "refused: FAILURE KeyError('moon')\n"
    "beat: the till is counted\n"
)
#: The examples' databases of the tests' Redis, in which nobody else is.
DATABASE = 11

# The environment may have to be made.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


@pytest.fixture
def database(redis_url: str) -> Iterator[str]:
    """The URL of an empty database in Redis."""
    url = re.sub(r"/\d+$", "", redis_url) + f"/{DATABASE}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def queue(amqp_url: str) -> Iterator[str]:
    """The name of a queue in RabbitMQ that is gone after the test."""
    name = f"example-{new_id()}"
    yield name
    with Connection(amqp_url) as connection:
        channel: Any = connection.channel()
        channel.queue_delete(name)
        channel.exchange_delete(name)


def said(procs: Procs, example: str, *options: str) -> str:
    """What an example says that has ended well."""
    run = procs.start(genuine_celery() / "python", EXAMPLES / example / "run.py", *options)
    assert 0 == run.wait(200), run.tail()
    return run.output()


def test_keep_celery_with_one_url_changed(procs: Procs) -> None:
    """A chord in a chain, a retry, a replaced task, an error, the beat's task: with our broker and worker."""
    assert DAY == said(procs, "keep_celery")
    assert DAY in (EXAMPLES / "keep_celery/README.md").read_text()


@pytest.mark.parametrize("how", ["--results", pytest.param("--redis", marks=pytest.mark.long)])
def test_keep_celery_with_redis(how: str, procs: Procs, database: str) -> None:
    """The same with the results in Redis, and as it was: Celery's own worker, with Redis."""
    assert DAY == said(procs, "keep_celery", how, database)


def test_keep_rabbitmq(procs: Procs, amqp_url: str, queue: str) -> None:
    """Both workers take their part of one queue, ours then all of it, and Celery's again."""
    told = said(procs, "keep_rabbitmq", "--broker", amqp_url, "--queue", queue)
    assert 4 == told.count("batch 7 is ground")
    roasted = re.findall(r"roasted: (\d+) of (\d+), by (.*)", told)
    assert [("celerys"), ("celerys, ours"), ("ours"), ("celerys")] == [by for *_, by in roasted]
    assert [] == [line for line in roasted if line[0] != line[1]]


@pytest.mark.parametrize("old", ["redis", pytest.param("amqp", marks=pytest.mark.long)])
def test_two_brokers(old: str, procs: Procs, request: pytest.FixtureRequest) -> None:
    """No parcel is lost or packed twice while the broker is changed."""
    if old == "redis":
        options = ["--old", request.getfixturevalue("database")]
    else:
        options = ["--old", request.getfixturevalue("amqp_url"), "--queue", request.getfixturevalue("queue")]
    assert "packed: 400 of 400; lost: 0; twice: 0" in said(procs, "two_brokers", *options)


@pytest.mark.parametrize("example", ["keep_celery", "keep_rabbitmq", "two_brokers"])
def test_the_shops_speak_of_celery_alone(example: str) -> None:
    """Nothing of emq-compat is in their code."""
    code = [file for file in (EXAMPLES / example / "shop").glob("*.py") if "emq" in file.read_text()]
    assert [] == code
