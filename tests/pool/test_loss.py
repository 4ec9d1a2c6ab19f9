"""Children and zygotes that are lost: DESIGN.md section 7, rules 3, 6 and 8."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from emq_compat.pool.base import Begun, Finished, Lost, PoolBroken
from tests.pool.conftest import Prefork
from tests.pool.drive import Driver, assignment, replies
from tests.processes import wait_until

pytestmark = pytest.mark.integration


def kill(pid: int) -> None:
    """SIGKILL to this process alone."""
    os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether there's no such process any more (a zombie is none)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def settled(driver: Driver) -> list[psutil.Process]:
    """Step the pool until it has a living zygote and a living spare; return them."""
    nursery = driver.pool._brood._nursery  # type: ignore[attr-defined]

    def both() -> list[psutil.Process]:
        found = [process for process in (nursery._active, nursery._spare) if process is not None]
        alive = [psutil.Process(process.pid) for process in found if not gone(process.pid)]
        return alive if len(alive) == 2 else []

    driver.until(both)
    return both()


def test_a_killed_child_is_seen_and_replaced_at_once(prefork: Prefork) -> None:
    """Lost, died, names the signal; a new child is idle long before anything times out."""
    driver = prefork(2)
    driver.submit(assignment("sleep 30", "a"))
    pid = driver.told("a", "STARTED") and driver.begun("a").pid
    began = time.monotonic()
    kill(pid)
    lost = driver.lost("a", timeout_s=2)
    assert time.monotonic() - began < 1
    assert ("died", "killed by SIGKILL", pid) == (lost.reason, lost.detail, lost.pid)
    driver.idle(2)
    assert time.monotonic() - began < 2
    assert pid not in driver.pool.pids()
    driver.submit(assignment("pid", "b"))
    assert pid != int(replies(driver.finished("b"))[0])


def test_losses_are_seen_within_milliseconds(prefork: Prefork) -> None:
    """The median of several losses, child killed to Lost told, is a matter of milliseconds."""
    driver = prefork(1)
    took = []
    for i in range(9):
        driver.idle(1)
        driver.submit(assignment("sleep 30", f"a{i}"))
        driver.told(f"a{i}", "STARTED")
        began = time.monotonic()
        kill(driver.begun(f"a{i}").pid)
        driver.lost(f"a{i}")
        took.append(time.monotonic() - began)
    assert sorted(took)[len(took) // 2] < 0.1, took


def test_a_killed_idle_child_is_replaced(prefork: Prefork) -> None:
    """Nothing is Lost, and as many are idle as before."""
    driver = prefork(2)
    victim = driver.pool.pids()[0]
    kill(victim)
    driver.until(lambda: victim not in driver.pool.pids())
    driver.idle(2)
    assert [] == driver.events


def test_what_waits_in_a_killed_child_runs_elsewhere_once(prefork: Prefork, tmp_path: Path) -> None:
    """Only what had begun is lost; what waited behind it runs, each once."""
    driver = prefork(1)
    driver.submit(assignment("sleep 30", "a"))
    for i in range(10):
        driver.submit(assignment(f"note {tmp_path}/ran", f"w{i}"), reserve=True)
    driver.told("a", "STARTED")
    kill(driver.begun("a").pid)
    driver.finished(*(f"w{i}" for i in range(10)))
    assert ["a"] == [event.key[0] for event in driver.of(Lost)]
    assert [f"w{i}" for i in range(10)] == (tmp_path / "ran").read_text().split()


def test_children_killed_under_load_lose_only_what_ran(prefork: Prefork, tmp_path: Path) -> None:
    """Each assignment ends exactly once, none runs twice, and a kill loses one at most."""
    driver = prefork(2)
    names = [f"m{i}" for i in range(600)]
    kills = 0
    for i, name in enumerate(names):
        item = assignment(f"note {tmp_path}/ran", name)
        while not driver.pool.submit(item, reserve=True):
            driver.step(0.2)
        if i % 60 == 30:
            with contextlib.suppress(ProcessLookupError):  # killed before, and the pool doesn't know yet
                kill(driver.pool.pids()[0])
                kills += 1
    driver.until(lambda: len(driver.of(Finished)) + len(driver.of(Lost)) >= len(names), 30)
    ended = [event.key[0] for event in (*driver.of(Finished), *driver.of(Lost))]
    assert sorted(names) == sorted(ended)
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran))
    assert len(driver.of(Lost)) <= kills


@pytest.mark.parametrize("status", [0, 3])
def test_a_task_that_exits_its_process_is_lost(prefork: Prefork, status: int) -> None:
    """os._exit in the work is a loss whatever its status, and the detail tells it."""
    driver = prefork(1)
    driver.submit(assignment(f"exit {status}", "a"))
    lost = driver.lost("a")
    assert ("died", f"exited with status {status}") == (lost.reason, lost.detail)
    driver.idle(1)


def test_a_child_that_closes_its_channels_is_replaced(prefork: Prefork) -> None:
    """A task that closes descriptors that aren't its own is Lost at once, not after its end."""
    driver = prefork(1)
    driver.submit(assignment("close_all", "a"))
    assert "died" == driver.lost("a", timeout_s=30).reason
    driver.idle(1)


