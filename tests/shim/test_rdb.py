"""CELERY_RDBSIG: a running task is stopped by a signal, and looked into over a socket."""

from __future__ import annotations

import os
import re
import signal
import socket
from typing import Any

import pytest

from tests.processes import wait_until

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_signal_opens_the_debugger(site: Any, pool: str) -> None:
    """SIGUSR2 at the process of a task stops it there; the worker's own process goes on, and says who can."""
    site.start_broker("--memory")
    port = str(site.ports["admin"] + 1)
    env = {"CELERY_RDBSIG": "1", "CELERY_RDB_PORT": port}
    worker = site.start_worker("-c", "1", "-P", pool, env=env)
    result = site.tasks.sleep.delay(1, "looked at")
    site.wait_runs("start looked at")
    pid = int(next(line for line in site.runs() if line.startswith("start")).split()[-1])
    if pid != worker.pid:
        os.kill(worker.pid, signal.SIGUSR2)
        wait_until(lambda: "send it to one of them" in worker.output(), 10)
    os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: "telnet" in worker.output(), 10)
    said = re.search(r"telnet (\S+) (\d+)", worker.output())
    assert said is not None
    with socket.create_connection((said[1], int(said[2])), 10) as there:
        talk = there.makefile("rw")
        talk.write("p mark\nc\n")
        talk.flush()
        heard = talk.read()
    assert "'looked at'" in heard
    assert "looked at" == result.get(timeout=10)
