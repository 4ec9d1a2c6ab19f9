"""Workflows that are put together from their steps."""

from __future__ import annotations

from typing import Any

import pytest

from emq_compat.message import Job
from emq_compat.monitor.overview import workflows
from emq_compat.monitor.overview.workflows import Workflows

pytestmark = pytest.mark.unit


def told(**more: Any) -> dict[str, Any]:
    return {"at": 100.0, "number": 0, "ended": [], "members": [], "chords": [], "states": {}, **more}


def member(task_id: str, where: str = "running", *, chord: str = "", **celery: Any) -> dict[str, Any]:
    payload = Job(path="m", callable="f", celery=celery).encode().decode() if celery else ""
    about = {"task_id": task_id, "task": f"t.{task_id}", "where": where, "payload": payload}
    return {**about, "chord": chord, "root": None}


def ended(task_id: str, root: str, state: str = "SUCCESS", **more: Any) -> dict[str, Any]:
    about = {"task_id": task_id, "task": f"t.{task_id}", "state": state, "root": root, "at": 90.0}
    return {**about, "number": 1, "chord": "", "goes_on": False, **more}


def chord(**more: Any) -> dict[str, Any]:
    about = {"id": "c", "body": "z", "task": "t.z", "ended": 0, "of": 3, "failed": False, "at": 80.0}
    return {**about, **more}


def shown(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_a_chain_runs_and_is_done() -> None:
    """Its steps, as they run and end, are one row under the first one's id, which leads to its tree."""
    known = Workflows()
    rows = known.note(told(members=[member("a", chain=[{}])]))
    assert [("a", "a", "chain", "runs", ["t.a"])] == shown(rows, "id", "opens", "kind", "state", "tasks")
    rows = known.note(
        told(ended=[ended("a", "a", goes_on=True)], members=[member("b", "delayed", root_id="a")])
    )
    assert [("a", "b", "waits", 1, 1)] == shown(rows, "id", "opens", "state", "ended", "waiting")
    rows = known.note(told(ended=[ended("b", "a")]))
    assert [("a", "a", "done", 2, ["t.a", "t.b"])] == shown(rows, "id", "opens", "state", "ended", "tasks")
    assert {"a": "t.a", "b": "t.b"} == known.members("b")


def test_plain_tasks_are_no_workflows() -> None:
    """One that names no root but itself, no group and no step is none; a lone end isn't either."""
    known = Workflows()
    members = [member("a", root_id="a"), member("b", headers={"x": 1}), {**member("d"), "payload": "no"}]
    assert [] == known.note(told(members=members, ended=[ended("e", "e")]))


def test_a_group_is_one_and_fails_with_a_member() -> None:
    """Members whose end was not seen are asked for by their ids, and told by their states."""
    known = Workflows()
    rows = known.note(told(members=[member(one, group="g") for one in "abc"]))
    assert [("g", "group", "runs", 3)] == shown(rows, "id", "kind", "state", "running")
    assert ["a", "b", "c"] == known.unsettled()
    rows = known.note(told(states={"a": "SUCCESS", "b": "FAILURE", "c": "STARTED"}))
    assert [("g", "failed", 2, 1)] == shown(rows, "id", "state", "ended", "failed")
    assert ["c"] == known.unsettled()
    known = Workflows()
    known.note(told(members=[member("a", group="g"), member("b", group="g")]))
    assert ["unknown"] == [row["state"] for row in known.note(told(states={"a": "SUCCESS"}))]


def test_a_chord_is_one_with_its_parts_and_its_body() -> None:
    """The count is the broker's; its row leads to the body while that is held."""
    known = Workflows()
    rows = known.note(told(members=[member("p", chord="c")], chords=[chord(ended=1)]))
    names = ("id", "opens", "kind", "state", "ended", "of", "waiting")
    assert [("c", "z", "chord", "runs", 1, 3, 1)] == shown(rows, *names)
    assert ["waits"] == [row["state"] for row in known.note(told(chords=[chord(ended=2)]))]
    last = [ended(one, "c", chord="c") for one in "pqr"]
    rows = known.note(told(ended=[*last, ended("z", "c")]))
    assert [("c", "done", 3, 3)] == shown(rows, "id", "state", "ended", "of")
    rows = known.note(told(chords=[chord(body="", task="", failed=True)]))
    assert ["failed"] == [row["state"] for row in rows]


def test_a_chord_that_was_over_at_once_is_one() -> None:
    """It is known by its parts' ends alone."""
    known = Workflows()
    rows = known.note(told(ended=[ended("p", "c", "FAILURE", chord="c"), ended("z", "c", "FAILURE")]))
    assert [("c", "chord", "failed", 2, 2)] == shown(rows, "id", "kind", "state", "ended", "failed")


def test_chains_in_a_chord_are_found_to_be_one() -> None:
    """The last step of each names the chord, and its root those before it; what was two becomes one row."""
    known = Workflows()
    rows = known.note(told(members=[member("a", chain=[{}]), member("b", chain=[{}])], chords=[chord()]))
    assert ["a", "b", "c"] == sorted(row["id"] for row in rows)
    last = [ended("y", "a", chord="c"), ended("x", "b", chord="c")]
    rows = known.note(told(ended=last, members=[member("b", chain=[{}])], chords=[chord(ended=2)]))
    assert [("chord", "runs", 2)] == shown(rows, "kind", "state", "ended")
    assert set("abxyz") == set(known.members("z"))


def test_those_seen_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many are kept, and so many steps of each; what runs stands first in the list."""
    monkeypatch.setattr(workflows, "_KEPT", 3)
    monkeypatch.setattr(workflows, "MEMBERS", 2)
    monkeypatch.setattr(workflows, "_ASKED", 1)
    known = Workflows()
    for n in range(5):
        steps = [ended(f"{n}.{k}", f"r{n}", at=float(n), goes_on=True) for k in range(3)]
        rows = known.note(told(ended=steps))
    assert ["r4", "r3", "r2"] == [row["id"] for row in rows]
    assert {(2, True)} == set(shown(rows, "ended", "more"))
    assert ({}, ["4.0", "4.1"]) == (known.members("0.0"), list(known.members("4.1")))
    rows = known.note(told(members=[member("2.0", root_id="r2"), member("3.0", root_id="r3")]))
    assert {"r2", "r3"} == {row["id"] for row in rows[:2]}
    assert ["3.0"] == known.unsettled()
    known.clear()
    assert ([], 0) == (known.note(told()), known.after)


def test_the_next_look_names_the_last_end() -> None:
    """So that ends are told once."""
    known = Workflows()
    known.note(told(number=41))
    assert 41 == known.after
