"""Whom the system lets run first."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from emq_compat.manager.precedence import give_way

pytestmark = [pytest.mark.unit, pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has it")]


def in_a_thread(*steps: Callable[[], object]) -> object:
    """What the last step returns, done one after the other in a thread: the policy is a thread's own."""
    returned: list[object] = []
    thread = threading.Thread(target=lambda: returned.extend(step() for step in steps))
    thread.start()
    thread.join()
    return returned[-1]


def policy() -> int:
    return os.sched_getscheduler(0)


def test_who_works_interrupts_nobody_by_waking_up() -> None:
    """A job manager's thread runs as a batch, with what it starts; the others of its process don't."""
    assert os.SCHED_BATCH == in_a_thread(give_way, policy)
    assert os.SCHED_BATCH == in_a_thread(give_way, lambda: in_a_thread(policy))
    assert os.SCHED_OTHER == policy()


def test_a_chosen_policy_stays() -> None:
    """Whoever started the worker with chrt has it so."""

    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    assert os.SCHED_IDLE == in_a_thread(idle, give_way, policy)
