"""Where a task is: the verb `trace`, and the trees that are made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from emq_compat.broker import traces
from emq_compat.message import Headers, Job
from emq_compat.monitor.dashboard.workflow import workflow
from emq_compat.protocol.commands import Request
from tests.broker.bench import CLIENT, Bench
from tests.monitor.dashboard.fake import FakeBroker

pytestmark = pytest.mark.unit


def traced(bench: Bench, *ids: str) -> Any:
    return bench.ask("trace", ids=list(ids))["ok"]


def test_each_place_has_its_name() -> None:
    """Running, waiting, for later, held for a chord, ended, and not known."""
    b = Bench()
    (runs,) = b.publish(task="t.run")
    b.worker()
    (waits,) = b.publish(task="t.wait")
    (later,) = b.publish(eta=b.wall + 90)
    (part,) = b.publish(chord="c:0")
    (body,) = b.publish(awaits="c:1")
    ids = [f"t-{one}" for one in (runs, waits, later, part, body)]
    told = traced(b, *ids, "nobody")
    where = ["running", "waiting", "delayed", "waiting", "held", "unknown"]
    assert where == [told[one]["where"] for one in [*ids, "nobody"]]
    assert ("t.run", "q", 1) == tuple(told[ids[0]][name] for name in ("task", "queue", "attempt"))
    assert 90 == told[ids[2]]["due_s"]
    assert ("c", ids[4]) == (told[ids[3]]["chord"], told[ids[3]]["body"])
    assert {"ended": 0, "of": 1} == told[ids[4]]["parts"]
    assert all('["run"' in told[one]["payload"] for one in ids)


def test_an_end_is_told_with_its_reply() -> None:
    """What has ended is found by its result, as its worker wrote it."""
    b = Bench()
    (msgid,) = b.publish()
    (handed,) = b.worker()
    b.reply(handed, "FAILURE", body=b'{"error": {}}')
    told = traced(b, f"t-{msgid}")[f"t-{msgid}"]
    assert ("unknown", "FAILURE", '{"error": {}}') == (told["where"], told["state"], told["reply"])


def test_what_is_large_is_not_shown() -> None:
    """A payload, or a reply, of more than 64 KiB is left out: two hundred may be asked for at once."""
    b = Bench()
    large = Job(path="m", callable="f", args=["x" * (64 << 10)]).encode()
    headers = Headers(guarantee=True, task_id="t", epilogue=True)
    b.turn((CLIENT, Request(msgid="m", queue="q", headers=headers, payload=large, header_text=b"id:t")))
    assert ("waiting", None) == tuple(traced(b, "t")["t"][name] for name in ("where", "payload"))
    (handed,) = b.worker()
    b.reply(handed, body=b'{"value": "%s"}' % (b"x" * (64 << 10)))
    told = traced(b, "t")["t"]
    assert ("SUCCESS", False) == (told["state"], "reply" in told)


def test_a_large_backlog_is_not_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain message is looked for one by one only where they are few; else the answer says so."""
    monkeypatch.setattr(traces, "_LOOKED_THROUGH", 3)
    b = Bench()
    (msgid, *_) = b.publish(4)
    assert {"where": "unknown", "unsearched": True} == traced(b, f"t-{msgid}")[f"t-{msgid}"]


def test_what_waits_is_looked_through_once() -> None:
    """For all ids together, and not for those that have ended; what is found has its payload."""
    b = Bench()
    (first, second, third) = b.publish(3)
    looks: list[list[str]] = []
    find = b.store.find
    b.store.find = lambda ids: looks.append(list(ids)) or find(ids)  # type: ignore[method-assign, func-returns-value]
    (handed,) = b.worker()
    b.reply(handed)
    ids = [f"t-{one}" for one in (first, second, third)]
    told = traced(b, *ids, "nobody")
    assert [[*ids[1:], "nobody"]] == looks
    assert ["unknown", "waiting", "waiting", "unknown"] == [told[one]["where"] for one in [*ids, "nobody"]]
    assert '["run"' in told[ids[1]]["payload"]
    assert "unknown" == traced(b, ids[0])[ids[0]]["where"]
    assert 1 == len(looks)


def test_ids_with_odd_characters_are_found() -> None:
    """A task's id is found as it was given, whatever stands in front of it in the headers."""
    b = Bench()
    odd = "a,b é%2C"
    headers = b"grid:5,id:a%2Cb%20%C3%A9%252C"
    payload = Job(path="m", callable="f").encode()
    b.turn(
        (
            CLIENT,
            Request(msgid="m", queue="q", headers=Headers(task_id=odd), payload=payload, header_text=headers),
        )
    )
    assert "waiting" == traced(b, odd)[odd]["where"]
    assert "unknown" == traced(b, "5")["5"]["where"]


def test_wrong_ids_are_refused() -> None:
    """Ids are texts, and no more than 200."""
    for ids in (None, [1], [""], ["x"] * 201):
        assert "error" in Bench().ask("trace", ids=ids)


# Trees


class Traces(FakeBroker):
    """Answers `trace` from a table of tasks."""

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        self.tasks = tasks

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        assert verb == "trace"
        return {one: self.tasks.get(one, {"where": "unknown"}) for one in arguments["ids"]}


def ended(state: str = "SUCCESS", *children: Any, **reply: Any) -> dict[str, Any]:
    reply = {"value": 4711, "state": state, "children": [[[one, None], None] for one in children], **reply}
    return {"where": "unknown", "state": state, "reply": json.dumps(reply)}


