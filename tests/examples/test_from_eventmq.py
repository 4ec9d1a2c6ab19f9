"""The guide for stock eventmq's sites: each of its steps runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import Procs
from tests.stock.peers import StockEnvironment

ROOT = Path(__file__).resolve().parents[2]
STEP_S = 110.0

pytestmark = [pytest.mark.interop]


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_step_runs(step: int, procs: Procs, stock_eventmq: StockEnvironment) -> None:
    """Every invoice is written and mailed once, whichever side of the move a step stands on."""
    stock = stock_eventmq.folder / "bin"
    run = procs.python(ROOT / "examples/from_eventmq/run.py", str(step), "--stock", stock)

    assert 0 == run.wait(STEP_S)

    assert "10 invoices written and mailed, once each" in run.output()
