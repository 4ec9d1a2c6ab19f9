"""What becomes of a late-acked task's message when it fails, or runs out of time."""

from __future__ import annotations

import json

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.manager.losses import reply_to_lost
from emq_compat.message import Delivery, Headers
from emq_compat.pool.base import Lost
from emq_compat.run import TaskPolicy
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("acks_late", [True, False])
def test_a_failure_that_isnt_acknowledged_is_a_dead_letter_and_a_result(
    app: Celery, client: Recorder, worker: Worker, acks_late: bool
) -> None:
    """acks_on_failure=False rejects the message of a late-acked task; the FAILURE is kept all the same."""

    @app.task(acks_late=acks_late, acks_on_failure=False)
    def fail() -> None:
        raise ValueError("no")

    result = fail.delay()
    reply = worker.run(client.last)

    if not acks_late:
        assert ("FAILURE", ()) == (reply.state, reply.follow_ups)
        return
    (end,) = reply.follow_ups
    assert ("REJECTED", "FAILURE", result.id) == (reply.state, end.headers.settled, end.headers.task_id)
    assert "ValueError" == json.loads(end.payload)["error"]["type"]


@pytest.mark.parametrize(
    ("late", "acks", "state"), [(True, False, "REQUEUED"), (True, True, "FAILURE"), (False, False, "FAILURE")]
)
def test_a_timeout_that_isnt_acknowledged_goes_back(late: bool, acks: bool, state: str) -> None:
    """acks_on_timeout=False puts a late-acked task back; it counts as a loss there."""
    delivery = Delivery(msgid="m", queue="q", headers=Headers(task="t"), payload=b"")
    lost = Lost(key=("m", 1), pid=1, reason="time-limit", detail="")
    policy = TaskPolicy(acks_late=late, acks_on_timeout=acks)
    assert state == reply_to_lost(lost, delivery, policy, 1.0).state


def test_both_flags_reach_the_worker_s_policy(app: Celery, worker: Worker) -> None:
    """acks_on_failure_or_timeout is what the job manager is told where nothing says otherwise."""
    app.conf.task_acks_on_failure_or_timeout = False

    @app.task(name="proj.one")
    def one() -> None: ...

    assert not worker.program.policies["proj.one"].acks_on_timeout
