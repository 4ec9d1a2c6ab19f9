"""How a worker scales itself: a fake pool, and the time as an argument."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.manager import autoscale
from emq_compat.manager.autoscale import Autoscaler

pytestmark = pytest.mark.unit


class FakePool:
    """Counts slots."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency

    def grow(self, n: int) -> None:
        """More."""
        self.concurrency += n

    def shrink(self, n: int) -> None:
        """Fewer."""
        self.concurrency -= n


class Bench:
    """A scaler between 2 and 6 slots, its pool, and a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: type[Autoscaler] = Autoscaler) -> None:
        self.now = 100.0
        monkeypatch.setattr(autoscale, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.jobs: dict[int, str] = {}
        self.pool = FakePool(2)
        pool: Any = self.pool
        worker = SimpleNamespace(jobs_in_flight=self.jobs)
        self.scaler = cls(pool, 6, 2, worker=worker, keepalive=10)

    def step(self, jobs: int, after_s: float = 0.0) -> int:
        """How many slots there are after a turn with so many jobs, so much later."""
        self.now += after_s
        self.jobs.clear()
        self.jobs.update(dict.fromkeys(range(jobs), ""))
        self.scaler.step(self.now)
        return self.pool.concurrency


def test_it_grows_at_once_and_shrinks_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """More jobs than slots make slots, up to the most; they go when nothing grew for as long as keepalive."""
    bench = Bench(monkeypatch)
    assert [2, 3, 6, 6] == [bench.step(jobs) for jobs in (2, 3, 6, 9)]
    assert [6, 6] == [bench.step(1, 2), bench.step(0, 7.5)]
    assert [3, 2] == [bench.step(3, 1), bench.step(0, 1)]
    assert {"max": 6, "min": 2, "current": 2, "qty": 0} == bench.scaler.info()


def test_it_looks_once_a_second_while_it_may_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is due only where there are more slots than the least, and it has room below the most."""
    bench = Bench(monkeypatch)
    assert (math.inf, 4) == (bench.scaler.due, bench.scaler.room)
    bench.step(5)
    assert (bench.now + 1, 1) == (bench.scaler.due, bench.scaler.room)


def test_limits_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """update sets either limit, and the slots where they are outside; wrong limits change nothing."""
    bench = Bench(monkeypatch)
    assert ((8, 4), 4) == (bench.scaler.update(8, 4), bench.pool.concurrency)
    assert ((3, 1), 3) == (bench.scaler.update(3, 1), bench.pool.concurrency)
    assert ((9, 1), 3) == (bench.scaler.update(9), bench.pool.concurrency)
    assert (9, 2) == bench.scaler.update(min=2)
    for wrong in ((1, 2), (0, 0), (2.5, 1), ("3", 1)):
        with pytest.raises(ConfigurationError, match="autoscale"):
            bench.scaler.update(*wrong)  # type: ignore[arg-type]
    assert (9, 2) == (bench.scaler.max_concurrency, bench.scaler.min_concurrency)


def test_a_projects_own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass decides in _maybe_scale; what it raises is logged, and the worker goes on."""

    class Own(Autoscaler):
        def _maybe_scale(self, req: Any = None) -> bool | None:
            if self.qty > 4:
                raise RuntimeError("too much")
            if self.qty == 4:
                self.scale_up(1)
            return None

    bench = Bench(monkeypatch, Own)
    assert [2, 3, 3] == [bench.step(3), bench.step(4), bench.step(5)]


def test_keepalive_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """AUTOSCALE_KEEPALIVE is Celery's variable; what is no number there is an error that names it."""
    pool: Any = FakePool(1)
    monkeypatch.setenv("AUTOSCALE_KEEPALIVE", "2.5")
    assert 2.5 == Autoscaler(pool, 2).keepalive
    monkeypatch.setenv("AUTOSCALE_KEEPALIVE", "soon")
    with pytest.raises(ConfigurationError, match="AUTOSCALE_KEEPALIVE is 'soon'"):
        Autoscaler(pool, 2)
