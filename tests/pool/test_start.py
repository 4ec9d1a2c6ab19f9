"""How children come to be: forked by the zygote where that's safe, else spawned; with what left out."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.message import Delivery, Reply
from emq_compat.pool.base import PoolBroken, PoolOptions, Report
from emq_compat.pool.prefork import PreforkPool
from tests.pool.conftest import Prefork
from tests.pool.drive import assignment, replies, success
from tests.pool.work import work
from tests.processes import Procs, wait_until

pytestmark = pytest.mark.integration

REBUILD = ("tests.pool.work:Rebuilt", ("one", "two"))


@pytest.fixture
def thread() -> Iterator[threading.Thread]:
    """A thread beside this one."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="somebody-else")
    thread.start()
    yield thread
    done.set()
    thread.join()


def test_a_spawned_child_rebuilds_its_work_by_importing(prefork: Prefork) -> None:
    """The callable gets its string arguments, and nothing of this process: not even what can't be pickled."""

    def work_of_this_process(delivery: Delivery, report: Report) -> Reply:
        raise AssertionError("not here")

    driver = prefork(1, work=work_of_this_process, start_method="spawn", rebuild=REBUILD)
    driver.submit(assignment("args", "a"))
    driver.submit(assignment("sleep 30", "b", soft_limit_s=0.2), reserve=True)
    assert replies(driver.finished("a")) == [b"one two"]
    # The soft limit's exception is found by its name, too.
    assert ("time-limit", "SoftLimit()") == (driver.lost("b").reason, driver.lost("b").detail)


def test_spawned_children_are_lost_limited_and_recycled_as_forked_ones(
    prefork: Prefork, tmp_path: Path
) -> None:
    """Kill, hard limit, terminate and max_tasks_per_child work alike; what waits runs once."""
    driver = prefork(2, start_method="spawn", rebuild=REBUILD, max_tasks_per_child=4)
    key = driver.submit(assignment("sleep 30", "terminated"))
    driver.submit(assignment("sleep 30", "limited", limit_s=0.3))
    assert "time-limit" == driver.lost("limited").reason
    assert driver.pool.terminate(key, signal.SIGTERM)
    assert "terminated" == driver.lost("terminated").reason
    driver.idle(1)
    driver.submit(assignment("sleep 30", "killed"))
    driver.told("killed", "STARTED")
    names = [f"w{i}" for i in range(12)]
    for name in names:
        item = assignment(f"note {tmp_path}/ran", name)
        driver.until(lambda item=item: driver.pool.submit(item, reserve=True))
    os.kill(driver.begun("killed").pid, signal.SIGKILL)
    lost = driver.lost("killed")
    assert ("died", "killed by SIGKILL") == (lost.reason, lost.detail)
    driver.finished(*names)
    assert sorted(names) == sorted((tmp_path / "ran").read_text().split())


def test_spawned_children_end_with_a_killed_parent(procs: Procs) -> None:
    """Busy under the GIL or not, they and the processes that their tasks run are gone."""
    options = {"concurrency": 2, "start_method": "spawn", "rebuild": REBUILD}
    parent = procs.python("-m", "tests.pool.parent", json.dumps(options), "spin", "multiprocess_sleep 300")
    parent.wait_line("Updated m0 STARTED")
    parent.wait_line("Updated m1 STARTED")
    below = wait_until(lambda: found if len(found := parent.children()) >= 4 else None)
    parent.kill()
    wait_until(lambda: not any(_lives(process) for process in below), 2)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_cannot_be_rebuilt_breaks_the_pool(
    prefork: Prefork, capfd: pytest.CaptureFixture[str]
) -> None:
    """A spawned child that fails to import says what, and the pool doesn't try for ever."""
    driver = prefork(1, idle=False, start_method="spawn", rebuild=("tests.pool.nothing:There", ()))
    driver.until(lambda: any(isinstance(event, PoolBroken) for event in driver.events), 60)
    assert "No module named 'tests.pool.nothing'" in capfd.readouterr().err


