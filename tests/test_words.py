"""Amounts and lengths of time, as the commands and the dashboard say them."""

from __future__ import annotations

import pytest

from emq_compat.words import amount, duration, roughly

pytestmark = pytest.mark.unit


def test_words() -> None:
    """Amounts and lengths of time as people say them."""
    assert ("1 task", "1,200 tasks") == (amount(1, "task"), amount(1200, "task"))
    assert "2 entries" == amount(2, "entry", "entries")
    assert ["0.4 s", "20 s", "3 min 20 s", "2 d 1 h"] == [*map(duration, (0.41, 20.9, 200, 176_500))]
    assert ["0 s", "119 s", "2 min", "3 h", "2 d"] == [*map(roughly, (0.4, 119.9, 121, 10900, 180_000))]
