"""Chords counted in Redis, in Celery's keys."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any

import pytest

from emq_compat.backends.chords import ChordCounter, PartResult
from emq_compat.backends.redis import RedisStore
from emq_compat.backends.redis_chords import RedisChords
from emq_compat.celery_shim import Celery
from emq_compat.ids import new_id
from emq_compat.shim.record_codec import codec_of

pytestmark = pytest.mark.integration


def end(task_id: str, result: Any = None, state: str = "SUCCESS") -> PartResult:
    return PartResult(task_id=task_id, state=state, result=result)


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def store(request: pytest.FixtureRequest, redis_url: str) -> Iterator[RedisStore]:
    codec = codec_of(Celery("chords", set_as_current=False))
    made = RedisStore(
        codec, url=redis_url, prefix=new_id(), expires_s=60,
        chord_options={"expires_s": 60, "ordered": request.param},
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def chords(store: RedisStore) -> ChordCounter:
    assert store.chords is not None
    return store.chords


def test_who_ends_the_last_part_publishes_the_body(chords: ChordCounter, store: RedisStore) -> None:
    """Only the last end gives a claim; the results come in the order of the parts' places."""
    chords.begin("c", 3, None)

    assert chords.ended("c", end("t2", 20), 2) is None
    assert chords.ended("c", end("t0", 0), 0) is None
    claim = chords.ended("c", end("t1", 10), 1)

    assert claim is not None
    found = [part.result for part in chords.results(claim)]
    assert [0, 10, 20] == found or ([20, 0, 10] == found and not store.chords._ordered)  # type: ignore[union-attr]
    chords.finish(claim)
    assert [] == [key for key in store.client.keys(f"{store.group_key('c')}*") if not key.endswith(b".c")]


def test_a_part_that_ends_twice_counts_once(chords: ChordCounter) -> None:
    """A part that was delivered again changes nothing, before and after its chord's end."""
    chords.begin("c", 2, None)
    assert chords.ended("c", end("t0", 0), 0) is None
    assert chords.ended("c", end("t0", "other"), 0) is None
    claim = chords.ended("c", end("t1", 1), 1)
    assert claim is not None
    assert {0, 1} == {part.result for part in chords.results(claim)}

    chords.finish(claim)

    assert chords.ended("c", end("t1", 1), 1) is None


def test_two_claims_are_not_given(chords: ChordCounter) -> None:
    """Another one that tells the last end again waits for who publishes the body, and gets no claim."""
    chords.begin("c", 1, None)
    claim = chords.ended("c", end("t0"), 0)
    assert claim is not None
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(chords.ended, "c", end("t0"), 0)
        with pytest.raises(NotYet):
            again.result(0.5)
        assert chords.extend(claim, 30)

        chords.finish(claim)

        assert again.result(10) is None


def test_a_claim_of_a_dead_worker(chords: ChordCounter, store: RedisStore) -> None:
    """A last part that comes again at once gets the claim when that of its dead worker has run out."""
    chords.begin("c", 1, None)
    assert chords.ended("c", end("t0"), 0) is not None
    store.client.pexpire(f"{store.group_key('c')}.c", 700)

    assert chords.ended("c", end("t0"), 0) is not None


def test_a_claim_whose_answer_was_lost(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks again as the connection was cut has what it was given before."""
    chords = store.chords
    assert isinstance(chords, RedisChords)
    chords.begin("c", 1, None)
    monkeypatch.setattr(chords, "_tried", lambda do: (do(), do())[1])

    assert chords.ended("c", end("t0"), 0) is not None


def test_a_claim_that_was_lost_is_not_extended(chords: ChordCounter, store: RedisStore) -> None:
    """Whoever was away for longer than its claim publishes nothing if another one has it."""
    chords.begin("c", 1, None)
    first = chords.ended("c", end("t0"), 0)
    assert first is not None
    store.client.delete(f"{store.group_key('c')}.c")  # its time is over
    second = chords.ended("c", end("t0"), 0)
    assert second is not None

    assert not chords.extend(first, 30)
    assert chords.extend(second, 30)


def test_parts_that_end_before_the_size_is_known(chords: ChordCounter) -> None:
    """A header may begin to end before it is published whole; one that grew waits for what was added."""
    assert chords.ended("c", end("t0"), 0) is None
    chords.begin("c", 2, None)
    chords.grow("c")
    assert chords.ended("c", end("t1"), 1) is None
    assert chords.ended("c", end("added"), 1) is not None


def test_a_chord_that_failed_does_not_fail_again(chords: ChordCounter, store: RedisStore) -> None:
    """After its end a part that comes again finds no size, and what is kept of it ends by itself."""
    chords.begin("c", 1, [["g", None], []])
    claim = chords.ended("c", end("t0", {"exc_type": "ValueError"}, "FAILURE"), 0)
    assert claim is not None
    assert ["FAILURE"] == [part.state for part in chords.results(claim)]

    chords.abandon("c")
    store.client.delete(f"{store.group_key('c')}.c")

    assert chords.ended("c", end("t0"), 0) is None
    assert all(0 < store.client.ttl(key) <= 60 for key in store.client.keys(f"{store.group_key('c')}*"))
