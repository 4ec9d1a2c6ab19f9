"""docs/compatibility.md says what is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from emq_compat.migration.items import AREAS, PROBE, STATUSES, read_items
from tests.compat.page import PAGE, page

ROOT = Path(__file__).resolve().parents[2]
ITEMS = read_items()

pytestmark = pytest.mark.unit


def test_names_are_there_where_the_list_says_so() -> None:
    """A name that is supported or different is there, and one that is absent is not."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.compat.probe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    said = {(row.area, row.item): row.status != "absent" for row in ITEMS if row.check == PROBE}
    assert said == {(area, item): there for area, item, there in json.loads(done.stdout)}


def test_behaviours_name_a_test_that_is_there() -> None:
    """What no name shows is shown by a test of ours."""
    shown = {row.check for row in ITEMS if row.check not in (PROBE, "")}
    for file, _, name in (one.partition("::") for one in shown):
        assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (file, name)


def test_the_list_is_in_order() -> None:
    """Each item stands there once, supported or with a note; only what is absent needs no check."""
    assert [] == [key for key, count in Counter((row.area, row.item) for row in ITEMS).items() if count > 1]
    assert set(AREAS) >= {row.area for row in ITEMS}
    assert set(STATUSES) >= {row.status for row in ITEMS}
    assert [] == [row for row in ITEMS if (row.status == "supported") == bool(row.note)]
    assert [] == [row for row in ITEMS if not row.check and row.status != "absent"]


def test_the_page_is_the_one_that_was_made_of_the_list() -> None:
    """docs/compatibility.md is what ``python -m tests.compat.page`` writes."""
    assert page() == PAGE.read_text()
