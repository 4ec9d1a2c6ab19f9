"""Names across processes: a script and its worker, an old worker beside a new one (case 28)."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from emq_compat.celery_shim import NotRegistered
from tests.site import NAME, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

_NEW = """

@app.task
def new_task(n):
    note(f"new {n}")
    return n


if __name__ == "__main__":
    print(ping.name, ping.delay("from the script").id)
"""


def test_an_old_worker_loses_no_task_that_only_a_new_one_knows(site: Site) -> None:
    """With both on one queue, each of 20 tasks that the old one doesn't know runs once on the new one."""
    site.start_broker()
    site.start_worker("-P", "threads")
    site.write_project(_NEW)
    site.start_worker("-P", "threads")

    results = [site.tasks.new_task.delay(n) for n in range(20)]

    assert list(range(20)) == [r.get(timeout=30) for r in results]
    assert 20 == site.count("new")
    assert "pong" == site.tasks.ping.delay("pong").get(timeout=30)


def test_a_name_that_no_live_worker_knows_ends_soon(site: Site) -> None:
    """NotRegistered within 2 s, and a log line that names the nearest registered tasks."""
    site.start_broker()
    worker = site.start_worker("-P", "threads")

    begun = time.monotonic()
    with pytest.raises(NotRegistered):
        site.tasks.app.send_task(f"{NAME}.pinng").get(timeout=30)

    assert time.monotonic() - begun < 2 + 8  # it takes some 20 ms; the rest is for a loaded machine
    worker.wait_line(f"no task '{NAME}.pinng' is registered here; near it: {NAME}.ping")


@pytest.mark.parametrize(("main", "known"), [(NAME, True), ("proj", False)])
def test_a_script_s_tasks_run_where_the_app_has_the_module_s_name(site: Site, main: str, known: bool) -> None:
    """`python tasks.py` publishes under the app's name: a worker that imports `tasks` knows it or says so."""
    site.write_project(_NEW)
    script = site.folder / f"{NAME}.py"
    site.start_broker()
    site.start_worker("-P", "threads")
    text = script.read_text()
    script.write_text(text.replace(f"Celery('{NAME}'", f"Celery('{main}'"))

    ran = subprocess.run(
        [sys.executable, script.name], cwd=site.folder, capture_output=True, text=True, timeout=60, check=True
    )

    name, task_id = ran.stdout.split()
    result = site.tasks.app.AsyncResult(task_id)
    assert f"{main}.ping" == name
    if known:
        assert "from the script" == result.get(timeout=30)
    else:
        with pytest.raises(NotRegistered):
            result.get(timeout=30)
