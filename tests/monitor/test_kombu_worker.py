"""A worker on a broker of kombu's: the same pages and figures."""

from __future__ import annotations

import uuid

import pytest

from tests.monitor.pages import address_of, health, metrics, page
from tests.processes import wait_until
from tests.site import NAME, Site

pytestmark = [pytest.mark.integration]


def test_a_worker_on_redis(site: Site, redis_url: str) -> None:
    """On Redis a worker is live and ready, counts its tasks, and answers health by its node name."""
    queue, node = f"q{uuid.uuid4().hex[:8]}", f"{uuid.uuid4().hex[:8]}@here"
    site.write_project(
        f"app.conf.update(broker_url={redis_url!r}, result_backend={redis_url!r}, "
        f"task_default_queue={queue!r}, broker_connection_retry_on_startup=True)\n"
    )
    worker = site.start_worker("-n", node, "-c", "1", "--http", "127.0.0.1:0")
    http = address_of(worker)
    wait_until(lambda: page(http, "/ready").wrong == {})
    assert "x" == site.tasks.ping.delay("x").get(timeout=20)
    late = site.tasks.ping.apply_async(["late"], countdown=0.5)
    assert "late" == late.get(timeout=20)
    site.tasks.fail.delay("no").get(timeout=20, propagate=False)
    wait_until(lambda: metrics(http).get(f'emq_worker_tasks_total{{end="failed",task="{NAME}.fail"}}') == 1)
    found = metrics(http)
    assert 2 == found[f'emq_worker_tasks_total{{end="succeeded",task="{NAME}.ping"}}']
    assert (3, 1, 0) == tuple(
        found[f"emq_worker_{name}"] for name in ("tasks_received_total", "brokers", "reconnects_total")
    )
    # Celery's messages don't tell when they were published; one with an eta tells that.
    assert 1 == found[f'emq_worker_task_queued_seconds_count{{queue="{queue}"}}']
    assert (0, "ready") == health("-b", redis_url)
    assert (0, "ready") == health("-b", redis_url, "-d", node)
    assert (1, f"not ready: no answer from no-{node}") == health(
        "-b", redis_url, "-d", f"no-{node}", "-t", "0.5"
    )
