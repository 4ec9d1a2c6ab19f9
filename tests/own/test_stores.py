"""Unique tasks where results are in another store than the broker's."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat.celery_shim import chain, chord
from tests.own.test_live import TASKS
from tests.site import Site

pytestmark = pytest.mark.integration


def test_steps_that_join_another_have_its_value_in_a_database(site: Site, tmp_path: Path) -> None:
    """What ends as the first did is written to the result backend, too, and chains go on with the value."""
    pytest.importorskip("sqlalchemy")
    site.write_project(TASKS + f"\napp.conf.result_backend = 'db+sqlite:///{tmp_path}/results.db'\n")
    site.start_broker()
    site.start_worker("-P", "threads", "-c", "4")
    only, double, listed = site.tasks.only, site.tasks.double, site.tasks.listed
    first = only.delay("w", seconds=1.0)
    body = chord([only.s("w"), double.s(4)], listed.s()).delay()
    row = chain(only.s("w"), double.s()).delay()
    linked = only.apply_async(("w",), link=double.s())
    assert ["w", 8] == body.get(timeout=30)
    assert "ww" == row.get(timeout=30)
    assert "w" == linked.get(timeout=30) == first.get(timeout=30)
    assert 1 == site.count("start w")
