"""What real processes log: one line a task, facts in JSON, no secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.environments import genuine_celery
from tests.monitor.pages import health
from tests.processes import Proc, Procs, unused_port, wait_until
from tests.site import NAME, Site

pytestmark = [pytest.mark.integration]

MORE = """
from emq_compat.shim.log import get_task_logger

own = get_task_logger(__name__)


@app.task
def login(password):
    own.info("somebody logs in")
    print("printed")
    raise PermissionError("wrong one")
"""


def _lines(proc: Proc) -> list[dict[str, Any]]:
    return [json.loads(line) for line in proc.output().splitlines()]


def _of(proc: Proc, task_id: str) -> list[dict[str, Any]]:
    return [line for line in _lines(proc) if line.get("task_id") == task_id]


def test_json_of_broker_worker_and_beat(site: Site) -> None:
    """Each line of broker, worker and beat is one object; a task's have its name, id, queue, state, time."""
    site.write_project(MORE)
    broker = site.start_broker("--log-format", "json", "--http", "0")
    worker = site.start_worker("--log-format", "json", "--http", "0", ready="is ready")
    beat = site.procs.emq(
        "beat", "-A", NAME, "--log-format", "json", "-l", "info", cwd=site.folder, ready="entries of"
    )
    ping, login = site.tasks.ping.delay("hunter2"), site.tasks.login.delay("hunter2")
    assert "hunter2" == ping.get(timeout=20)
    with pytest.raises(PermissionError):
        login.get(timeout=20)
    wait_until(lambda: len(_of(worker, login.id)) >= 4)
    for proc in (broker, worker, beat):
        assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in _lines(proc))
    name = f"{NAME}.ping"
    received, succeeded = _of(worker, ping.id)
    assert [(name, "celery", "RECEIVED"), (name, "celery", "SUCCESS")] == [
        (line["task_name"], line["queue"], line["state"]) for line in (received, succeeded)
    ]
    assert 0 < succeeded["runtime_s"] < 20
    received, said, printed, failed = _of(worker, login.id)
    assert ["somebody logs in", "printed"] == [said["message"], printed["message"]]
    assert {f"{NAME}.login"} == {line["task_name"] for line in (received, said, printed, failed)}
    assert ("ERROR", "FAILURE") == (failed["level"], failed["state"])
    assert failed["message"].endswith("raised unexpected: PermissionError: wrong one")
    assert failed["exception"].startswith("Traceback (most recent call last)")
    # No arguments: "hunter2" is what ping returned, and nothing else.
    told = [line for line in _lines(worker) if "hunter2" in json.dumps(line)]
    assert [succeeded] == told


def test_a_projects_own_logging_stays(site: Site) -> None:
    """A receiver of setup_logging decides alone, with --log-format json, too."""
    site.write_project(
        """
import logging
from emq_compat.shim.signals import setup_logging

@setup_logging.connect
def own(**_):
    logging.basicConfig(level="INFO", format="MINE %(message)s")
"""
    )
    site.start_broker()
    worker = site.start_worker("--log-format", "json", ready="MINE w0@")
    result = site.tasks.ping.delay("x")
    assert "x" == result.get(timeout=20)
    worker.wait_line(f"MINE Task {NAME}.ping[{result.id}] succeeded")


def test_a_genuine_app_logs_in_json(site: Site, procs: Procs, tmp_path: Path) -> None:
    """The tasks of genuine Celery have the same members, from lines of Celery's own tracer."""
    (tmp_path / "genuineproj.py").write_text(
        f"""
from celery import Celery
from celery.utils.log import get_task_logger
app = Celery("genuineproj", broker={site.url!r}, backend={site.url!r})
own = get_task_logger(__name__)

@app.task
def add(x, y):
    own.info("adding")
    return x + y

@app.task
def fail():
    raise ValueError("no")
"""
    )
    site.start_broker()
    python = genuine_celery() / "python"
    worker = procs.start(
        python, "-m", "emq_compat", "worker", "-A", "genuineproj", "-c", "1", "-l", "info",
        "--log-format", "json", cwd=tmp_path, ready="is ready", timeout_s=60,
    )  # fmt: skip
    code = "from genuineproj import *; print(add.delay(1, 2).id); print(fail.delay().id)"
    client = procs.start(python, "-c", code, cwd=tmp_path)
    assert 0 == client.wait(60)
    add, fail = client.output().split()
    wait_until(lambda: len(_of(worker, add)) >= 3 and len(_of(worker, fail)) >= 2)
    received, said, succeeded = _of(worker, add)
    assert ("RECEIVED", "adding", "SUCCESS") == (received["state"], said["message"], succeeded["state"])
    assert {"genuineproj.add"} == {line["task_name"] for line in (received, said, succeeded)}
    assert succeeded["runtime_s"] > 0
    failed = _of(worker, fail)[-1]
    assert ("FAILURE", True) == (failed["state"], failed["exception"].endswith("ValueError: no"))


def test_no_password_is_logged(site: Site) -> None:
    """What a worker says of brokers that it can't reach has no password in it, at any level."""
    at = f"127.0.0.1:{unused_port()}"
    brokers = f"amqp://user:hunter2@{at}//", f"redis://:hunter2@{at}/0"
    worker = site.start_worker("-b", brokers[0], "-b", brokers[1], "-l", "debug", ready=at)
    for shown in (f"amqp://user:**@{at}", f"redis://:**@{at}"):
        worker.wait_line(shown, count=2)  # in the banner, and in an error
    worker.stop()
    assert "hunter2" not in worker.output()
    status, line = health("-b", brokers[0], "-t", "0.5")
    assert (1, True, False) == (status, line.startswith("not ready: no answer"), "hunter2" in line)
