"""What the broker tells of workflows: the verb `workflows`, and which ends it takes for those of steps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emq_compat.broker import steps, workflows
from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Job, Publish
from emq_compat.protocol.commands import Request
from tests.broker.bench import CLIENT, Bench

pytestmark = pytest.mark.unit


def told(bench: Bench, **arguments: Any) -> Any:
    return bench.ask("workflows", **arguments)["ok"]


def send(
    bench: Bench, task_id: str, *, queue: str = "q", celery: Any = None, **headers: Any
) -> list[Dispatch]:
    """Publish a task; returns what is handed out then."""
    payload = Job(path="m", callable="f", celery=celery or {}).encode()
    head = Headers(guarantee=True, task_id=task_id, task=f"t.{task_id}", **headers)
    text = head.encode().encode()
    request = Request(msgid=f"m-{task_id}", queue=queue, headers=head, payload=payload, header_text=text)
    return bench.handed((CLIENT, request))


def follow_up(task_id: str, **headers: Any) -> Publish:
    head = Headers(guarantee=True, task_id=task_id, task=f"t.{task_id}", **headers)
    return Publish(queue="q", headers=head, payload=Job(path="m", callable="f").encode())


def ends(bench: Bench, after: int = 0) -> list[tuple[Any, ...]]:
    names = ("task_id", "state", "root", "chord", "goes_on")
    return [tuple(ended[name] for name in names) for ended in told(bench, after=after)["ended"]]


def test_the_steps_of_a_chain_are_one_workflow() -> None:
    """Each step that ends names the first one; a retry ends nothing, and what comes alone is none."""
    b = Bench()
    send(b, "a")
    (handed,) = b.worker()
    (handed,) = b.reply(handed, "RETRY", ready=1, follow_ups=[follow_up("a")])
    (handed,) = b.reply(handed, ready=1, follow_ups=[follow_up("b")])
    (handed,) = b.reply(handed, ready=1, follow_ups=[follow_up("c"), follow_up("x", settled="FAILURE")])
    assert [] == b.reply(handed, "FAILURE", ready=1)
    assert [
        ("a", "SUCCESS", "a", "", True),
        ("b", "SUCCESS", "a", "", True),
        ("c", "FAILURE", "a", "", False),
    ] == ends(b)
    assert [("c", "FAILURE", "a", "", False)] == ends(b, after=2)
    send(b, "alone")
    b.handed()
    assert 3 == told(b)["number"]


def test_a_chord_is_one_workflow() -> None:
    """Its parts name it, and so does its body, whether it runs or can't; what it awaits is counted."""
    b = Bench()
    send(b, "body", awaits="c:2")
    send(b, "p", chord="c:0")
    send(b, "r", chord="c:1")
    chord = {"id": "c", "body": "body", "task": "t.body", "ended": 0, "of": 2, "failed": False, "at": b.wall}
    assert [chord] == told(b)["chords"]
    (first, second) = b.worker(credit=2, slots=2)
    b.reply(first)
    assert 1 == told(b)["chords"][0]["ended"]
    (body,) = b.reply(second, ready=1)
    b.reply(body, ready=1)
    expected = [
        ("p", "SUCCESS", "c", "c", False),
        ("r", "SUCCESS", "c", "c", False),
        ("body", "SUCCESS", "c", "", False),
    ]
    assert expected == ends(b)
    send(b, "body2", awaits="d:1")
    (part,) = send(b, "s", chord="d:0")
    b.reply(part, "FAILURE")
    assert {("s", "FAILURE", "d", "d", False), ("body2", "FAILURE", "d", "", False)} == set(ends(b, after=3))


def test_what_runs_waits_or_is_due_is_told_if_it_may_be_a_step() -> None:
    """With its payload, where that or its headers say so; a plain task isn't told of."""
    b = Bench()
    send(b, "plain")
    send(b, "one", celery={"root_id": "r"})
    send(b, "part", chord="c:0")
    send(b, "later", celery={"group": "g"}, eta=b.wall + 60)
    b.worker(credit=2, slots=2)
    members = {member["task_id"]: member for member in told(b)["members"]}
    assert {"one": "running", "part": "waiting", "later": "delayed"} == {
        task_id: member["where"] for task_id, member in members.items()
    }
    assert ("c", "") == (members["part"]["chord"], members["part"]["payload"])
    assert "r" == json.loads(members["one"]["payload"])[1]["celery"]["root_id"]


