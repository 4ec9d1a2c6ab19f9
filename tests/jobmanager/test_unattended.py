"""Ends that a job manager tells without its task's word, and the epilogues that it gets for them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import pytest

from emq_compat.errors import MessageError
from emq_compat.failures import failed, reply_of
from emq_compat.jobmanager import JobManager
from emq_compat.manager.losses import Losses, reply_to_lost, revoked
from emq_compat.manager.settings import EventmqSettings
from emq_compat.message import Delivery, Headers, Job, Outcome, Publish, Reply
from emq_compat.paths import PathProgram
from emq_compat.pool.base import Lost
from emq_compat.pool.channel import _FRAME, decode_finished, encode_finished
from emq_compat.run import Report, TaskPolicy
from emq_compat.upstream.base import Delivered
from tests.jobmanager.fake_upstream import FakeUpstream, running
from tests.processes import wait_until

LATE = TaskPolicy(acks_late=True, reject_on_worker_lost=True)
EARLY = TaskPolicy()


class Deadly(PathProgram):
    """Whatever it is given ends its process."""

    def work(self, delivery: Delivery, report: Report) -> Reply:
        os._exit(1)


def deadly(path: str = "os.*") -> Deadly:
    """Make the program, here or in a spawned child."""
    program = Deadly([path])
    program.rebuild = ("tests.jobmanager.test_unattended:deadly", (path,))
    return program


def delivery(**headers: object) -> Delivery:
    payload = Job(path="os", callable="getpid").encode()
    return Delivery(msgid="m", queue="q", headers=Headers(attempt=1, **headers), payload=payload)  # type: ignore[arg-type]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("reason", "policy", "expected"),
    [
        ("died", EARLY, ("FAILURE", True)),
        ("died", LATE, ("REQUEUED", False)),
        ("stopped", EARLY, ("FAILURE", True)),
        ("stopped", LATE, ("RETURNED", False)),
        ("time-limit", LATE, ("FAILURE", True)),
        ("terminated", LATE, ("REVOKED", True)),
    ],
)
def test_what_a_lost_run_comes_to(reason: str, policy: TaskPolicy, expected: tuple[str, bool]) -> None:
    """An end is unattended; what goes back to its queue has not ended."""
    lost = Lost(key=("m", 1), pid=1, reason=reason, detail="")  # type: ignore[arg-type]
    reply = reply_to_lost(lost, delivery(), policy, 3.0)
    assert expected == (reply.state, reply.unattended)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("retries", "most", "expected"), [(0, 2, "RETRY"), (2, 2, "FAILURE"), (9, None, "RETRY")]
)
def test_a_lost_run_may_be_tried_again(retries: int, most: int | None, expected: str) -> None:
    """With retry_on_worker_lost the same message comes again later, while it has retries left."""
    lost = Lost(key=("m", 1), pid=1, reason="died", detail="")
    policy = replace(LATE, lost_retry_s=60.0, max_retries=most)
    given = delivery(retries=retries, redelivered=True, chord="c.1+")
    reply = reply_to_lost(lost, given, policy, None)
    assert (expected, expected == "FAILURE") == (reply.state, reply.unattended)
    if expected == "RETRY":
        [again] = reply.follow_ups
        assert (given.queue, given.payload, retries + 1) == (
            again.queue,
            again.payload,
            again.headers.retries,
        )
        assert (0, False, "c.1") == (again.headers.attempt, again.headers.redelivered, again.headers.chord)
        assert 50 < again.headers.eta - time.time() <= 60
    stopped = replace(lost, reason="stopped")
    assert "RETURNED" == reply_to_lost(stopped, given, policy, None).state


@pytest.mark.unit
def test_what_ends_before_or_beside_its_task_is_unattended() -> None:
    """Revoked, refused, or with a value that can't travel; what a task came to itself is not."""
    assert revoked("revoked").unattended
    assert failed(MessageError("no run")).unattended
    assert reply_of(Outcome(state="SUCCESS", value=object())).unattended
    assert not reply_of(Outcome(state="FAILURE")).unattended


