"""What a genuine task stores and publishes at its end becomes part of its Outcome."""

from __future__ import annotations

import threading

import pytest

from emq_compat.genuine.capture import Capture, capturing, current
from emq_compat.message import Headers, Publish

pytestmark = pytest.mark.unit


def message(task_id: str) -> Publish:
    """A message of some task."""
    return Publish(queue="q", headers=Headers(task_id=task_id), payload=b"")


def test_while_the_body_runs_only_the_task_itself_is_held_back() -> None:
    """A retry and a replacement are the task's end; what it sends by delay() leaves at once."""
    capture = Capture("a")
    assert (False, True) == (capture.publish(message("b")), capture.publish(message("a")))


def test_after_the_body_everything_is_held_back() -> None:
    """Callbacks and the rest of a chain go with the result."""
    capture = Capture("a")
    capture.body_ended = True
    callback = message("b")
    assert capture.publish(callback)
    assert [callback] == capture.follow_ups


def test_the_last_final_state_of_the_task_counts() -> None:
    """A failure while storing replaces what was stored; others' states and STARTED are none of it."""
    capture = Capture("a")
    assert not capture.store("a", "STARTED", b"0")
    assert not capture.store("b", "SUCCESS", b"1")
    assert capture.store("a", "SUCCESS", b"2")
    assert capture.store("a", "FAILURE", b"3")
    assert ("FAILURE", b"3") == (capture.state, capture.body)


def test_a_capture_is_of_its_thread_and_block() -> None:
    """Neither another thread nor what comes after sees it."""
    capture = Capture("a")
    seen: list[Capture | None] = []
    with capturing(capture):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
        seen.append(current())
    assert [None, capture, None] == [*seen, current()]