def test_a_look_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many hand-outs the oldest and the latest, of a queue those in front, of all so many bytes."""
    monkeypatch.setattr(workflows, "_RUNNING", 1)
    monkeypatch.setattr(workflows, "_IN_FRONT", 2)
    monkeypatch.setattr(workflows, "_WAITING", 3)
    b = Bench()
    for n in range(6):
        send(b, f"r{n}", queue="run", celery={"root_id": "root"})
    b.worker(queues=("run",), slots=4, credit=4)
    for queue in ("p", "q", "s"):
        for n in range(3):
            send(b, f"{queue}{n}", queue=queue, celery={"root_id": "root"})
    assert ["r0", "r3", "r4", "r5", "p0"] == [member["task_id"] for member in told(b)["members"]]
    monkeypatch.setattr(workflows, "_TOLD_BYTES", 150)
    assert 1 == len(told(b)["members"])
    monkeypatch.setattr(workflows, "_TOLD_BYTES", 1 << 20)
    monkeypatch.setattr(workflows, "_LOOKED_AT_BYTES", 10)
    assert [] == told(b)["members"]


def test_after_a_restart_what_waits_is_told() -> None:
    """Though nothing of it is in memory yet, since no worker has asked for it; what runs is no part of it."""
    b = Bench()
    for n in range(3):
        send(b, f"w{n}", celery={"root_id": "root"})
    b.worker()
    b.restart()
    members = [(member["task_id"], member["where"]) for member in told(b)["members"]]
    assert [("w0", "running"), ("w1", "waiting"), ("w2", "waiting")] == members


def test_a_step_that_no_worker_ended_is_told() -> None:
    """One that was revoked before it ran, a part of a chord or one that follows from another."""
    b = Bench()
    send(b, "p", chord="c:0")
    send(b, "f", epilogue=True)
    b.engine.steps.follows("f", "root")
    b.ask("revoke", ids=["p", "f"])
    assert [("p", "REVOKED", "c", "c", False), ("f", "REVOKED", "root", "", False)] == ends(b)


def test_states_of_steps_are_told() -> None:
    """Of the ids that are asked for those that have a result, without it."""
    b = Bench()
    send(b, "a")
    (handed,) = b.worker()
    b.reply(handed, "FAILURE")
    assert {"a": "FAILURE"} == told(b, ids=["a", "b"])["states"]


def test_wrong_arguments_are_refused() -> None:
    """`after` is a number, `ids` are texts and no more than 500."""
    for arguments in ({"after": "1"}, {"ids": "a"}, {"ids": [1]}, {"ids": ["x"] * 501}):
        assert "error" in Bench().ask("workflows", **arguments)


def test_what_goes_on_keeps_its_workflow() -> None:
    """A retry that its worker sends by itself ends nothing; what has ended already is no step to come."""
    b, known = Bench(), steps.Steps()
    known.follows("a", "root")
    known.note(Headers(task_id="a"), "RETRY", b.now)
    known.note(Headers(task_id="a"), "SUCCESS", b.now, [follow_up("b"), follow_up("x", settled="FAILURE")])
    known.note(Headers(task_id="c", chord="d:0"), "SUCCESS", b.now, [follow_up("y", settled="FAILURE")])
    told = [(one.task_id, one.root, one.goes_on) for one in known.since(0)]
    assert [("a", "root", True), ("c", "d", False)] == told
    assert {"b": "root"} == known.roots


def test_what_is_known_of_steps_is_bounded() -> None:
    """Ends, and steps to come, are forgotten when there are too many; those noted longest ago first."""
    b = Bench()
    known = steps.Steps()
    for n in range(10_000):
        known.follows(f"s{n}", "root")
        known.note(Headers(task_id=f"e{n}", task="t"), "SUCCESS", b.now)
    assert len(known.roots) <= 4096
    assert ("s9999" in known.roots, "s0" in known.roots) == (True, False)
    assert (500, 10_000) == (len(known.since(0)), known.since(0)[-1].number)
