"""Celery's chords in Redis whose claim outlives the worker that had it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery.app.task import Context

from emq_compat.genuine.chord_claims import outlive
from emq_compat.ids import new_id

pytestmark = pytest.mark.integration


class Chord:
    """A chord of two parts whose body counts by its name how often it is published."""

    def __init__(self, url: str) -> None:
        self.app = celery.Celery("claims", broker="memory://", backend=url, set_as_current=False)
        self.bodies: list[Any] = []
        self.group = new_id()

        @self.app.task(name="body")
        def body(values: Any) -> Any:
            return values

        outlive(self.app.backend)
        self.app.backend.set_chord_size(self.group, 2)
        self._body = dict(body.s())
        self.app.amqp._retry_publish = lambda publish, values: self.bodies.append(values)

    def key(self, kind: str) -> Any:
        return self.app.backend.get_key_for_group(self.group, kind)

    def end(self, index: int, *, redelivered: bool) -> None:
        request = Context(
            id=f"{self.group}-{index}",
            group=self.group,
            group_index=index,
            chord=self._body,
            delivery_info={"redelivered": redelivered},
        )
        self.app.backend.on_chord_part_return(request, "SUCCESS", index)


@pytest.fixture
def chord(redis_url: str) -> Iterator[Chord]:
    made = Chord(redis_url)
    yield made
    made.app.backend.client.delete(*(made.key(kind) for kind in (".c", ".s", ".j", ".t", ".d")))
    made.app.backend.client.connection_pool.disconnect()
    made.app.close()


def test_the_body_is_published_when_the_claim_has_run_out(chord: Chord) -> None:
    """A last part that is delivered again at once after its worker died over the body."""
    chord.end(0, redelivered=False)
    chord.app.backend.client.set(chord.key(".c"), "the dead one's", px=700)
    chord.end(1, redelivered=True)
    assert [[0, 1]] == chord.bodies
    assert b"done" == chord.app.backend.client.get(chord.key(".c"))


def test_a_part_that_comes_again_publishes_nothing_more(chord: Chord) -> None:
    """Before its chord's end, and after it."""
    chord.end(0, redelivered=False)
    chord.end(0, redelivered=True)
    assert [] == chord.bodies
    chord.end(1, redelivered=True)
    chord.end(1, redelivered=True)
    assert [[0, 1]] == chord.bodies
