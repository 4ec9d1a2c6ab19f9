"""Whom the system lets run first: who publishes and the broker, not who works."""

from __future__ import annotations

import contextlib
import os

__all__ = ["give_way"]


def give_way() -> None:
    """Have this thread, and the processes and threads that come from it, wait for a free core or their turn.

    They keep their share of the processor (Linux's SCHED_BATCH): only, waking up interrupts nobody. Where
    all cores are busy, who publishes isn't held up by each of its tasks, and what comes meanwhile is taken
    in at once. Where that can't be had, and where somebody chose another policy, nothing is changed.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
