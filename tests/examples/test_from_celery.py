"""The guide for Celery's projects: each of its steps runs, and leads back."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import genuine_celery
from tests.processes import Procs

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "examples/from_celery"
VALUES = "total: 100\nrefunded: 50\nrefused: order 1: nothing to refund\n"

pytestmark = [pytest.mark.integration]


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("1", ["shop/settings.py:7:1: different: setting result_expires", "all "]),
        ("2", ["+celery_shim.install()", VALUES, "and back"]),
        ("3", ["+from emq_compat.celery_shim import chord, shared_task", VALUES, "and back"]),
        ("4", [VALUES, "receipts: order 0, order 1, order 2\none summary: True monday"]),
    ],
)
def test_step_runs(step: str, told: list[str], procs: Procs) -> None:
    """A retry, a chord and an expected error have the same values at each step, and the diff leads back."""
    run = procs.python(GUIDE / "run.py", step)

    assert 0 == run.wait(110), run.tail()

    assert [] == [text for text in told if text not in run.output()]


@pytest.mark.timeout(300)  # the environment may have to be made
def test_the_shop_runs_on_celery(procs: Procs, redis_url: str) -> None:
    """Before the move the shop runs on Celery, with a Redis."""
    run = procs.python(GUIDE / "run.py", "0", "--celery", genuine_celery(), "--redis", redis_url)

    assert 0 == run.wait(110), run.tail()

    assert VALUES in run.output()


def test_before_speaks_of_celery_alone() -> None:
    """Nothing of emq-compat is in the shop before the move."""
    assert [] == [file.name for file in (GUIDE / "before").rglob("*.py") if "emq" in file.read_text()]


def test_after_is_what_the_tool_writes(tmp_path: Path) -> None:
    """Without what is marked as our own, the code after the move is what --write makes of that before it."""
    shutil.copytree(GUIDE / "before", tmp_path / "shop")
    argv = [sys.executable, "-m", "emq_compat", "migrate", "scan", tmp_path, "--write", "--yes", "--force"]
    subprocess.run(argv, check=True, capture_output=True)
    for file in sorted((GUIDE / "before/shop").glob("*.py")):
        if file.name == "settings.py":  # the addresses are others
            continue
        after = (GUIDE / "after/shop" / file.name).read_text()
        plain = re.sub(r"( *# -- own\n.*?# -- end\n)", "", after, flags=re.DOTALL)
        written = (tmp_path / "shop/shop" / file.name).read_text()
        assert written.split() == plain.split(), file.name
