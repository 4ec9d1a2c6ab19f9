"""A prefork pool under load, while its children and zygotes are killed at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from emq_compat.pool.base import Finished, Lost, PoolBroken
from tests.pool.conftest import Prefork
from tests.pool.drive import Driver, assignment, pool_processes

pytestmark = [pytest.mark.integration, pytest.mark.faults]


def _zygote(driver: Driver) -> int | None:
    """The active zygote's pid, if its spare is there to take over."""
    nursery = driver.pool._brood._nursery  # type: ignore[attr-defined]
    if nursery._active is None or nursery._spare is None:
        return None
    return int(nursery._active.pid)


def _rounds(prefork: Prefork, folder: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    before = pool_processes()
    driver = prefork(2, max_tasks_per_child=50)
    for number in range(rounds):
        ran, names = folder / f"ran{number}", [f"r{number}m{i}" for i in range(300)]
        kills_at = {chance.randrange(300): chance.choice(["child", "child", "zygote"]) for _ in range(3)}
        returned: list[str] = []
        kills = 0
        driver.events.clear()
        for i, name in enumerate(names):
            item = assignment(f"note {ran}", name)
            driver.until(lambda item=item: driver.pool.submit(item, reserve=True))
            if i in kills_at:
                pids = driver.pool.pids()
                victim = _zygote(driver) if kills_at[i] == "zygote" else chance.choice(pids or [0])
                if victim:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        kills += 1
            if i % 10 == 9:
                driver.step(0.01)
            if i in (99, 199):
                returned += [back.delivery.msgid for back in driver.pool.take_back()]
        driver.until(
            lambda names=names, returned=returned: len(driver.of(Finished))
            + len(driver.of(Lost))
            + len(returned)
            >= len(names),
            60,
        )
        lost = [event.key[0] for event in driver.of(Lost)]
        ended = [event.key[0] for event in driver.of(Finished)] + lost + returned
        assert sorted(names) == sorted(ended)
        executed = ran.read_text().split()
        assert len(executed) == len(set(executed)), "one ran twice"
        assert set() == set(executed) & set(returned)
        assert len(lost) <= kills
        assert [] == [event for event in driver.events if isinstance(event, PoolBroken)]
        driver.idle(2)
    assert {} == driver.pool.running()
    driver.until(lambda: len(driver.pool.pids()) == 2)
    nursery = driver.pool._brood._nursery  # type: ignore[attr-defined]
    driver.until(lambda: nursery._spare is not None)
    # What a zygote forked and, killed, couldn't tell of is gone and reaped: two zygotes and two children.
    driver.until(lambda: 4 == len(pool_processes() - before))


def test_kills_lose_only_what_ran(prefork: Prefork, tmp_path: Path) -> None:
    """Every assignment ends once, none runs twice, a kill loses one at most, and the pool is whole again."""
    _rounds(prefork, tmp_path, 3)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_kills_lose_only_what_ran_long(prefork: Prefork, tmp_path: Path) -> None:
    """The same, fifty rounds."""
    _rounds(prefork, tmp_path, 50)