def test_with_threads_children_are_spawned_with_a_warning(
    thread: threading.Thread, prefork: Prefork, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names the thread, and what is different now."""
    driver = prefork(1, start_method=None, rebuild=REBUILD)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "somebody-else" in record.getMessage()
    assert "spawned" in record.getMessage()
    driver.submit(assignment("args", "a"))
    driver.finished("a")


def test_with_threads_and_nothing_to_rebuild_the_start_is_refused(thread: threading.Thread) -> None:
    """The error tells why, and what to do."""
    pool = PreforkPool(PoolOptions(), work)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigurationError, match=r"somebody-else.*-A"):
        pool.start()
    assert before == len(os.listdir("/proc/self/fd"))


@pytest.mark.filterwarnings("error")
def test_python_does_not_warn_of_the_forks(
    thread: threading.Thread, prefork: Prefork, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the zygote is asked for beside threads, only the pool itself warns, in whatever process."""
    driver = prefork(1, start_method="zygote")
    driver.submit(assignment("multiprocess", "a"))
    os.kill(driver.pool._brood._nursery._active.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    driver.finished("a")
    driver.idle(1)
    assert "" == capfd.readouterr().err


@pytest.mark.parametrize(("before", "named"), [("zmq", "ZeroMQ context"), ("thread", "threads are running")])
def test_what_makes_a_fork_unsafe_is_noticed(procs: Procs, before: str, named: str) -> None:
    """A ZeroMQ context or a thread before the start: spawned, said so, and the work is done."""
    options = {"concurrency": 1, "rebuild": REBUILD, "before": [before]}
    program = procs.python("-m", "tests.pool.parent", json.dumps(options), "lock")
    program.wait_line("Finished m0 got it")
    assert named in program.output()
    assert 0 == program.stop()


def test_without_threads_children_are_forked_and_nothing_is_said(procs: Procs) -> None:
    """The common case is quiet: two zygotes and a child."""
    program = procs.python("-m", "tests.pool.parent", json.dumps({"concurrency": 1}), "echo hi")
    program.wait_line("Finished m0 hi")
    names = wait_until(lambda: found if len(found := program.children()) == 3 else None)
    assert ["emq-child-1", "emq-zygote", "emq-zygote"] == sorted(process.name() for process in names)
    assert 0 == program.stop()
    assert "Begun" == program.output().split()[0]


def _locks(procs: Procs, count: int) -> None:
    options = {"concurrency": 2, "max_tasks_per_child": 1, "rebuild": REBUILD, "before": ["thread"]}
    program = procs.python("-m", "tests.pool.parent", json.dumps(options), *["lock"] * count)
    program.wait_line("got it", 300, count=count)
    assert "Lost" not in program.output()
    assert 0 == program.stop()


@pytest.mark.cases
def test_a_lock_that_a_parent_thread_holds_blocks_no_child(procs: Procs) -> None:
    """A thread takes and frees a lock all the time, each child runs one task that takes it: all are done."""
    _locks(procs, 8)


@pytest.mark.cases
@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_lock_that_a_parent_thread_holds_blocks_no_child_long(procs: Procs) -> None:
    """The same with 200 children."""
    _locks(procs, 200)


def test_children_start_fast_and_share_memory(prefork: Prefork) -> None:
    """A forked child is there in a few ms, and a collection in it copies nothing of the parent's heap."""
    ballast = [{"n": i, "list": [i]} for i in range(200_000)]

    def collect(delivery: Delivery, report: Report) -> Reply:
        gc.collect()
        private = psutil.Process().memory_full_info().uss
        return success(str(private).encode())

    driver = prefork(1, work=collect)
    driver.submit(assignment("", "a"))
    [finished] = driver.finished("a")
    assert len(ballast) == 200_000
    assert int(finished.reply.body) < 25_000_000, "the heap was copied"
    took = []
    for _ in range(5):
        began = time.monotonic()
        driver.pool.grow(1)
        driver.idle(driver.pool.concurrency)
        took.append(time.monotonic() - began)
    assert min(took) < 0.1


def test_garbage_is_collected_in_children(prefork: Prefork) -> None:
    """The zygote's collector is off; a child's is on."""

    def enabled(delivery: Delivery, report: Report) -> Reply:
        return success(str(gc.isenabled()).encode())

    driver = prefork(1, work=enabled)
    driver.submit(assignment("", "a"))
    assert replies(driver.finished("a")) == [b"True"]


def test_a_fork_of_the_parent_does_not_keep_children_alive(prefork: Prefork) -> None:
    """The writer of the death pipe exists in the parent alone: another fork of it gives its ends up."""
    driver = prefork(1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        ends = [os.readlink(entry) for entry in _links()]
        pool: Any = driver.pool
        pipe = os.readlink(f"/proc/{os.getppid()}/fd/{pool._brood._death_write}")
        os.write(write, str(ends.count(pipe)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    # The read end is still there, and it's the same pipe.
    assert b"1" == os.read(read, 10)
    os.close(read)
    os.close(write)
    driver.submit(assignment("echo", "a"))
    driver.finished("a")


def _links() -> list[Path]:
    return [entry for entry in Path("/proc/self/fd").iterdir() if entry.exists() or entry.is_symlink()]
