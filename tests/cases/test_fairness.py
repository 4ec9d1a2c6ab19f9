"""Who gets the next task, and which (case 35)."""

from __future__ import annotations

import time

import pytest

from tests.cases.conftest import ANY_POOL
from tests.processes import wait_until
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

ONE_AT_A_TIME = ("--prefetch-multiplier", "1")


@pytest.mark.parametrize("options", [(), ONE_AT_A_TIME], ids=["default", "multiplier-1"])
@pytest.mark.parametrize(
    ("pool", "seconds", "within_s"),
    [
        pytest.param("prefork", 5, 3, id="short"),
        *(pytest.param(pool, 12, 3, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_short_tasks_behind_a_long_one(
    site: Site, pool: str, seconds: float, within_s: float, options: tuple[str, ...]
) -> None:
    """35: whatever the multiplier, they run on a worker that comes later, as soon as that is there."""
    site.start_broker()
    first = site.start_worker("-P", pool, "-c", "1", *options)
    for _ in range(5):  # from now on the first worker knows that these are short
        site.tasks.whereabouts.delay().get(timeout=5)
    site.tasks.sleep_late.delay(seconds, "long")
    where = [site.tasks.whereabouts.delay() for _ in range(4)]
    site.wait_runs("start long")

    began = time.monotonic()
    site.start_worker("-P", pool, "-c", "1", *options)

    names = {result.get(timeout=began + within_s - time.monotonic())[1] for result in where}
    assert {"w1"} == {name.partition("@")[0] for name in names}
    assert 0 == site.count("end long")
    first.kill()


@pytest.mark.parametrize("pool", ANY_POOL)
def test_priorities(site: Site, pool: str) -> None:
    """35: ten of a higher priority that were published last run among the first twelve."""
    site.start_broker()
    with site.tasks.app.pipeline():
        for n in range(200):
            site.tasks.ping.apply_async((f"low{n}",), priority=1)
        for n in range(10):
            site.tasks.ping.apply_async((f"high{n}",), priority=9)

    site.start_worker("-P", pool, "-c", "1", "-l", "warning")

    site.wait_runs("ping", 210)
    wait_until(lambda: 0 == site.queue()["in_flight"], what="all results are stored")
    assert 10 == sum(line.startswith("ping high") for line in site.runs()[:12])
