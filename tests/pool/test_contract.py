"""The contract of base.py, over every pool."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from emq_compat.errors import ConfigurationError
from emq_compat.message import Headers, Publish
from emq_compat.pool.base import SOFTENS, Begun, Finished, Lost, PoolOptions
from emq_compat.pool.factory import make_pool
from tests.pool.conftest import Run
from tests.pool.drive import Driver, assignment, replies
from tests.pool.work import work

pytestmark = pytest.mark.integration


def test_a_submitted_assignment_begins_and_finishes(run: Run) -> None:
    """Begun and Finished come once each, in that order, with the delivery's key and the work's reply."""

    def body(driver: Driver) -> None:
        key = driver.submit(assignment("who", "a"))
        assert driver.pool.idle() == 0
        [finished] = driver.finished("a")
        assert b"a q a 1" == finished.reply.body
        assert key == finished.key
        assert [Begun, Finished] == [type(event) for event in driver.events]
        assert 0 <= finished.runtime_s < 5
        assert finished.pid in driver.pool.pids()
        assert {} == driver.pool.running()
        assert 1 == driver.pool.idle()

    run(body)


def test_the_reply_comes_with_its_follow_ups_and_flags(run: Run) -> None:
    """State, no_result and follow-ups arrive as the work returned them."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("follow", "a"))
        [finished] = driver.finished("a")
        reply = finished.reply
        assert ("RETRY", True) == (reply.state, reply.no_result)
        expected = Publish(msgid="f2", queue="next", headers=Headers(task_id="t2", priority=2), payload=b"pp")
        assert expected == reply.follow_ups[2]
        assert 3 == len(reply.follow_ups)

    run(body)


def test_reports_arrive_while_the_work_runs(run: Run) -> None:
    """Updated tells a state before the assignment ends."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("sleep 0.1", "a"))
        told = driver.told("a", "STARTED")
        assert b"{}" == told.body
        assert [] == driver.of(Finished)
        driver.finished("a")

    run(body)


def test_no_slot_takes_more_than_it_may(run: Run) -> None:
    """Without reserve, a busy pool refuses."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("sleep 0.2", "a"))
        assert not driver.pool.submit(assignment("echo", "b"))
        driver.finished("a")
        driver.submit(assignment("echo", "b"))
        driver.finished("b")

    run(body)


def test_a_reserve_waits_behind_the_running_one(reserving: Run) -> None:
    """With reserve, up to reserve_per_child wait in a slot and run in order."""

    def body(driver: Driver) -> None:
        for name in "abc":
            driver.submit(assignment(f"echo {name}", name), reserve=True)
        assert replies(driver.finished("a", "b", "c")) == [b"a", b"b", b"c"]
        driver.submit(assignment("sleep 0.3", "d"))
        driver.submit(assignment("echo", "e"), reserve=True)
        driver.submit(assignment("echo", "f"), reserve=True)
        assert not driver.pool.submit(assignment("echo", "g"), reserve=True)
        driver.finished("d", "e", "f")

    reserving(body, reserve_per_child=2)


def test_begun_tells_when_a_waiting_one_starts(reserving: Run) -> None:
    """One that waits is not running: Begun comes when the one before it has finished."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("sleep 0.2", "a"))
        driver.submit(assignment("sleep 0.2", "b"), reserve=True)
        driver.begun("a")
        assert [("a", 1)] == list(driver.pool.running())
        driver.begun("b")
        assert driver.of(Finished, "a")
        driver.finished("b")

    reserving(body)


def test_what_waits_is_taken_back_exactly(reserving: Run) -> None:
    """take_back returns each one that waits, never what runs, and none of them runs afterwards."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("sleep 0.3", "a"))
        waiting = [assignment("echo", f"w{i}") for i in range(5)]
        for item in waiting:
            driver.submit(item, reserve=True)
        driver.told("a", "STARTED")
        assert waiting == driver.pool.take_back()
        assert [] == driver.pool.take_back()
        driver.finished("a")
        assert 1 == driver.pool.idle()
        driver.submit(assignment("echo", "z"))
        driver.finished("z")
        assert {"a", "z"} == {event.key[0] for event in driver.of(Finished)}

    reserving(body)


