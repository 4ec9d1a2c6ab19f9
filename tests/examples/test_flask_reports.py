"""The reports with Flask: their own tests pass, and they run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Procs

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "examples/flask_reports"

pytestmark = [pytest.mark.integration]


def test_its_own_tests_pass(procs: Procs) -> None:
    """They need no broker but the one in their process."""
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".")
    run = procs.python("-m", "pytest", *options, "test_reports.py", cwd=REPORTS)

    assert 0 == run.wait(100), run.tail()

    assert "5 passed" in run.output()


def test_the_reports_run(procs: Procs) -> None:
    """A report is ordered, its progress seen, and the file fetched, as the README shows it."""
    run = procs.python("run.py", cwd=REPORTS)

    assert 0 == run.wait(110), run.tail()

    shown = run.output()
    assert " of 12 months\n" in shown
    end = shown[shown.index("SUCCESS") :]
    assert end in (REPORTS / "README.md").read_text()
