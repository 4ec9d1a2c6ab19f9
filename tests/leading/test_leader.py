"""Who leads, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from emq_compat.errors import OperationalError
from emq_compat.leading.base import Held, LastRun, Ledger
from emq_compat.leading.leader import Deposed, Leader
from tests.processes import wait_until

pytestmark = pytest.mark.unit

LIFE_S = 10.0


class Store:
    """Who has the lock, until when, and what was noted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.owner = ""
        self.until = 0.0
        self.noted: dict[str, LastRun] = {}
        self.away = 0


class Kept(Ledger):
    """A ledger in a Store."""

    where = "memory"

    def __init__(self, store: Store, owner: str) -> None:
        super().__init__("s", owner, LIFE_S)
        self.store = store

    def lead(self) -> Held:
        store = self.store
        if store.away:
            store.away -= 1
            raise OperationalError("away")
        kept = store.owner == self.owner and store.now < store.until
        if not kept and store.now < store.until:
            return Held.NO
        store.owner, store.until = self.owner, store.now + LIFE_S
        return Held.KEPT if kept else Held.TAKEN

    def resign(self) -> None:
        if self.store.owner == self.owner:
            self.store.until = 0.0

    def runs(self, names: Collection[str]) -> dict[str, LastRun]:
        return {name: run for name, run in self.store.noted.items() if name in names}

    def begin(self, entries: Mapping[str, LastRun], *, only: bool) -> None:
        self.store.noted = {**entries, **self.store.noted}

    def note(self, name: str, run: LastRun) -> bool:
        if self.lead() is Held.NO:
            return False
        self.store.noted[name] = run
        return True

    def close(self) -> None:
        pass


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def two(store: Store) -> tuple[Leader, Leader]:
    return Leader(Kept(store, "a"), lambda: store.now), Leader(Kept(store, "b"), lambda: store.now)


def test_a_term_ends_with_the_locks_life(store: Store, two: tuple[Leader, Leader]) -> None:
    """Without a word it isn't known to lead; asking again in time goes on with the term."""
    a, b = two
    a.ask()
    b.ask()
    assert (1, 0) == (a.term, b.term)
    store.now = 9.0
    a.ask()
    store.now = 18.0
    assert 1 == a.term
    store.now = 20.0
    assert 0 == a.term


def test_who_was_stopped_for_longer_sends_nothing(store: Store, two: tuple[Leader, Leader]) -> None:
    """It is told before it sends: another one leads; and when that one goes, its own next term is another."""
    a, b = two
    a.ask()
    a.confirm(1)
    store.now = 11.0
    b.ask()
    assert 1 == b.term
    with pytest.raises(Deposed):
        a.confirm(1)
    with pytest.raises(Deposed):
        a.note(1, "e", LastRun(at=1.0, total=1))
    assert {} == store.noted
    b.stop()
    a.ask()
    assert 2 == a.term
    with pytest.raises(Deposed):
        a.confirm(1)


def test_a_clock_that_stood_still_is_no_excuse(store: Store, two: tuple[Leader, Leader]) -> None:
    """A machine that slept doesn't know how long: the store is asked before each send."""
    a, b = two
    a.ask()
    store.until = 0.0
    b.ask()
    assert 1 == a.term
    with pytest.raises(Deposed):
        a.confirm(1)


def test_a_store_that_is_away_for_a_moment_ends_no_term(store: Store, two: tuple[Leader, Leader]) -> None:
    """The question is asked again, and the run is noted."""
    a, _ = two
    a.ask()
    store.away = 1
    a.note(1, "e", LastRun(at=1.0, total=1))
    assert 1 == store.noted["e"].total
    store.away = 1
    a.ask()
    assert 1 == a.term


def test_its_thread_keeps_the_lock_and_frees_it(store: Store) -> None:
    """`start` takes it, `wait` returns when it has it, `stop` frees it."""
    leader = Leader(Kept(store, "a"))
    leader.start()
    leader.wait(5)
    assert 1 == leader.term
    leader.stop()
    assert (0, 0.0) == (leader.term, store.until)


def test_what_a_thread_waits_for_comes(store: Store) -> None:
    """A beat that stands by is woken when its term begins."""
    store.owner, store.until = "b", 1.0
    leader = Leader(Kept(store, "a"), lambda: store.now)
    leader.ledger.life_s = 0.03
    leader.start()
    assert 0 == leader.term
    store.now = 2.0
    wait_until(lambda: store.owner == "a", 5)
    leader.stop()
