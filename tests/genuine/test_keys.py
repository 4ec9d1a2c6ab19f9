"""Celery's own worker on a broker with keys."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.keys import add_client, new_keys
from tests.broker_process import Broker
from tests.processes import Proc, Procs

pytestmark = [pytest.mark.integration]

PROJECT = """
from celery import Celery

app = Celery("proj", broker={url!r}, backend={url!r})

@app.task(name="add")
def add(x, y):
    return x + y
"""


@pytest.fixture
def start(procs: Procs, tmp_path: Path, broker: Broker) -> Callable[..., Proc]:
    """Starts Celery's own worker with a worker's key, the only key besides that of a client."""
    keys = tmp_path / "keys"
    new_keys(keys)
    worker = add_client(
        keys,
        "celery",
        role="worker",
        publish=("celery", "*.pidbox", "celeryev*"),
        take=("celery", "*.pidbox", "celeryev*"),
    )
    client = add_client(keys, "web", role="client")
    broker.start("--keys", str(keys))
    for name, key in (("worker", worker), ("web", client)):
        (tmp_path / f"{name}.py").write_text(PROJECT.format(url=f"{broker.url}&keys={key}"))

    def start_worker(*options: str) -> Proc:
        celery = Path(sys.executable).with_name("celery")
        return procs.start(
            celery,
            "-A",
            "worker",
            "worker",
            "-c",
            "1",
            "-l",
            "info",
            *options,
            cwd=tmp_path,
            timeout_s=60,
            ready=" ready.",
        )

    return start_worker


@pytest.mark.parametrize("options", [("--without-mingle",), ()], ids=["without mingle", "mingle"])
def test_it_runs_tasks_with_a_worker_s_key(
    start: Callable[..., Proc], options: tuple[str, ...], procs: Procs, tmp_path: Path
) -> None:
    """It takes tasks and their results come back, whether or not it asks others at its start (mingle)."""
    worker = start(*options)
    asked = procs.python(
        "-c", "import web; print('sum', web.add.delay(2, 3).get(timeout=20))", cwd=tmp_path, name="web"
    )
    asked.wait(40)
    assert "sum 5" in asked.output()
    assert "ERROR" not in worker.output()
