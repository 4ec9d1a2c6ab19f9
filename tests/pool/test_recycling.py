"""Children that are replaced in order, and what each one is given at its start and asked at its end."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from emq_compat import memory
from emq_compat.message import Delivery, Reply
from emq_compat.pool.base import Finished, Lost, Report
from emq_compat.pool.zygote import become_subreaper
from tests.pool.conftest import Prefork
from tests.pool.drive import assignment, replies, success
from tests.processes import wait_until

pytestmark = pytest.mark.integration


def test_a_child_runs_no_more_than_it_may(prefork: Prefork) -> None:
    """With max_tasks_per_child each process but the last ones runs exactly that many; nothing is lost."""
    driver = prefork(2, max_tasks_per_child=3)
    for i in range(60):
        item = assignment("pid", f"m{i}")
        driver.until(lambda item=item: driver.pool.submit(item, reserve=True))
    finished = driver.finished(*(f"m{i}" for i in range(60)))
    counts = sorted(Counter(replies(finished)).values())
    assert [3] * len(counts[2:]) == counts[2:]
    assert [] == driver.of(Lost)
    driver.until(lambda: len(driver.pool.pids()) == 2)


def test_recycling_leaves_no_gap(prefork: Prefork) -> None:
    """The replacement is ready before the old child has done its last: with the result comes an idle slot."""
    driver = prefork(1, max_tasks_per_child=1)
    for i in range(3):
        driver.submit(assignment("until_told", f"m{i}"))
        pid = driver.begun(f"m{i}").pid
        # The work ends when somebody has said so: not before the replacement is there.
        driver.until(lambda pid=pid: _ready_besides(driver.pool, pid))
        Path(driver.told(f"m{i}", "STARTED").body.decode()).touch()
        driver.finished(f"m{i}")
        assert 1 == driver.pool.idle()


def _ready_besides(pool: object, pid: int) -> bool:
    kids = pool._brood.kids.values()  # type: ignore[attr-defined]
    return any(kid.ready and not kid.leaving and kid.pid != pid for kid in kids)


def _grown_kb() -> int:
    """What a child has only after it has grown: it begins with what this process has by now."""
    return int(psutil.Process().memory_info().rss) // 1024 + 100_000


def test_a_child_that_has_grown_is_replaced(prefork: Prefork) -> None:
    """After the assignment during which it passed max_memory_per_child_kb, and not before."""
    driver = prefork(1, max_memory_per_child_kb=_grown_kb())
    pids = []
    for i, payload in enumerate(["grow 1000", "grow 200000000", "pid", "pid"]):
        driver.until(lambda i=i, p=payload: driver.pool.submit(assignment(p, f"m{i}"), reserve=True))
        pids.append(replies(driver.finished(f"m{i}"))[0])
    assert pids[0] == pids[1]
    assert pids[1] != pids[2]
    assert pids[2] == pids[3]
    assert [] == driver.of(Lost)


def _rss(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@pytest.mark.skipif(memory._trim is None, reason="the C library gives free memory back as it likes")
def test_what_large_messages_left_free_is_given_back(prefork: Prefork) -> None:
    """A child holds it for the next large ones, also while small ones come, and until it has been quiet."""
    memory.trim()  # what this process has free a child would fill first
    driver = prefork(1)
    [pid] = driver.pool.pids()
    before = _rss(pid)
    for i, payload in enumerate([*[f"echo {'x' * (6 << 20)}"] * 4, "pid"]):
        driver.submit(assignment(payload, f"m{i}"))
        driver.finished(f"m{i}")
        driver.idle(1)
    assert _rss(pid) > before + (12 << 20)
    wait_until(lambda: _rss(pid) < before + (6 << 20))


def test_what_waits_in_a_child_that_has_grown_runs_in_the_next(prefork: Prefork) -> None:
    """The reserve goes to the replacement, in order."""
    driver = prefork(1, max_memory_per_child_kb=_grown_kb())
    driver.submit(assignment("grow 200000000", "a"))
    for name in "bcd":
        driver.submit(assignment("pid", name), reserve=True)
    first, *others = (int(body) for body in replies(driver.finished("a", "b", "c", "d")))
    assert first not in others
    assert list("abcd") == [event.key[0] for event in driver.of(Finished)]


def test_each_child_is_begun_and_ended(prefork: Prefork, tmp_path: Path) -> None:
    """child_init runs in each child before its first assignment, child_exit at its orderly end."""

    def note(what: str) -> None:
        with (tmp_path / what).open("a") as file:
            file.write(f"{os.getpid()}\n")

    driver = prefork(
        2, max_tasks_per_child=2, child_init=lambda: note("init"), child_exit=lambda: note("exit")
    )
    pids: set[str] = set()
    for i in range(8):
        driver.until(lambda i=i: driver.pool.submit(assignment("pid", f"m{i}"), reserve=True))
        pids.add(replies(driver.finished(f"m{i}"))[0].decode())
    driver.idle(2)
    driver.pool.close()
    driver.until(lambda: not driver.pool.pids())
    begun, ended = ((tmp_path / what).read_text().split() for what in ("init", "exit"))
    assert pids <= set(begun)
    assert sorted(begun) == sorted(ended)


def test_what_a_child_prints_and_registers_comes_out(
    prefork: Prefork, capfd: pytest.CaptureFixture[str]
) -> None:
    """A child that leaves flushes its output, and multiprocessing's finalisers of its own have run."""

    def chatter(delivery: Delivery, report: Report) -> Reply:
        import multiprocessing.util

        multiprocessing.util.Finalize(None, print, ("finalised",), exitpriority=1)
        print("unflushed, no newline", end="")
        return success(b"")

    driver = prefork(1, work=chatter)
    driver.submit(assignment("", "a"))
    driver.finished("a")
    driver.pool.close()
    driver.until(lambda: not driver.pool.pids())
    written = capfd.readouterr().out
    assert "unflushed, no newline" in written
    assert "finalised" in written


