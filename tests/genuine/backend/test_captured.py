"""What the result backend ``emq://`` of genuine Celery stores within a run of our worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
from celery import states
from celery.result import AsyncResult, GroupResult

from emq_compat.genuine.capture import Capture, capturing
from emq_compat.genuine.chord_marks import mark

pytestmark = pytest.mark.integration


def test_the_end_of_a_run_is_captured(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """A final state of the running task is part of its outcome; what it is meanwhile is told at once."""
    task_id = new_id()
    capture = Capture(task_id)
    with capturing(capture):
        app.backend.store_result(task_id, {}, states.STARTED)
        assert states.STARTED == app.backend.get_state(task_id)
        app.backend.mark_as_done(task_id, 5)
    assert states.SUCCESS == capture.state
    assert 5 == json.loads(capture.body or b"")["value"]
    assert [] == capture.follow_ups
    assert states.STARTED == app.backend.get_state(task_id)


def chord_request(task_id: str, **more: Any) -> Any:
    body: dict[str, Any] = {}
    mark(body, "the-chord", [])
    return celery.app.task.Context(
        {"id": task_id, "group": "the-chord", "group_index": 2, "chord": body, **more}
    )


def test_a_captured_part_counts_with_its_outcome(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """The REPLY is the part; where nothing is stored a settled message in it is."""
    kept, ignored = Capture(new_id()), Capture(new_id())
    for capture, store in ((kept, True), (ignored, False)):
        capture.body_ended = True
        with capturing(capture):
            app.backend.mark_as_done(capture.task_id, 5, chord_request(capture.task_id), store)
    assert [] == kept.follow_ups
    [settled] = ignored.follow_ups
    assert ("the-chord:2", "", states.SUCCESS) == (
        settled.headers.chord,
        settled.headers.task_id,
        settled.headers.settled,
    )
    assert 5 == json.loads(settled.payload)["value"]


def test_a_failed_chains_last_step_fails_its_chord(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """What will never run ends in the transaction of what failed, and the chord's error names that."""
    capture = Capture(new_id())
    capture.body_ended = True
    last = {
        "task": "t",
        "options": {"task_id": new_id(), "chord": chord_request("x").chord, "group_index": 1},
    }
    request = celery.app.task.Context({"id": capture.task_id, "chain": [last]})
    with capturing(capture):
        app.backend.mark_as_failure(capture.task_id, ValueError("no"), request=request)
    assert [("", last["options"]["task_id"]), ("the-chord:1", "")] == [
        (message.headers.chord, message.headers.task_id) for message in capture.follow_ups
    ]


def test_a_failed_chains_groups_fail_with_it(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """Each task of a group that a chain never comes to ends, parts of chords too: no wait lasts for good."""

    def step(name: str, **more: Any) -> dict[str, Any]:
        return {"task": name, "args": [], "kwargs": {}, "options": {"task_id": f"{base}-{name}"}, **more}

    base, failed = new_id(), new_id()
    part = step("part")
    part["options"] |= {"chord": chord_request("x").chord, "group_index": 3}
    chained = step("chain", subtask_type="chain", kwargs={"tasks": [step("first"), step("last")]})
    inner = {"header": [step("unreached")], "body": step("body")}
    members = [part, chained, step("chord", subtask_type="chord", kwargs=inner)]
    group = step("group", subtask_type="group", kwargs={"tasks": members})
    capture = Capture(failed)
    capture.body_ended = True
    request = celery.app.task.Context({"id": failed, "chain": [group]})
    with capturing(capture):
        app.backend.mark_as_failure(failed, ValueError("no"), request=request)
    told = [(message.headers.task_id, message.headers.chord) for message in capture.follow_ups]
    names = ("group", "part", "first", "last", "body")
    assert [(f"{base}-{name}", "") for name in names] == [one for one in told if one[0]]
    assert [("", "the-chord:3")] == [one for one in told if not one[0]]
    app.backend.mark_as_failure(failed, ValueError("no"), request=request)
    waited = GroupResult(new_id(), [AsyncResult(f"{base}-last", app=app)], app=app)
    with pytest.raises(ValueError, match="no"):
        waited.get(timeout=10)


def test_errbacks_find_the_failure_of_their_task(app: celery.Celery, new_id: Callable[[], str]) -> None:
    """One that is called in the worker comes before the end is told, and sees its result all the same."""
    seen: list[str] = []

    @app.task(name="errback", shared=False)
    def errback(request: Any, exc: BaseException, traceback: Any) -> None:
        seen.append(app.AsyncResult(request.id).state)

    capture = Capture(new_id())
    capture.body_ended = True
    request = celery.app.task.Context({"id": capture.task_id, "errbacks": [dict(errback.s())]})
    with capturing(capture):
        app.backend.mark_as_failure(capture.task_id, ValueError("no"), request=request)
    assert [states.FAILURE] == seen
    assert (states.FAILURE, []) == (capture.state, capture.follow_ups)


def test_a_chords_generator_is_read_while_its_tasks_are_published(app: celery.Celery) -> None:
    """Nothing is asked of it when the chord begins; the body's parent is its last task."""
    made: list[int] = []

    @app.task(name="part", shared=False)
    def part(number: int) -> None:
        """Nothing."""

    def header() -> Iterator[Any]:
        for number in range(3):
            made.append(number)
            yield part.s(number)

    counted = celery.group(header(), app=app)
    body = part.s()
    gid, results = counted._freeze_group_tasks(group_id="g", chord=body)
    begun = len(made)
    app.backend.chords.begin((gid, results), body)
    assert begun == len(made) < 3
