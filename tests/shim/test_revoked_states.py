"""States of tasks that were revoked before anybody had them."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from emq_compat.shim.revoked_states import note_revoked

pytestmark = pytest.mark.unit


class Backend:
    """A result backend of some states."""

    def __init__(self, **states: str) -> None:
        self.states = states
        self.revoked: list[str] = []

    def get_state(self, task_id: str) -> str:
        """The state; KeyError: it can't be had."""
        return self.states[task_id]

    def mark_as_revoked(self, task_id: str, reason: str) -> None:
        """Note it."""
        self.revoked.append(task_id)


def test_what_nobody_has_begun_becomes_revoked(caplog: Any) -> None:
    """A state that says more is left as it is, and one that can't be read is logged."""
    backend = Backend(a="PENDING", b="STARTED", c="SUCCESS", d="RETRY", e="PROGRESS")
    with caplog.at_level(logging.WARNING):
        note_revoked(backend, ["a", "b", "gone", "c", "d", "e"])
    assert ["a", "d"] == backend.revoked
    assert "task gone is revoked" in caplog.text


def test_a_backend_that_hangs_holds_nobody_up() -> None:
    """The worker goes on after the wait, and the state is stored when the backend answers."""
    answers, stored = threading.Event(), threading.Event()

    class Hanging(Backend):
        def get_state(self, task_id: str) -> str:
            answers.wait()
            return "PENDING"

        def mark_as_revoked(self, task_id: str, reason: str) -> None:
            stored.set()

    note_revoked(Hanging(), ["a"], wait_s=0.01)
    assert not stored.is_set()
    answers.set()
    assert stored.wait(10)
