"""`emq-compat status`."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Site
from tests.processes import wait_until

pytestmark = [pytest.mark.integration]


def test_status_shows_workers_with_what_they_hold(site: Site) -> None:
    """Workers stand there with what runs in which process, queues with what waits."""
    site.start_broker()
    worker = site.start_worker()
    site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 2]", "--countdown", "3600")
    running = site.emq("call", "-A", "proj", "proj.sleep", "-a", "[120]").strip()

    def holds() -> dict:  # type: ignore[type-arg]
        document = json.loads(site.emq("status", "-b", site.url, "--json"))
        return document if document["workers"][0]["active"] else {}

    document = wait_until(holds, 30, what="the task to run")
    [shown] = document["workers"]
    assert (worker.pid, 2, 1) == (shown["pid"], shown["slots"], shown["in_flight"])
    assert [(running, "proj.sleep", [120])] == [(t["id"], t["name"], t["args"]) for t in shown["active"]]
    queues = {queue["name"]: queue for queue in document["queues"]}
    assert (1, 1, 1) == (queues["celery"]["delayed"], queues["slow"]["in_flight"], queues["slow"]["workers"])

    text = site.emq("status", "-A", "proj")
    assert "0 waiting, 1 delayed, 1 in flight, 0 dead letters" in text
    [held] = [line.split() for line in text.splitlines() if running in line]
    assert ["proj.sleep", running, "running"] == held[1:4]
    worker.kill()


def test_status_without_a_worker_ends_with_69(site: Site) -> None:
    """No worker: the queues are shown all the same, and the exit status is that of `celery status`."""
    site.start_broker()
    site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 2]")

    done = site.run("status", "-b", site.url)

    assert 69 == done.returncode
    assert "No worker is connected." in done.stdout
    assert "celery" in done.stdout