def test_the_group_of_a_lost_child_goes_with_it(prefork: Prefork) -> None:
    """What a killed child's task has started in its group is killed; another session is left alone."""
    driver = prefork(1)
    driver.submit(assignment("parents 30", "a"))
    in_group, in_session = map(int, driver.told("a", "PIDS").body.split())
    try:
        kill(driver.begun("a").pid)
        driver.lost("a")
        wait_until(lambda: gone(in_group), 5)
        assert not gone(in_session)
    finally:
        kill(in_session)


def test_terminating_takes_the_group_too(prefork: Prefork) -> None:
    """terminate ends what the running work has started."""
    driver = prefork(1)
    key = driver.submit(assignment("parents 30", "a"))
    in_group, in_session = map(int, driver.told("a", "PIDS").body.split())
    try:
        assert driver.pool.terminate(key, signal.SIGTERM)
        assert "terminated" == driver.lost("a").reason
        wait_until(lambda: gone(in_group), 5)
    finally:
        kill(in_session)


def test_terminating_ends_at_once_what_handles_no_signal(prefork: Prefork) -> None:
    """TERM is the end of a plain task; one with a handler of its own hears it, and has a moment's grace."""
    driver = prefork(1)
    key = driver.submit(assignment("sleep 30", "plain"))
    driver.told("plain", "STARTED")
    began = time.monotonic()
    assert driver.pool.terminate(key, signal.SIGTERM)
    assert "terminated" == driver.lost("plain").reason
    assert time.monotonic() - began < 0.45

    driver.idle(1)
    key = driver.submit(assignment("own_term", "own"))
    driver.told("own", "STARTED")
    began = time.monotonic()
    assert driver.pool.terminate(key, signal.SIGTERM)
    driver.told("own", "HANDLED")
    assert "terminated" == driver.lost("own").reason
    assert time.monotonic() - began >= 0.45


def test_terminating_one_leaves_the_bystander_alone(prefork: Prefork) -> None:
    """Beside and behind the terminated one, work goes on; the slot is free again."""
    driver = prefork(2)
    key = driver.submit(assignment("sleep 30", "a"))
    driver.submit(assignment("sleep 0.5", "beside"))
    driver.submit(assignment("echo", "behind"), reserve=True)
    driver.told("a", "STARTED")
    assert driver.pool.terminate(key)
    assert "terminated" == driver.lost("a", timeout_s=2).reason
    driver.finished("beside", "behind")
    assert ["a"] == [event.key[0] for event in driver.of(Lost)]
    driver.idle(2)


def test_running_work_survives_its_zygote(prefork: Prefork) -> None:
    """The spare takes over: what runs finishes, children are had from it, and it has a spare in turn."""
    driver = prefork(1)
    active, spare = settled(driver)
    driver.submit(assignment("sleep 0.5", "a"))
    driver.told("a", "STARTED")
    kill(active.pid)
    driver.finished("a")
    driver.idle(1)
    assert [] == driver.of(Lost)
    now_active, now_spare = settled(driver)
    assert spare.pid == now_active.pid
    kill(now_active.pid)
    driver.submit(assignment("pid", "b"))
    kept = int(replies(driver.finished("b"))[0])
    driver.until(lambda: kept not in driver.pool.pids())
    driver.idle(1)
    assert [now_spare.pid] == [psutil.Process(pid).ppid() for pid in driver.pool.pids()]
    assert [] == [event for event in driver.events if isinstance(event, PoolBroken)]


def test_children_killed_right_after_their_zygote_are_replaced(prefork: Prefork) -> None:
    """A child whose zygote is gone is seen, told and replaced as any other."""
    driver = prefork(2)
    active, _ = settled(driver)
    for name in "ab":
        driver.submit(assignment("sleep 30", name))
        driver.told(name, "STARTED")
    kill(active.pid)
    for name in "ab":
        kill(driver.begun(name).pid)
    for name in "ab":
        lost = driver.lost(name)
        assert ("died", "killed by SIGKILL") == (lost.reason, lost.detail)
    driver.idle(2)


def test_a_lost_spare_is_replaced(prefork: Prefork) -> None:
    """After the spare is killed, the zygote forks another one, which can take over."""
    driver = prefork(1)
    active, spare = settled(driver)
    kill(spare.pid)
    driver.until(lambda: gone(spare.pid))
    assert active.pid == settled(driver)[0].pid
    kill(active.pid)
    driver.until(lambda: driver.pool._brood._nursery.takeovers == 1)  # type: ignore[attr-defined]
    driver.idle(1)
    driver.submit(assignment("echo", "a"))
    driver.finished("a")


