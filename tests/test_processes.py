"""The tests' own process helper."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.processes import Procs, wait_until

pytestmark = [pytest.mark.integration]


def test_readiness_line_is_waited_for(procs: Procs) -> None:
    """`start` returns once the line stands in the output, and TERM ends the process."""
    proc = procs.python("-c", "print('up'); import signal; signal.pause()", ready="up")
    assert proc.alive()
    assert proc.stop() == -signal.SIGTERM


def test_early_end_is_told_with_the_output(procs: Procs) -> None:
    """A process that ends before it is ready fails the test at once, with its last words."""
    with pytest.raises(AssertionError, match=r"ended with 3 before(.|\n)*my last words"):
        procs.python("-c", "print('my last words'); raise SystemExit(3)", ready="never")


def test_orphan_in_a_session_of_its_own_is_found_and_ended(tmp_path: Path) -> None:
    """A grandchild that left the session is named as left over, and killed."""
    procs = Procs(tmp_path)
    sleeper = "import signal; signal.pause()"
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {sleeper!r}], start_new_session=True)
print("child", child.pid, flush=True)
"""
    proc = procs.python("-c", parent, ready="child")
    pid = int(proc.output().split()[1])
    proc.wait()
    assert [process.pid for process in procs.leftovers()] == [pid]
    with pytest.raises(AssertionError, match=rf"left over: {pid} {sys.executable}"):
        procs.assert_none_left(timeout_s=0.1)
    with pytest.raises(AssertionError, match="left over"):
        procs.close()
    wait_until(lambda: not procs.leftovers(), what="the orphan's end")
