"""How much a worker asks for beside what it runs: what it learns of running times, what pauses it."""

from __future__ import annotations

import pytest

from emq_compat.manager.credit import PAUSE_MIN_S, PAUSE_S, Credit

pytestmark = pytest.mark.unit


def learned(*runtimes_s: float) -> Credit:
    credit = Credit()
    for runtime_s in runtimes_s:
        credit.note("t", runtime_s)
    return credit


@pytest.mark.parametrize(
    ("runtime_s", "held"), [(0.0001, 32), (0.0005, 32), (0.002, 10), (0.009, 2), (0.011, 0), (5.0, 0)]
)
def test_a_child_holds_20_ms_of_work(runtime_s: float, held: int) -> None:
    """Beside what it runs a child holds at most 32 jobs, and about 20 ms of them; none that is long."""
    credit = learned(*[runtime_s] * 10)

    assert held == credit.per_child(0.0)
    assert (held > 0) is credit.is_short("t")


def test_nothing_is_held_of_what_is_unknown() -> None:
    """Two runs teach nothing yet."""
    credit = learned(0.0001, 0.0001)

    assert (0, False) == (credit.per_child(0.0), credit.is_short("t"))
    assert not learned(*[0.0001] * 10).is_short("another")


def test_one_long_run_among_short_ones_changes_nothing() -> None:
    """A task that was slow once is still a short one."""
    credit = learned(*[0.0001] * 10, 3.0, 0.0001)

    assert (32, True) == (credit.per_child(0.0), credit.is_short("t"))


def test_two_long_runs_are_believed() -> None:
    """A task that has become slow is a long one from the second time on, and for a while afterwards."""
    credit = learned(*[0.0001] * 10, 3.0, 3.0)

    assert (0, False) == (credit.per_child(0.0), credit.is_short("t"))
    for _ in range(20):
        credit.note("t", 0.0001)
    assert not credit.is_short("t")


def test_a_job_that_found_no_slot_pauses_it_for_longer_each_time() -> None:
    """The first pause is short; those that follow soon are each twice as long, up to a second."""
    credit, now, pauses = learned(*[0.0001] * 10), 100.0, []
    for _ in range(8):
        credit.pause(now)
        step = 0.001
        end = next(now + i * step for i in range(1, 2000) if credit.per_child(now + i * step))
        pauses.append(end - now)
        now = end + 0.01

    expected = [min(PAUSE_S, PAUSE_MIN_S * 2**n) for n in range(8)]
    assert expected == pytest.approx(pauses, abs=0.002)


def test_a_pause_long_after_the_last_one_is_short_again() -> None:
    """What was a while ago doesn't count."""
    credit = learned(*[0.0001] * 10)
    for _ in range(8):
        credit.pause(0.0)

    credit.pause(10.0)

    assert (0, 32) == (credit.per_child(10.0), credit.per_child(10.0 + PAUSE_MIN_S))
