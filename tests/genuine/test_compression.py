"""Compressed messages of genuine Celery: read, and no further than a limit."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.backends.cache import _DUMMY_CLIENT_CACHE
from kombu.compression import compress

from emq_compat.celery_message import CeleryMessage, delivery_of
from emq_compat.decompression import MOST_BYTES
from emq_compat.genuine.program import GenuineProgram

pytestmark = pytest.mark.unit


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("proj", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.worker_enable_remote_control = False

    @made.task(name="size", shared=False)
    def size(value: Any) -> int:
        return len(value)

    yield made
    made.close()
    _DUMMY_CLIENT_CACHE.clear()


def result(app: Celery, body: bytes, compression: str) -> Any:
    """What a message with this compressed body comes to."""
    message = CeleryMessage(
        body=body,
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": "size", "id": "id-1", "lang": "py", "compression": compression},
        properties={},
    )
    program = GenuineProgram(app, hostname="w@h")
    program.child_init()
    try:
        reply = program.work(delivery_of(message, queue="q", msgid="m"), lambda state, body: None)
    finally:
        program.child_exit()
    return reply


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma"])
def test_a_compressed_task_runs(app: Celery, name: str) -> None:
    """task_compression: the arguments are what they were."""
    body, compression = compress(b'[["abc"],{},{}]', name)

    assert "SUCCESS" == result(app, body, compression).state
    assert 3 == app.AsyncResult("id-1").result


def test_a_bomb_is_not_unpacked(app: Celery) -> None:
    """A small body that stands for a huge one fails by the limit."""
    made = zlib.compressobj()
    part = b"a" * (1 << 20)
    bomb = b"".join((*(made.compress(part) for _ in range((MOST_BYTES >> 20) + 1)), made.flush()))

    reply = result(app, bomb, "application/x-gzip")

    assert "FAILURE" == reply.state
    assert f"longer than {MOST_BYTES} bytes" in reply.body.decode()
