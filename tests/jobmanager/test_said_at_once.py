"""What a job manager says in a turn of its loop leaves together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from emq_compat.jobmanager import JobManager
from emq_compat.message import Reply
from emq_compat.upstream.base import Delivered, Key, UpstreamEvent
from tests.jobmanager.fake_upstream import FakeUpstream, running

pytestmark = pytest.mark.integration


class Listed(FakeUpstream):
    """Lists what it is told, and when it is asked for its deadline: then an upstream sends."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def deadline(self) -> float | None:
        self.told.append("sends")
        return super().deadline()

    def step(self, now: float) -> list[UpstreamEvent]:
        events = super().step(now)
        self.told += ["delivers" for event in events if isinstance(event, Delivered)]
        return events

    def ready(self, count: int) -> None:
        self.told.append("ready")
        super().ready(count)

    def reply(self, key: Key, reply: Reply) -> None:
        self.told.append("reply")
        super().reply(key, reply)

    def began(self, keys: Sequence[Key]) -> None:
        self.told.append("began")
        super().began(keys)


def told_of_one_job() -> list[str]:
    """What a job manager of one slot says from a job's delivery on, and when it sends."""
    upstream = Listed()
    manager = JobManager(
        "w", skip_signal=True, concurrent_jobs=1, pool="threads", upstreams=(upstream,), allow=("operator.*",)
    )
    with running(manager, upstream):
        upstream.deliver("m", "operator", "neg", 1)
        upstream.reply_to("m")
    upstream.close()
    return upstream.told[upstream.told.index("delivers") :]


def test_a_reply_and_the_next_ready_are_one_write() -> None:
    """A broker that is woken up once, by both, hands the next job out in the same turn."""
    told = told_of_one_job()
    after = told[told.index("reply") :]
    assert after.index("ready") < after.index("sends")


def test_what_has_begun_is_told_in_the_turn_that_it_came_in() -> None:
    """A job that finds an idle slot has begun before the job manager waits again."""
    told = told_of_one_job()
    assert told.index("began") < told.index("sends")
