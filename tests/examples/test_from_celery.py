"""The guide for Celery's projects: its project runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Procs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.integration]


def test_the_project_runs(procs: Procs) -> None:
    """A Celery project with the two lines gives its values, after a retry, a chord and an expected error."""
    run = procs.python(ROOT / "examples/from_celery/run.py")

    assert 0 == run.wait(110)

    assert "total: 100\nrefunded: 50\nrefused: order 1: nothing to refund" in run.output()


def test_celery_s_code_has_two_lines_more() -> None:
    """Beyond what is marked as added, the project speaks of Celery alone."""
    for file in sorted((ROOT / "examples/from_celery/shop").glob("*.py")):
        before, _, rest = file.read_text().partition("# -- added\n")
        assert "emq" not in before + rest.partition("# -- end\n")[2], file.name
