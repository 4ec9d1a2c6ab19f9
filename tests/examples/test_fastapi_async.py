"""The quotes with FastAPI: their own tests pass, and they run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.processes import Procs

ROOT = Path(__file__).resolve().parents[2]
QUOTES = ROOT / "examples/fastapi_async"

pytestmark = [pytest.mark.integration]


def test_its_own_tests_pass(procs: Procs) -> None:
    """They need no broker but the one in their process."""
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".")
    run = procs.python("-m", "pytest", *options, "test_quotes.py", cwd=QUOTES)

    assert 0 == run.wait(100), run.tail()

    assert "4 passed" in run.output()


def test_the_quotes_run(procs: Procs) -> None:
    """Quotes are streamed as they arrive, the best is polled, and twenty more don't wait for each other."""
    run = procs.python("run.py", cwd=QUOTES)

    assert 0 == run.wait(110), run.tail()

    *quotes, many = run.output().splitlines()
    assert "\n".join(quotes) in (QUOTES / "README.md").read_text()
    assert re.fullmatch(r"20 more: [0-9.]+ s; one after the other it would be 28 s", many)
