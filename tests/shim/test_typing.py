"""The public API as a type checker sees it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_a_typed_project_is_checked_through_the_decorators(tmp_path: Path) -> None:
    """Arguments and results keep their types through decorators, delay() and get(); mistakes are found."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: `make check` installs it")
    checked = Path(__file__).with_name("typing") / "public_api.py"

    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(checked)],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=checked.parents[3],
    )

    assert (0, "") == (ran.returncode, ran.stderr), ran.stdout
