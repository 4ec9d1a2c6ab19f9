"""The threads pool under a debugger, or coverage."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.integration]

CODE = """
import sys, threading


def trace(frame, event, arg):
    return trace


threading.settrace(trace)
sys.settrace(trace)
from emq_compat.celery_shim import Celery
from emq_compat.testing.worker import start_worker

app = Celery("traced", broker="memory://", backend="cache+memory://")


@app.task
def add(x, y):
    return x + y


with start_worker(app, perform_ping_check=False):
    for number in range(3):
        assert add.delay(number, 1).get(timeout=20) == number + 1
print("done")
"""


def test_tasks_run_where_all_threads_are_traced() -> None:
    """A worker in threads goes on from task to task while each line of them is traced."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert "done\n" == done.stdout