def test_taking_back_under_load_loses_and_doubles_nothing(reserving: Run) -> None:
    """Whatever take_back doesn't return has begun and finishes, also while slots take work at full speed."""

    def body(driver: Driver) -> None:
        given: set[str] = set()
        returned: list[str] = []
        for i in range(600):
            item = assignment("echo", f"m{i}")
            while not driver.pool.submit(item, reserve=True):
                driver.step(1)
            given.add(f"m{i}")
            if i % 7 == 0:
                returned += [back.delivery.msgid for back in driver.pool.take_back()]
        driver.until(lambda: not driver.pool.running())
        done = [event.key[0] for event in driver.of(Finished)]
        assert len(done) == len(set(done))
        assert given == set(done) | set(returned)
        assert set() == set(done) & set(returned)
        assert returned

    reserving(body, concurrency=2)


def test_one_that_overruns_loses_its_reserve(reserving: Run) -> None:
    """overrun returns what waits behind what has run too long, and only that."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("sleep 0.4", "a"))
        driver.submit(assignment("echo", "b"), reserve=True)
        now = time.monotonic()
        assert [] == driver.pool.overrun(0.2, now)
        assert ["b"] == [item.delivery.msgid for item in driver.pool.overrun(0.2, now + 0.3)]
        driver.finished("a")

    reserving(body)


def test_what_waits_for_a_slot_that_does_not_let_go_is_taken_back(reserving: Run) -> None:
    """What waited behind one that is over its hard limit and goes on: overrun returns it, or it runs."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("stubborn 1", "a", limit_s=0.2))
        driver.submit(assignment("echo", "b"), reserve=True)
        driver.lost("a")
        back = driver.pool.overrun(0.05, time.monotonic())
        driver.idle(1)
        assert ["b"] == [item.delivery.msgid for item in back] + [e.key[0] for e in driver.of(Finished)]

    reserving(body)


def test_nothing_waits_behind_one_that_does_not_let_go(run: Run) -> None:
    """Once it is over its hard limit it may go on for hours: what comes then begins at once or is refused."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("stubborn 1", "a", limit_s=0.2))
        driver.lost("a")
        taken = driver.pool.submit(assignment("echo", "b"), reserve=True)
        driver.step(0)
        assert taken == bool(driver.of(Begun, "b"))
        driver.idle(1)

    run(body)


@pytest.mark.parametrize("name", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_an_exception_that_leaves_the_work_is_a_loss(run: Run, name: str) -> None:
    """Lost, died, with the exception in detail; the pool goes on."""

    def body(driver: Driver) -> None:
        driver.submit(assignment(f"raise {name}", "a"))
        lost = driver.lost("a")
        assert "died" == lost.reason
        assert name in lost.detail
        driver.idle(1)
        driver.submit(assignment("echo hi", "b"))
        assert replies(driver.finished("b")) == [b"hi"]

    run(body)


def test_the_soft_limit_is_raised_in_the_work(run: Run) -> None:
    """The work sees soft_limit_exceeded about when its limit is over, and may still answer."""

    def body(driver: Driver) -> None:
        began = time.monotonic()
        driver.submit(assignment("soft 5", "a", soft_limit_s=0.2))
        [finished] = driver.finished("a", timeout_s=3)
        # By the clock: a run's own time is without that in which it waits for a processor.
        assert time.monotonic() - began > 0.15
        assert b"soft limit" == finished.reply.body
        assert finished.runtime_s < 2

    run(body)


def test_a_soft_limit_never_hits_the_next_assignment(run: Run) -> None:
    """Assignments that end at their limit are followed by others, none of which is interrupted."""

    def body(driver: Driver) -> None:
        for i in range(8):
            driver.idle(1)
            driver.submit(assignment("soft 0.1", f"a{i}", soft_limit_s=0.1))
            driver.until(lambda i=i: driver.of(Finished, f"a{i}") or driver.of(Lost, f"a{i}"))
            driver.submit(assignment("sleep 0.03", f"b{i}", soft_limit_s=10))
            assert replies(driver.finished(f"b{i}")) == [b"slept"]
        assert all(lost.reason == "time-limit" for lost in driver.of(Lost))

    run(body)


def test_the_hard_limit_gives_the_slot_up(run: Run) -> None:
    """Lost, time-limit, in time; a result that comes later is dropped and the pool goes on."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("stubborn 0.8", "a", limit_s=0.2))
        lost = driver.lost("a")
        assert "time-limit" == lost.reason
        assert {} == driver.pool.running()
        driver.idle(1)
        driver.submit(assignment("sleep 1", "b"))
        driver.finished("b")
        assert [] == driver.of(Finished, "a")
        assert 1 == len(driver.of(Lost, "a"))

    run(body)


