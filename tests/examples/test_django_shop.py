"""The Django shop: its own tests pass, and it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Procs

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples/django_shop"

pytestmark = [pytest.mark.integration]


def test_its_own_tests_pass(procs: Procs) -> None:
    """`manage.py test` needs neither broker nor worker."""
    # Django 6.1 has another setting for it, which those before don't know.
    run = procs.python("-W", "error", "-W", "ignore:The EMAIL_", "manage.py", "test", cwd=SHOP)

    assert 0 == run.wait(100), run.tail()

    assert "Ran 7 tests" in run.output()


def test_migrations_are_complete(procs: Procs) -> None:
    """The models are those of the migrations."""
    run = procs.python("manage.py", "makemigrations", "--check", "--dry-run", cwd=SHOP)

    assert 0 == run.wait(100), run.tail()


def test_the_shop_runs(procs: Procs) -> None:
    """Orders are paid, after retries, or late; one is declined, one never placed, as the README shows."""
    run = procs.python("run.py", cwd=SHOP)

    assert 0 == run.wait(110), run.tail()

    shown = run.output().splitlines()
    readme = (SHOP / "README.md").read_text()
    assert 8 == len(shown)
    assert all(line in readme for line in shown if not line.startswith("report: "))
    assert shown[-2].endswith(": 3 orders, 158.00")
