"""kill -9, STOP and CONT, and TERM of every part of a fleet at random moments, under a mixed load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mayhem.__main__ import run
from tests.faults.mayhem.fleet import SMALL
from tests.processes import Procs

pytestmark = pytest.mark.faults

#: Whose first ten deeds kill one of each, hold a worker still for too long, and TERM all of one.
MIXED = 10394


def test_ten_deeds(procs: Procs, tmp_path: Path) -> None:
    """10 deeds: no task is lost or doubled, nothing told that isn't so, nothing hangs or is left over."""
    verdict = run(procs, tmp_path, rounds=10, seed=MIXED, size=SMALL, pace=0.1)
    print(verdict)
    assert [] == verdict.faults()
    procs.assert_none_left()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_deeds(procs: Procs, tmp_path: Path) -> None:
    """The same, 200 deeds."""
    verdict = run(procs, tmp_path, rounds=200, seed=7)
    print(verdict)
    assert [] == verdict.faults()
    procs.assert_none_left()
