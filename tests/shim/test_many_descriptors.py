"""Publishing over brokers of kombu's, from this process."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

import pytest
from kombu import Connection, Queue

from emq_compat.celery_shim import Celery
from emq_compat.ids import new_id

pytestmark = pytest.mark.integration

#: `select.select` takes no descriptor from this one on.
HIGH = 1024


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many are open as a web server with a thousand connections has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * HIGH)), hard))
    null = os.open(os.devnull, os.O_RDONLY)
    taken = [null]
    while taken[-1] < HIGH:
        taken.append(os.dup(null))
    yield
    for fd in taken:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_many_descriptors_are_open(amqp_url: str) -> None:
    """A second call on the same connection looks first whether the broker has gone."""
    name = f"t{new_id()[-10:]}"
    with Celery("many", broker=amqp_url, set_as_current=False) as app:
        for _ in range(2):
            app.send_task("t.add", queue=name)
    with Connection(amqp_url) as connection:
        queue = Queue(name)(connection.channel())
        assert 2 == queue.queue_declare(passive=True).message_count
        queue.delete()