def test_without_any_zygote_the_pool_finishes_and_is_broken(prefork: Prefork) -> None:
    """PoolBroken is told once; what runs and what waits behind it finishes."""
    driver = prefork(1)
    driver.submit(assignment("sleep 0.5", "a"))
    driver.submit(assignment("echo", "b"), reserve=True)
    driver.told("a", "STARTED")
    for zygote in settled(driver):
        kill(zygote.pid)
    driver.until(lambda: any(isinstance(event, PoolBroken) for event in driver.events))
    driver.finished("a", "b")
    [broken] = [event for event in driver.events if isinstance(event, PoolBroken)]
    assert "zygote" in broken.detail
    assert [] == driver.of(Lost)


def test_a_zygote_that_does_not_answer_is_replaced(prefork: Prefork) -> None:
    """One that is stopped is killed after the start timeout, and the spare gives the child."""
    driver = prefork(1, start_timeout_s=1.0)
    active, _ = settled(driver)
    os.kill(active.pid, signal.SIGSTOP)
    kill(driver.pool.pids()[0])
    driver.until(lambda: gone(active.pid))
    driver.idle(1)


def test_children_that_die_on_start_up_break_the_pool(prefork: Prefork, tmp_path: Path) -> None:
    """They are tried again after growing pauses, a few times, and then PoolBroken tells how they ended."""

    def child_init() -> None:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        os._exit(7)

    driver = prefork(2, idle=False, child_init=child_init)
    began = time.monotonic()
    driver.until(lambda: any(isinstance(event, PoolBroken) for event in driver.events), 30)
    assert time.monotonic() - began > 1
    [broken] = driver.events
    assert "exited with status 7" in broken.detail  # type: ignore[union-attr]
    driver.until(lambda: not driver.pool.pids())
    file = tmp_path / "tries"
    for _ in range(5):  # one may just have begun
        driver.step(0.1)
    tries = file.read_text()
    assert 5 < len(tries) < 30
    for _ in range(3):
        driver.step(0.1)
    assert tries == file.read_text()


def _dies(times: int, folder: Path) -> Callable[[], None]:
    def child_init() -> None:
        for i in range(times):
            try:
                (folder / str(i)).touch(exist_ok=False)
            except FileExistsError:
                continue
            raise RuntimeError("not yet")

    return child_init


def test_a_few_deaths_on_start_up_do_no_harm(
    prefork: Prefork, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once a child starts, all is well; those that didn't are counted, and their exceptions printed."""
    driver = prefork(1, idle=False, child_init=_dies(3, tmp_path))
    driver.until(lambda: driver.pool.failed_births)
    assert "a child ended before it was ready" in driver.pool.trouble
    driver.idle(1)
    driver.submit(assignment("echo", "a"))
    driver.finished("a")
    assert 3 == capfd.readouterr().err.count("RuntimeError: not yet")
    assert (1, 3, "") == (driver.pool.births, driver.pool.failed_births, driver.pool.trouble)


def test_a_child_that_does_not_get_ready_is_replaced(prefork: Prefork, tmp_path: Path) -> None:
    """One that hangs in child_init is killed after the start timeout."""

    def child_init() -> None:
        try:
            (tmp_path / "hung").touch(exist_ok=False)
        except FileExistsError:
            return
        time.sleep(60)

    driver = prefork(1, start_timeout_s=0.5, child_init=child_init)
    driver.submit(assignment("echo", "a"))
    driver.finished("a")


def test_stacks_of_a_child_that_cannot_answer_cost_a_second_at_most(prefork: Prefork) -> None:
    """The others are dumped, the stopped one is named, and so is what each runs."""
    driver = prefork(2)
    driver.submit(assignment("sleep 30", "a"))
    driver.submit(assignment("spin", "b"))
    driver.told("a", "STARTED")
    driver.told("b", "STARTED")
    os.kill(driver.begun("a").pid, signal.SIGSTOP)
    began = time.monotonic()
    text = driver.pool.dump_stacks()
    assert time.monotonic() - began < 1
    assert "_spin" in text  # written by the signal's handler in C: also while one call holds the GIL
    assert f"pid {driver.begun('a').pid}, running a for" in text
    assert 1 == text.count("(no answer)")


def test_begun_is_told_again_when_its_child_never_took_it(prefork: Prefork) -> None:
    """Sent to a child that is dead already, an assignment begins in another one and isn't lost."""
    driver = prefork(1)
    pid = driver.pool.pids()[0]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    driver.submit(assignment("pid", "a"))
    driver.step(0)
    kill(pid)
    [finished] = driver.finished("a")
    assert pid != finished.pid
    assert [pid, finished.pid] == [event.pid for event in driver.of(Begun)]
    assert [] == driver.of(Lost)