def test_a_clean_end_kills_nobody(prefork: Prefork) -> None:
    """What a task has left running in its process group outlives the recycling of its child."""
    driver = prefork(1, max_tasks_per_child=1)
    driver.submit(assignment("parents", "a"))
    left = [int(pid) for pid in replies(driver.finished("a"))[0].split()]
    child = driver.begun("a").pid
    try:
        driver.until(lambda: child not in driver.pool.pids())
        driver.idle(1)
        driver.submit(assignment("echo", "b"))
        driver.finished("b")
        assert all(psutil.Process(pid).is_running() for pid in left)
    finally:
        for pid in left:
            os.kill(pid, 9)


def test_children_differ_in_what_must_differ(prefork: Prefork) -> None:
    """Each has random numbers, a name and a process group of its own, and goes first when memory runs out."""
    random.seed(1)
    driver = prefork(3)
    for i in range(3):
        driver.submit(assignment("random", f"m{i}"))
    assert 3 == len(set(replies(driver.finished("m0", "m1", "m2"))))
    own = int(Path("/proc/self/oom_score_adj").read_text())
    for pid in driver.pool.pids():
        assert psutil.Process(pid).name().startswith("emq-child-")
        assert pid == os.getpgid(pid)
        assert min(1000, own + 200) == int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        assert os.devnull == os.readlink(f"/proc/{pid}/fd/0")
    names = {psutil.Process(pid).name() for pid in driver.pool.pids()}
    assert 3 == len(names)


def test_a_child_holds_no_descriptor_of_others(prefork: Prefork) -> None:
    """A child has its channels and what the program had: as many sockets as the first one, however late."""
    driver = prefork(3)

    def sockets(pid: int) -> int:
        folder = Path(f"/proc/{pid}/fd")
        return sum(os.readlink(entry).startswith("socket:") for entry in folder.iterdir())

    assert 1 == len({sockets(pid) for pid in driver.pool.pids()})
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        victim = driver.pool.pids()[0]
        os.kill(victim, 9)
        driver.until(lambda victim=victim: victim not in driver.pool.pids())
        driver.idle(3)
    assert 1 == len({sockets(pid) for pid in driver.pool.pids()})
    assert before == len(os.listdir("/proc/self/fd"))


def test_stopping_gives_every_descriptor_back(prefork: Prefork) -> None:
    """A pool that was stopped has left nothing open in its parent."""
    prefork(1).pool.stop(5)
    before = len(os.listdir("/proc/self/fd"))
    driver = prefork(2)
    driver.submit(assignment("sleep 30", "a"))
    driver.told("a", "STARTED")
    driver.pool.stop(5)
    assert before == len(os.listdir("/proc/self/fd"))


def test_after_the_pool_orphans_fall_to_others_again(prefork: Prefork) -> None:
    """A process that has run a pool and goes on is a subreaper no longer than the pool."""
    assert become_subreaper(False) is False
    driver = prefork(1)
    assert become_subreaper() is True
    driver.pool.stop(5)
    assert become_subreaper(False) is False


def test_many_children_start_at_once(prefork: Prefork) -> None:
    """More than the zygote's socket holds orders for."""
    began = time.monotonic()
    driver = prefork(1, idle=False)
    driver.pool.grow(299)
    driver.until(lambda: driver.pool.idle() == 300, 60)
    for i in range(300):
        driver.submit(assignment("echo", f"m{i}"))
    driver.finished(*(f"m{i}" for i in range(300)))
    driver.pool.shrink(299)
    driver.until(lambda: len(driver.pool.pids()) == 1, 30)
    assert time.monotonic() - began < 60


def test_a_child_leaves_though_its_task_forked_the_channel(prefork: Prefork) -> None:
    """A process that a task forked and left holds none of the channels: the child can be seen to end."""

    def fork_and_leave(delivery: Delivery, report: Report) -> Reply:
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        return success(str(pid).encode())

    driver = prefork(1, work=fork_and_leave, max_tasks_per_child=1)
    driver.submit(assignment("", "a"))
    left = int(replies(driver.finished("a"))[0])
    child = driver.begun("a").pid
    try:
        driver.until(lambda: child not in driver.pool.pids(), 5)
        wait_until(lambda: not psutil.pid_exists(child))
    finally:
        os.kill(left, 9)
    wait_until(lambda: not psutil.pid_exists(left), what="the zygote reaps what fell to it")
