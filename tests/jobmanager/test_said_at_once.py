"""What a job manager says in a turn of its loop leaves together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from emq_compat.jobmanager import JobManager
from emq_compat.message import Reply
from emq_compat.upstream.base import Key
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

    def ready(self, count: int) -> None:
        self.told.append("ready")
        super().ready(count)

    def reply(self, key: Key, reply: Reply) -> None:
        self.told.append("reply")
        super().reply(key, reply)

    def began(self, keys: Sequence[Key]) -> None:
        self.told.append("began")
        super().began(keys)


def test_a_reply_and_the_next_ready_are_one_write() -> None:
    """A broker that is woken up once, by both, hands the next job out in the same turn."""
    upstream = Listed()
    manager = JobManager(
        "w", skip_signal=True, concurrent_jobs=1, pool="threads", upstreams=(upstream,), allow=("operator.*",)
    )
    with running(manager, upstream):
        upstream.told.clear()
        upstream.deliver("m", "operator", "neg", 1)
        upstream.reply_to("m")
    upstream.close()
    after = upstream.told[upstream.told.index("reply") :]
    assert after.index("ready") < after.index("sends")
    assert "began" in upstream.told
