"""Celery's workers and ours on one queue of RabbitMQ or Redis, killed in turn: ours lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.mixed_fleet import Report, open_fleet
from tests.processes import Procs

pytestmark = pytest.mark.faults


def lost_by(report: Report, kind: str) -> list[str]:
    return [step for step, worker in report.lost().items() if worker.startswith(kind)]


@pytest.mark.parametrize("broker", ["redis", "amqp"])
@pytest.mark.parametrize(
    ("kinds", "tasks", "kills"),
    [
        pytest.param(("celery", "ours"), 80, 4, id="mixed-short"),
        pytest.param(("ours", "ours"), 2000, 10_000, id="ours-full", marks=pytest.mark.long),
        pytest.param(("celery", "ours"), 2000, 10_000, id="mixed-full", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1800)
def test_workers_are_killed_in_turn(
    broker: str,
    kinds: tuple[str, ...],
    tasks: int,
    kills: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """No step is lost by a worker of ours, and none by nobody knows whom; what Celery's lost is printed."""
    url = request.getfixturevalue("amqp_url") if broker == "amqp" else ""
    folder = tmp_path / "procs"
    folder.mkdir()
    procs = Procs(folder)
    try:
        with open_fleet(broker, kinds, tmp_path, procs, url) as fleet:
            report = fleet.run(tasks, every_s=2.0, kills=kills, timeout_s=1500)
    finally:
        procs.close()

    print(report)
    assert [] == lost_by(report, "ours"), str(report)
    assert [] == lost_by(report, "unknown"), str(report)
    assert [] == report.wrong(), str(report)
    assert 0 == report.left or kills < 100, str(report)
    assert all(count > 0 for name, count in report.shares().items() if name.startswith("ours"))
