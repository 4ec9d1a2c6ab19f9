"""What becomes of children, and of what they started, when their parent ends or its group is signalled."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import psutil
import pytest

from tests.processes import Proc, Procs, wait_until

pytestmark = pytest.mark.integration

#: Generous for a loaded machine; the kernel's part takes 5 ms.
GONE_S = 2.0


def start(procs: Procs, *payloads: str, **options: Any) -> Proc:
    """Start the program with these assignments."""
    return procs.python("-m", "tests.pool.parent", json.dumps(options), *payloads)


def processes_below(parent: Proc) -> list[psutil.Process]:
    """All of its descendants, named now: once the parent is gone they can't be found by it."""
    return parent.children()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still live."""
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def assert_gone(processes: list[psutil.Process]) -> None:
    """They are gone within GONE_S."""
    wait_until(lambda: not alive(processes), GONE_S, what=f"the end of {processes}")


def test_nothing_outlives_a_killed_parent(procs: Procs) -> None:
    """Children busy in Python or in C under the GIL, idle ones, zygotes and what tasks started are gone."""
    parent = start(procs, "parents 300", "spin", "sleep 300", concurrency=4)
    parent.wait_line("Updated m0 PIDS")
    parent.wait_line("Updated m1 STARTED")
    parent.wait_line("Updated m2 STARTED")
    below = wait_until(lambda: found if len(found := processes_below(parent)) >= 8 else None)
    parent.kill()
    assert_gone(below)


def test_nothing_outlives_a_parent_killed_during_multiprocessing(procs: Procs) -> None:
    """The processes of a multiprocessing.Pool that a task is in the middle of are gone, too."""
    parent = start(procs, "multiprocess_sleep 300", concurrency=1)
    parent.wait_line("Updated m0 STARTED")
    below = wait_until(lambda: found if len(found := processes_below(parent)) >= 5 else None)
    parent.kill()
    assert_gone(below)


def test_nothing_outlives_a_parent_killed_after_its_zygote(procs: Procs) -> None:
    """Also while the spare has just taken over, or both zygotes are gone, children end with the parent."""
    for kills in (1, 2):
        parent = start(procs, "sleep 300", "spin", concurrency=2)
        parent.wait_line("Updated m0 STARTED")
        parent.wait_line("Updated m1 STARTED")
        below = wait_until(lambda p=parent: found if len(found := processes_below(p)) == 4 else None)
        zygotes = [process for process in below if process.name() == "emq-zygote"]
        for zygote in zygotes[:kills]:
            zygote.kill()
        wait_until(lambda dead=zygotes[:kills]: not alive(dead), GONE_S)
        below += processes_below(parent)
        parent.kill()
        assert_gone(below)


def test_an_orderly_end_leaves_no_process_of_the_pool(procs: Procs) -> None:
    """stop kills what runs, sees the others out and ends both zygotes."""
    parent = start(procs, "sleep 300", concurrency=2)
    parent.wait_line("Updated m0 STARTED")
    below = processes_below(parent)
    assert 0 == parent.stop()
    assert "Lost m0 stopped" in parent.output()
    assert_gone(below)


@pytest.mark.skipif(sys.platform != "linux", reason="children are forked")
def test_all_share_what_was_there_before_the_fork(procs: Procs) -> None:
    """30 MB of objects are there once: neither the parent's collections nor the children's copy them."""
    parent = start(procs, "collect", concurrency=2, before=["heap"])
    parent.wait_line("collected")
    parent.wait_line("Finished m0")
    everybody = [psutil.Process(parent.pid), *processes_below(parent)]
    assert 5 == len(everybody)
    assert [] == [process for process in everybody if process.memory_full_info().uss > 20 * 2**20]
    assert 0 == parent.stop()


def test_signals_to_everybody_leave_the_work_alone(procs: Procs) -> None:
    """A service manager signals each process: neither children nor zygotes end, and no call is cut short."""
    parent = start(procs, "sleep 1", concurrency=1)
    parent.wait_line("Updated m0 STARTED")
    below = wait_until(lambda: found if len(found := processes_below(parent)) == 3 else None)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        for process in below:
            process.send_signal(signum)
    parent.wait_line("Finished m0 slept")
    assert 3 == len(processes_below(parent))
    assert 0 == parent.stop()


def test_children_are_in_no_group_of_the_parent(procs: Procs) -> None:
    """Ctrl-C in a terminal reaches the parent alone; a child, in its own group, goes on until it's told."""
    parent = start(procs, "sleep 300", concurrency=1)
    parent.wait_line("Updated m0 STARTED")
    pid = int(parent.output().split("Begun m0 ")[1].split()[0])
    assert pid == os.getpgid(pid)
    parent.send_signal_to_group(signal.SIGINT)
    assert 0 == parent.wait()
    assert "Lost m0 stopped" in parent.output()


def test_what_a_task_starts_has_default_signals(procs: Procs) -> None:
    """A task's subprocess and its own fork end by TERM; an executed program ignores and blocks nothing."""
    parent = start(procs, "terminate_own", "terminate_subprocess", "ignored", concurrency=1)
    parent.wait_line(f"Finished m0 {-signal.SIGTERM}")
    parent.wait_line(f"Finished m1 {-signal.SIGTERM}")
    # Python itself ignores PIPE and XFSZ.
    parent.wait_line("Finished m2 [] []")
    assert 0 == parent.stop()


def test_multiprocessing_works_in_a_task(procs: Procs) -> None:
    """Pool, ProcessPoolExecutor and subprocess give their results, and leave nothing behind."""
    parent = start(procs, "multiprocess", "multiprocess", concurrency=1)
    for i in range(2):
        parent.wait_line(f"Finished m{i} [1, 4, 9] [16, 25] [b'36']")
    wait_until(lambda: len(processes_below(parent)) == 3, 5)
    assert 0 == parent.stop()
    assert "Warning" not in parent.output()