@pytest.mark.unit
@pytest.mark.parametrize("unattended", [False, True])
def test_a_childs_reply_keeps_the_mark(unattended: bool) -> None:
    """It passes from the child to its parent, and so does how long the result is kept."""
    keep_s = 7.5 if unattended else None
    reply = Reply(state="FAILURE", body=b"{}", no_result=True, unattended=unattended, keep_s=keep_s)
    frame = encode_finished(7, reply, 0.5, retires=True)
    assert (reply, 0.5, True) == decode_finished(frame, _FRAME.size)


@pytest.mark.unit
def test_a_childs_reply_has_any_number_of_follow_ups() -> None:
    """More of them than 16 bits count pass from the child to its parent."""
    follow_ups = tuple(
        Publish(msgid=f"m{n}", queue="q", headers=Headers(), payload=b"[]") for n in range(66_000)
    )
    reply = Reply(state="SUCCESS", body=b"{}", follow_ups=follow_ups)
    frame = encode_finished(7, reply, 0.5, retires=False)
    assert (reply, 0.5, False) == decode_finished(frame, _FRAME.size)


@pytest.mark.unit
def test_a_plain_job_manager_ignores_epilogues() -> None:
    """Nothing follows from the end of a plain job, whatever its path."""
    epilogue = Delivery(
        msgid="m", queue="q", headers=Headers(attempt=1, concludes=True), payload=b'["epilogue",{},{}]'
    )
    assert "IGNORED" == PathProgram(["os.*"]).work(epilogue, lambda state, body: None).state


@pytest.mark.integration
def test_an_epilogue_whose_child_dies_goes_back(upstream: FakeUpstream) -> None:
    """It is late-acked, whatever its task is."""
    manager = JobManager(
        skip_signal=True,
        pool="prefork",
        upstreams=[upstream],
        settings=EventmqSettings(concurrent_jobs=1),
        program=deadly(),
    )
    with running(manager, upstream):
        upstream.put(Delivered(delivery=delivery(concludes=True)))
        assert "REQUEUED" == upstream.reply_to("m").state


@pytest.mark.unit
def test_losses_of_a_bounded_number_of_messages_are_counted() -> None:
    """Each by itself; of very many the one that was lost last is known longest."""
    losses = Losses()
    assert [1, 2, 1] == [losses.note(msgid) for msgid in ("a", "a", "b")]
    for number in range(10_000):
        losses.note(f"other {number}")
    assert 1 == losses.note("a")


@pytest.mark.integration
@pytest.mark.parametrize(("limit", "expected"), [(1, ["REQUEUED", "FAILURE"]), (0, ["REQUEUED"] * 3)])
def test_what_kills_its_child_again_and_again_ends(
    upstream: FakeUpstream, limit: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the broker doesn't count, a late-acked task that was lost too often fails; 0: it never does."""
    monkeypatch.setattr(FakeUpstream, "max_losses", limit)
    manager = JobManager(
        skip_signal=True,
        pool="prefork",
        upstreams=[upstream],
        settings=EventmqSettings(concurrent_jobs=1),
        program=deadly(),
    )
    manager.program.default_policy = LATE  # type: ignore[misc]
    states = []
    with running(manager, upstream):
        for number in range(len(expected)):
            wait_until(lambda number=number: upstream.credit > number, 30, what="a new child")  # type: ignore[misc]
            upstream.put(Delivered(delivery=delivery()))
            reply = upstream.reply_to("m")
            states.append(reply.state)
            del upstream.replies["m"]
    assert expected == states
    if limit:
        told = json.loads(reply.body)
        assert ("redeliveries", True) == (told["exhausted"], reply.unattended)
        assert "lost 2 times" in str(told)