def test_what_waits_behind_a_lost_one_still_runs(reserving: Run) -> None:
    """The reserve of a slot that is given up runs in another one, once."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("stubborn 1", "a", limit_s=0.2))
        for i in range(4):
            driver.submit(assignment(f"echo {i}", f"w{i}"), reserve=True)
        assert replies(driver.finished("w0", "w1", "w2", "w3")) == [b"0", b"1", b"2", b"3"]
        assert "time-limit" == driver.lost("a").reason
        assert 4 == len(driver.of(Finished))

    reserving(body)


def test_a_running_assignment_can_be_terminated(run: Run) -> None:
    """Lost, terminated, soon; an unknown or finished key is refused."""

    def body(driver: Driver) -> None:
        key = driver.submit(assignment("soft 30", "a"))
        driver.told("a", "STARTED")
        assert driver.pool.terminate(key)
        assert "terminated" == driver.lost("a", timeout_s=3).reason
        assert not driver.pool.terminate(key)
        assert not driver.pool.terminate(("nobody", 1))
        driver.idle(1)
        driver.submit(assignment("echo", "b"))
        driver.finished("b")
        assert 1 == len(driver.of(Lost))

    run(body)


def test_a_running_assignment_can_be_softened(run: Run) -> None:
    """With SOFTENS the work sees soft_limit_exceeded, whether it has a limit or not, and may still answer."""

    def body(driver: Driver) -> None:
        key = driver.submit(assignment("soft 30", "a"))
        driver.told("a", "STARTED")
        assert driver.pool.terminate(key, SOFTENS)
        [finished] = driver.finished("a", timeout_s=5)
        assert b"soft limit" == finished.reply.body
        assert not driver.pool.terminate(key, SOFTENS)
        driver.idle(1)
        driver.submit(assignment("sleep 0.2", "b"))
        assert [b"slept"] == replies(driver.finished("b"))
        assert [] == driver.of(Lost)

    run(body)


def test_softening_one_that_just_ended_harms_nobody(reserving: Run) -> None:
    """When the key has ended, though its result isn't read yet, no other assignment is interrupted."""

    def body(driver: Driver) -> None:
        for i in range(10):
            key = driver.submit(assignment("echo", f"a{i}"))
            driver.submit(assignment("sleep 0.05", f"b{i}"), reserve=True)
            driver.pool.terminate(key, SOFTENS)
            driver.finished(f"b{i}")
            driver.idle(1)
        assert [b"slept"] * 10 == replies([f for f in driver.of(Finished) if f.key[0].startswith("b")])

    reserving(body)


def test_terminating_one_that_just_ended_harms_nobody(reserving: Run) -> None:
    """When the key has ended, though its result isn't read yet, the next one in the same slot is not hit."""

    def body(driver: Driver) -> None:
        for i in range(10):
            key = driver.submit(assignment("echo", f"a{i}"))
            driver.submit(assignment("sleep 0.05", f"b{i}"), reserve=True)
            time.sleep(0.01)  # the first one's end is on its way, unread
            driver.pool.terminate(key)
            driver.finished(f"b{i}")
            driver.idle(1)
        assert 20 == len(driver.of(Finished)) + len(driver.of(Lost))

    reserving(body)


def test_slots_hold_no_descriptors(several: Run) -> None:
    """A worker may have a thousand of them: in its process each slot more is a thread more, and no file."""

    def body(driver: Driver) -> None:
        if driver.pool.name == "prefork":
            pytest.skip("a slot is a process, which has its channels")
        before = len(os.listdir("/proc/self/fd"))
        driver.pool.grow(20)
        for i in range(21):
            driver.submit(assignment("sleep 0.05", str(i)))
        driver.finished(*map(str, range(21)))
        assert before == len(os.listdir("/proc/self/fd"))

    several(body)


def test_slots_are_added_and_removed(several: Run) -> None:
    """grow and shrink change how many run at once; a busy slot ends its assignment first."""

    def body(driver: Driver) -> None:
        driver.pool.grow(2)
        assert 3 == driver.pool.concurrency
        driver.idle(3)
        for name in "abc":
            driver.submit(assignment("sleep 0.3", name))
        driver.pool.shrink(2)
        assert 1 == driver.pool.concurrency
        driver.finished("a", "b", "c")
        assert [] == driver.of(Lost)
        driver.until(lambda: driver.pool.idle() == 1)
        driver.submit(assignment("sleep 0.1", "d"))
        assert not driver.pool.submit(assignment("echo", "e"))
        driver.finished("d")

    several(body)


