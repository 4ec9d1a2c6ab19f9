"""A real worker, and what its pages tell of it in the states that an operator knows."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from emq_compat.message import Headers, Job, Publish
from tests.monitor.pages import address_of, health, metrics, page
from tests.processes import wait_until
from tests.site import NAME, Site

pytestmark = [pytest.mark.integration]

#: Files by which a test holds the loop up, and keeps children from starting.
MORE = """
from emq_compat.shim.signals import worker_process_init, worker_ready

@worker_ready.connect
def hold_up(**_):
    if os.path.exists("held_up"):
        open("held_up").close()  # a FIFO

@worker_process_init.connect
def refuse_to_start(**_):
    if os.path.exists("no_children"):
        os._exit(3)
"""


def test_states_of_a_worker(site: Site) -> None:
    """A worker is ready when its broker is there, its loop turns and a child can start; busy or not."""
    site.write_project(MORE)
    held_up, no_children = site.folder / "held_up", site.folder / "no_children"
    os.mkfifo(held_up)
    worker = site.start_worker("-c", "2", "-n", "one@here", "--http", "127.0.0.1:0", ready=None)
    http = address_of(worker)
    at = ("--http", str(http))

    # Just started: no broker yet.
    wait_until(lambda: {"broker": "not connected to the broker"} == page(http, "/ready").wrong)
    assert (0, "live") == health("--live", *at)

    # Its loop is stuck: in a receiver of worker_ready, once the broker is there.
    site.start_broker()
    wait_until(lambda: page(http, "/live").wrong == {"loop": "the loop has not turned for 2.5 s"}, 30)
    with ThreadPoolExecutor() as asking:
        stuck = asking.map(lambda path: page(http, path), ("/live", "/ready"))
    assert [(503, {"loop": "the loop has not turned for 2.5 s"})] * 2 == [(s.status, s.wrong) for s in stuck]
    held_up.write_text("")
    held_up.unlink()
    wait_until(lambda: page(http, "/ready").wrong == {})
    assert (0, "ready") == health("-d", "one@here", "-b", site.url)
    assert 1 == health("-d", "another@here", "-b", site.url, "-t", "0.5")[0]

    # All slots are busy.
    site.tasks.sleep.delay(60, "long")
    site.tasks.sleep.delay(60, "longer")
    site.wait_runs("start long")
    site.wait_runs("start longer")
    assert (0, "ready") == health(*at)
    assert (0, "ready") == health("-d", "one@here", "-b", site.url)

    # No child can start.
    no_children.touch()
    pid = int(next(line for line in site.runs() if line.startswith("start long ")).split()[2])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "children" in page(http, "/ready").wrong)
    assert "a child ended before it was ready" in health(*at)[1]
    assert (0, "live") == health("--live", *at)
    no_children.unlink()
    wait_until(lambda: page(http, "/ready").wrong == {})

    # The broker is away, and comes back.
    assert site.broker is not None
    site.broker.kill()
    wait_until(lambda: page(http, "/ready").wrong == {"broker": "not connected to the broker"}, 30)
    assert (0, "live") == health("--live", *at)
    site.start_broker()
    wait_until(lambda: page(http, "/ready").wrong == {}, 30)

    # It is on its way to its end, while a task runs.
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: page(http, "/ready").wrong == {"running": "it is shutting down"})
    assert (0, "live") == health("--live", *at)
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    assert 1 == health("--live", *at)[0]


def test_a_job_manager_serves_the_same(site: Site) -> None:
    """A job manager of allowed functions is live, ready and counts, as a worker."""
    site.start_broker()
    manager = site.procs.emq(
        "jobmanager", "-b", site.url, "--allow", "time.*", "-c", "1", "-n", "jobs@here", "--http", "0"
    )
    http = address_of(manager)
    wait_until(lambda: page(http, "/ready").wrong == {})
    assert "jobs@here" == page(http, "/live").document["node"]
    publish = Publish(queue="default", headers=Headers(), payload=Job(path="time", callable="time").encode())
    site.client.publish(publish)
    wait_until(lambda: metrics(http).get('emq_worker_tasks_total{end="succeeded",task="-"}') == 1)
    assert 1 == metrics(http)["emq_worker_slots"]


def test_a_pool_without_processes(site: Site) -> None:
    """In the pool solo a worker whose only slot is busy is live and ready, and counts as with processes."""
    site.start_broker("--memory")
    http = address_of(site.start_worker("-P", "solo", "-c", "1", "--http", "0"))
    assert "x" == site.tasks.ping.delay("x").get(timeout=20)
    site.tasks.sleep.delay(1.0, "busy")
    site.wait_runs("start busy")
    assert (200, {}) == (page(http, "/live").status, page(http, "/ready").wrong)
    wait_until(
        lambda: metrics(http).get(f'emq_worker_tasks_total{{end="succeeded",task="{NAME}.sleep"}}') == 1
    )
    found = metrics(http)
    assert (0, 0, 1) == tuple(
        found[f"emq_worker_{name}"] for name in ("children", "child_starts_total", "slots")
    )
