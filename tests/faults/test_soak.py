"""The soak: what has no end in it must not grow (tests/faults/soak.py; `make soak` has the long form)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import Report, Sample, courses, slope, soak

pytestmark = pytest.mark.faults


def check(report: Report, tasks: int) -> None:
    """Every task ran as often as it should, and no process has more descriptors than before."""
    print(report)
    assert [] == report.missed
    assert [] == report.doubled
    assert [] == report.ended
    assert f"published {tasks}, read {report.read}, wrong 0, refused 0, late 0" == report.said
    assert {"broker", "client", "worker", "forked"} == {course.role for course in report.courses}
    for course in report.courses:
        first, last, _ = course.fds
        assert last <= first + 1, course


def test_a_short_soak(tmp_path: Path) -> None:
    """Some thousand tasks in a few seconds, with children replaced: all run, and no descriptor is left."""
    report = soak(2_500, 1000, 0.3, tmp_path / "soak.csv", tasks_per_child=400)
    assert 0 < report.read
    assert 4 < report.recycled
    check(report, 2_500)


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_a_longer_soak(tmp_path: Path) -> None:
    """The same for some minutes; the slopes are printed."""
    check(soak(150_000, 1000, 2.0, tmp_path / "soak.csv", tasks_per_child=5_000), 150_000)


def test_slopes() -> None:
    """A slope is percents an hour of the fitted line's height in the middle."""
    assert 10 == pytest.approx(slope([(t, 100 + 10 * (t - 1800) / 3600) for t in range(0, 3601, 60)]))
    assert 0 == pytest.approx(slope([(t, 100 + t % 2) for t in range(1001)]), abs=0.1)


def test_only_who_lived_all_the_time_has_a_course() -> None:
    """A child that was replaced counts for nothing."""
    samples = [
        Sample(at_s=t, role=role, pid=pid, rss_kb=1024, anon_kb=512, pss_kb=7, fds=t, threads=1, children=0)
        for t in range(9)
        for role, pid, until in (("broker", 1, 9), ("forked", 2, 9), ("forked", 3, 5))
        if t < until
    ]
    found = courses(samples)
    assert [("broker", 1), ("forked", 2)] == [(course.role, course.pid) for course in found]
    assert (1, 7, 8) == found[0].fds
    assert 1.0 == found[0].rss_mb
