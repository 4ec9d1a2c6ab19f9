"""The worker's signal handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import os, signal, sys
from emq_compat.manager.signals import Signals

signals = Signals()
signals.install((signal.SIGTERM,))
child = os.fork()
if child == 0:
    signal.alarm(20)
    while True:
        signal.pause()
os.kill(child, signal.SIGTERM)
assert signal.SIGTERM == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1
os.kill(os.getpid(), signal.SIGTERM)
assert [signal.SIGTERM] == signals.take()
signals.close()
"""


@pytest.mark.integration
def test_what_a_task_forks_has_not_the_workers_handlers() -> None:
    """A process forked from a worker with handlers is ended by TERM; the worker itself only notes it."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60)
    assert (0, "") == (done.returncode, done.stderr)