def test_shrinking_keeps_what_waits(several: Run) -> None:
    """What waits in a slot that is removed runs elsewhere."""

    def body(driver: Driver) -> None:
        for name in "ab":
            driver.submit(assignment("sleep 0.2", name))
        for i in range(6):
            driver.submit(assignment("echo", f"w{i}"), reserve=True)
        driver.pool.shrink(1)
        driver.finished("a", "b", *(f"w{i}" for i in range(6)))
        assert 8 == len(driver.of(Finished))

    several(body, concurrency=2)


def test_a_closed_pool_finishes_what_runs_and_takes_nothing(run: Run) -> None:
    """After close, submit refuses, what runs goes on, and stop has nothing left to lose."""

    def body(driver: Driver) -> bool:
        driver.submit(assignment("sleep 0.2", "a"))
        driver.told("a", "STARTED")
        driver.pool.close()
        assert not driver.pool.submit(assignment("echo", "b"))
        driver.until(lambda: not driver.pool.running())
        assert replies(driver.finished("a")) == [b"slept"]
        assert [] == driver.pool.stop(5)
        return True

    run(body, concurrency=1)


def test_stop_ends_what_runs(run: Run) -> None:
    """stop returns at once with Lost, stopped, for what ran; what waited can be had by take_back."""

    def body(driver: Driver) -> bool:
        driver.submit(assignment("soft 3", "a"))
        waits = driver.pool.submit(assignment("echo", "b"), reserve=True)
        driver.told("a", "STARTED")
        started = time.monotonic()
        events = driver.pool.stop(1.5)
        assert time.monotonic() - started < 2
        assert [("a", "stopped")] == [(e.key[0], e.reason) for e in events if isinstance(e, Lost)]
        assert (["b"] if waits else []) == [item.delivery.msgid for item in driver.pool.take_back()]
        assert [] == driver.pool.stop(1)
        return True

    run(body)


def test_each_process_is_begun_and_ended_once(run: Run, tmp_path: Path) -> None:
    """child_init comes before any work, child_exit after all of it, in the process that runs the work."""

    def note(what: str) -> None:
        with (tmp_path / "notes").open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    pids: list[int] = []

    def body(driver: Driver) -> None:
        for name in "ab":
            driver.submit(assignment("pid", name))
            pids.append(int(replies(driver.finished(name))[0]))
            note("work")

    run(body, child_init=lambda: note("init"), child_exit=lambda: note("exit"))
    [pid] = set(pids)
    own = os.getpid()
    expected = [f"init {pid}", f"work {own}", f"work {own}", f"exit {pid}"]
    assert expected == (tmp_path / "notes").read_text().splitlines()


def test_stacks_show_where_each_slot_stands(run: Run) -> None:
    """dump_stacks names the function that runs, within a second."""

    def body(driver: Driver) -> None:
        driver.submit(assignment("soft 0.6", "a"))
        driver.told("a", "STARTED")
        started = time.monotonic()
        text = driver.pool.dump_stacks()
        assert time.monotonic() - started < 1
        assert "_soft" in text
        driver.finished("a")

    run(body)


def test_large_bodies_travel_both_ways(run: Run) -> None:
    """20 MB in and 20 MB out, in a time that is no trouble."""

    def body(driver: Driver) -> None:
        content = bytes(range(256)) * (20 * 4096)
        started = time.monotonic()
        driver.submit(assignment(b"large " + content, "a"))
        [finished] = driver.finished("a")
        assert content[::-1] == finished.reply.body
        assert time.monotonic() - started < 3

    run(body)


def test_what_is_told_at_once_is_due_at_once(run: Run) -> None:
    """With an event to tell, next_deadline has passed; with nothing to do, there is none."""

    def body(driver: Driver) -> None:
        driver.until(lambda: driver.pool.next_deadline() is None)
        driver.submit(assignment("echo", "a"))
        deadline = driver.pool.next_deadline()
        assert deadline is not None
        assert deadline <= time.monotonic()
        driver.finished("a")

    run(body)


@pytest.mark.unit
def test_a_pool_that_is_not_there_is_refused() -> None:
    """The message names the pools that would do."""
    with pytest.raises(ConfigurationError, match=r"use -P asyncio .* -P threads"):
        make_pool("gevent", PoolOptions(), work)
    with pytest.raises(ConfigurationError, match="known: prefork"):
        make_pool("fibres", PoolOptions(), work)
