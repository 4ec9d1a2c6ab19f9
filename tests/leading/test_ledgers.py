"""One contract for Redis, an SQL database and our broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.ids import new_id
from emq_compat.leading.base import Held, LastRun, Ledger, life_from
from emq_compat.leading.broker import BrokerLedger
from emq_compat.leading.database import DatabaseLedger
from emq_compat.leading.redis import RedisLedger
from tests.broker.bench import Bench
from tests.processes import unused_port, wait_until
from tests.shim.beats import BrokerHere

pytestmark = pytest.mark.unit

LIFE_S = 1.0
Make = Callable[[str], Ledger]


class Here:
    """A store, beats' ledgers in it, and time that passes for it."""

    def __init__(self, make: Callable[[str, str], Ledger], pass_s: Callable[[float], None]) -> None:
        self.schedule = f"schedule {new_id()}"
        self._make = make
        self.pass_s = pass_s

    def ledger(self, owner: str, schedule: str = "") -> Ledger:
        return self._make(schedule or self.schedule, owner)


@pytest.fixture(params=["redis", "database", "broker"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Here]:
    """A store with nothing of this schedule in it."""
    made: list[Ledger] = []
    passed = [0.0]

    def pass_s(seconds: float) -> None:
        passed[0] += seconds

    if request.param == "redis":
        url = request.getfixturevalue("redis_url")

        def make(schedule: str, owner: str) -> Ledger:
            made.append(RedisLedger.at(url, schedule, owner, LIFE_S))
            return made[-1]

        pass_s = time.sleep
    elif request.param == "database":

        def make(schedule: str, owner: str) -> Ledger:
            url = f"sqlite:///{tmp_path}/beats.db"
            ledger = DatabaseLedger(schedule, owner, LIFE_S, url=url, clock=lambda: passed[0])
            made.append(ledger)
            return ledger
    else:
        broker: Any = BrokerHere()
        broker.set_clock(datetime.now(timezone.utc))

        def make(schedule: str, owner: str) -> Ledger:
            return BrokerLedger(broker, schedule, owner, LIFE_S, url="emq://here")

        pass_s = broker.pass_time
    yield Here(make, pass_s)
    for ledger in made:
        ledger.close()
    while Bench.opened:
        Bench.opened.pop().store.close()


def test_one_of_two_has_the_lock(here: Here) -> None:
    """The first that asks has it, and keeps it by asking again; of another schedule another one has it."""
    first, second = here.ledger("first"), here.ledger("second")
    asked = [ledger.lead() for ledger in (first, second, first, second)]
    assert [Held.TAKEN, Held.NO, Held.KEPT, Held.NO] == asked
    assert Held.TAKEN is here.ledger("second", f"other {here.schedule}").lead()


def test_a_lock_that_is_freed_is_taken_at_once(here: Here) -> None:
    """Only who has it frees it."""
    first, second = here.ledger("first"), here.ledger("second")
    first.lead()
    second.resign()
    assert Held.NO is second.lead()
    first.resign()
    assert Held.TAKEN is second.lead()
    assert Held.NO is first.lead()


def test_a_lock_whose_life_is_over_is_taken(here: Here) -> None:
    """Within its life and one look; who had it notes nothing any more, and is told."""
    first, second = here.ledger("first"), here.ledger("second")
    first.lead()
    assert Held.NO is second.lead()
    here.pass_s(LIFE_S * 0.5)
    assert Held.NO is second.lead()
    assert first.note("e", LastRun(at=1.0, total=1))
    here.pass_s(LIFE_S * 0.7)
    assert Held.NO is second.lead()
    here.pass_s(LIFE_S * 1.2)
    assert Held.TAKEN is second.lead()
    assert not first.note("e", LastRun(at=2.0, total=2))
    assert Held.NO is first.lead()
    assert 1 == second.runs(["e"])["e"].total


def test_last_runs_outlive_who_noted_them(here: Here) -> None:
    """With their counts, and with how long ago that was; names may be long, strange, and differ by case."""
    first = here.ledger("first")
    first.lead()
    long = "ü 'x\" {n}" * 40
    now = time.time()
    for name, total in (("e", 3), ("E", 4), (long, 5)):
        assert first.note(name, LastRun(at=now, total=total))
    here.pass_s(0.1)
    second = here.ledger("second")
    seen = second.runs(["e", "E", long, "unknown"])
    assert {"e", "E", long} == set(seen)
    assert pytest.approx(now) == seen["e"].at
    assert 0 <= seen["e"].age_s < 60


def test_entries_begin_where_they_are_known(here: Here) -> None:
    """New ones are added as they are given, known ones stay; with `only` the others are forgotten."""
    ledger = here.ledger("first")
    ledger.lead()
    ledger.begin({"a": LastRun(at=100.0, total=7), "b": LastRun(at=100.0, total=0)}, only=True)
    ledger.begin({"a": LastRun(at=200.0, total=0), "c": LastRun(at=200.0, total=0)}, only=False)
    assert {"a": 100.0, "b": 100.0, "c": 200.0} == {n: r.at for n, r in ledger.runs(["a", "b", "c"]).items()}
    ledger.begin({"a": LastRun(at=300.0, total=0)}, only=True)
    assert {"a"} == set(ledger.runs(["a", "b", "c"]))


def test_a_store_that_is_away_is_an_operational_error(tmp_path: Path) -> None:
    """It names where, without a password."""
    gone = RedisLedger.at(f"redis://:secret@127.0.0.1:{unused_port()}/0", "s", "o", LIFE_S)
    with pytest.raises(OperationalError, match="Redis at redis://:\\*\\*@127") as told:
        gone.lead()
    assert "secret" not in str(told.value)
    with pytest.raises(OperationalError, match="the database sqlite"):
        DatabaseLedger("s", "o", LIFE_S, url=f"sqlite:///{tmp_path}/none/there.db").lead()


def test_redis_takes_a_killed_leaders_lock_by_itself(redis_url: str) -> None:
    """Its key ends with the life of the lock, whoever asks."""
    schedule = f"schedule {new_id()}"
    first, second = (RedisLedger.at(redis_url, schedule, owner, 0.3) for owner in ("first", "second"))
    assert Held.TAKEN is first.lead()
    wait_until(lambda: second.lead() is Held.TAKEN, 5)
    for ledger in (first, second):
        ledger.close()


@pytest.mark.parametrize("given", ["0", "-1", "inf", "nan", "soon"])
def test_a_lease_that_is_none_is_named(given: str) -> None:
    """EMQ_BEAT_LEASE is a number of seconds."""
    with pytest.raises(ConfigurationError, match="EMQ_BEAT_LEASE"):
        life_from({"EMQ_BEAT_LEASE": given})
    assert (15.0, 2.5) == (life_from({}), life_from({"EMQ_BEAT_LEASE": "2.5"}))


def test_the_broker_shows_what_an_entry_is() -> None:
    """Its task and its schedule, for `schedules` and the dashboard, where the lock does not stand."""
    broker: Any = BrokerHere()
    broker.set_clock(datetime.now(timezone.utc))
    ledger = BrokerLedger(broker, "s", "first", LIFE_S, url="emq://here")
    ledger.shown = {"e": ("proj.t", "every minute")}
    ledger.lead()
    ledger.begin({"e": LastRun(at=100.0, total=0)}, only=True)
    [row] = broker.ask("periodic")  # the lock is no entry of anybody's
    assert "s" == row["schedule"]
    assert 1 == len(broker.ask("overview", schedules=True)["periodic"])
    assert ("proj.t", "every minute") == (row["task"], row["shown"])
    Bench.opened.pop().store.close()