def message(where: str = "running", **celery: Any) -> dict[str, Any]:
    job = Job(path="m", callable="f", args=["card 4711"], celery=celery)
    told = {"where": where, "task": "t", "queue": "q", "payload": job.encode().decode()}
    return {**told, "worker": "w", "for_s": 1.0, "attempt": 1}


def step(task_id: str) -> dict[str, Any]:
    return {"task": f"t.{task_id}", "args": [], "kwargs": {}, "options": {"task_id": task_id}}


def outline(node: Mapping[str, Any]) -> Any:
    """Return a tree as nested tuples of id and state."""
    return (node["id"], node["state"], *map(outline, node["children"]))


def test_a_chain_is_found_from_its_root_on() -> None:
    """Asked by a step in the middle: what has ended above it, and what is still to come below."""
    tasks = {
        "a": ended("SUCCESS", "b"),
        "b": message(root_id="a", parent_id="a", chain=[step("d"), step("c")]),
    }
    shown = workflow(Traces(tasks), "b", show_args=False)
    expected = ("a", "SUCCESS", ("b", "STARTED", ("c", "PENDING", ("d", "PENDING"))))
    assert expected == outline(shown["tree"])
    assert (True, "b") == (shown["found"], shown["asked"])
    assert "4711" not in json.dumps(shown)
    assert "4711" in json.dumps(workflow(Traces(tasks), "b", show_args=True))


def test_a_chords_body_stands_below_its_parts() -> None:
    """It is there once, and says what it waits for."""
    group = [["g", None], [[["p", None], None], [["r", None], None]]]
    tasks = {
        "a": ended("SUCCESS", children=[group]),
        "p": ended("FAILURE", error={"type": "E", "message": "m"}),
        "r": {**message(root_id="a"), "body": "z"},
        "z": {**message("held"), "parts": {"ended": 1, "of": 2}},
    }
    tree = workflow(Traces(tasks), "r", show_args=False)["tree"]
    parts = [("p", "FAILURE"), ("r", "STARTED"), ("z", "PENDING")]
    assert ("a", "SUCCESS", *parts) == outline(tree)


def test_parts_that_name_each_other_nowhere_stand_together() -> None:
    """What else was seen of a workflow stands beside what was asked for, a chord's body behind its parts."""
    tasks = {
        "p": {**message(), "body": "z"},
        "r": ended("FAILURE"),
        "z": {**message("held"), "parts": {"ended": 1, "of": 2}},
    }
    for asked in "prz":
        shown = workflow(
            Traces(tasks), asked, show_args=False, beside=dict.fromkeys(["p", "r", "z", "gone"], "t")
        )
        parts = sorted([("p", "STARTED"), ("r", "FAILURE")], key=lambda part: part[0] != asked)
        assert ("", "", *parts, ("z", "PENDING")) == outline(shown["tree"])
        assert "3 tasks together" == shown["tree"]["task"]
    shown = workflow(Traces(tasks), "gone", show_args=False, beside={"gone": "t", "p": "t"})
    assert ("", "", ("gone", "UNKNOWN"), ("p", "STARTED")) == outline(shown["tree"])
    chain = {"a": ended("SUCCESS", "b"), "b": ended()}
    shown = workflow(Traces(chain), "b", show_args=False, beside={"a": "t.a", "b": "t.b"})
    assert "t.a" == shown["tree"]["task"]
    assert ("a", "SUCCESS", ("b", "SUCCESS")) == outline(shown["tree"])


def test_steps_to_come_are_not_asked_for() -> None:
    """As long as the step before runs there are no messages of them that the broker could look for."""
    asked: list[str] = []

    class Asked(Traces):
        def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
            asked.extend(arguments["ids"])
            return super().ask(verb, timeout_s, **arguments)

    tasks = {"a": message(chain=[step("c"), step("b")], callbacks=[step("d")])}
    workflow(Asked(tasks), "a", show_args=False)
    assert ["a"] == asked


def test_what_is_hostile_has_an_end() -> None:
    """Tasks that name each other as children, and ones with no end of them, make a tree that ends."""
    tasks = {"a": ended("SUCCESS", "b"), "b": ended("SUCCESS", "a", "b")}
    assert ("a", "SUCCESS", ("b", "SUCCESS")) == outline(
        workflow(Traces(tasks), "a", show_args=False)["tree"]
    )
    many = {"a": ended("SUCCESS", *(f"c{n}" for n in range(1000)))}
    many |= {f"c{n}": ended("SUCCESS", f"c{n + 1}") for n in range(1000)}
    assert workflow(Traces(many), "a", show_args=False)["cut"]
    deep = {f"c{n}": ended("SUCCESS", f"c{n + 1}") for n in range(1000)}
    assert workflow(Traces(deep), "c0", show_args=False)["cut"]
    for reply in ("[]", "no", '{"children": [[[5]], [[["x", 1], {}]], 7]}'):
        odd = {"a": {"where": "unknown", "state": "SUCCESS", "reply": reply}}
        assert "a" == workflow(Traces(odd), "a", show_args=False)["tree"]["id"]


def test_what_is_not_known_is_said() -> None:
    """An id with a slip is found nowhere."""
    assert not workflow(Traces({}), "nobody", show_args=False)["found"]
