"""Large values stand in the redo log and in memory until the database commits: nobody sees a difference."""

from __future__ import annotations

import random
import resource
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emq_compat.broker import folding, redo
from emq_compat.broker.aside import ASIDE_BYTES
from emq_compat.broker.records import StoredResult, home_key
from emq_compat.broker.store import Store
from emq_compat.errors import JournalError

pytestmark = pytest.mark.integration

MB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store on disk with the queue 1."""
    made = Store(tmp_path / "data")
    made.add_queue("q")
    made.commit()
    yield made
    made.close()


def killed(store: Store, copy: Path) -> Store:
    """A store on what a process that was killed now would leave."""
    assert store.path is not None
    shutil.copytree(store.path.parent, copy)
    copy.chmod(0o700)
    return Store(copy)


def key(n: int) -> int:
    """The key of a message of the queue 1."""
    return home_key(1, 0) | n


def in_file(store: Store) -> int:
    """Bytes of values that SQLite was given."""
    sizes = "SELECT sum(length(payload)) FROM messages UNION ALL SELECT sum(length(body)) FROM results"
    return sum(size or 0 for (size,) in store._db.execute(sizes))


def test_what_is_gone_soon_is_written_once(store: Store) -> None:
    """A large message, and its result, that are there for a moment only come to the redo log alone."""
    assert store.path is not None
    for n in range(8):
        store.add_message(key(n), f"m{n}", "", bytes(MB), None)
        store.commit()
        store.hand_out(key(n), 1, b"w", late=True)
        store.finish(key(n), f"m{n}")
        store.put_result(f"t{n}", "SUCCESS", bytes(MB), None)
        store.commit()
        assert ("SUCCESS", bytes(MB)) == store.results([f"t{n}"])[f"t{n}"]
        assert {f"t{n}": ("SUCCESS", MB)} == store.result_sizes([f"t{n}"])
        assert 1 == store.forget([f"t{n}"])
        store.commit()
        assert not store._aside
        assert 0 == store._aside.live_bytes
    store.fold()
    log = store.path.with_name(f"{store.path.name}-wal")
    assert store.path.stat().st_size + log.stat().st_size < MB


def test_what_stays_comes_into_the_database(store: Store, tmp_path: Path) -> None:
    """Large values survive a kill before the database has them, and after; and a fold brings them there."""
    store.add_message(key(1), "m", "", b"m" * MB, None)
    store.put_result("t", "SUCCESS", b"t" * MB, None)
    store.commit()
    assert 0 == in_file(store)
    for name in ("before", "after"):
        again = killed(store, tmp_path / name)
        assert [b"m" * MB] == [row.payload for row in again.read_messages(0, key(9), 9)]
        assert b"t" * MB == again.results(["t"])["t"].body
        again.close()
        store.fold()
        assert 2 * MB == in_file(store)


def test_values_are_kept_aside_for_some_seconds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold that is due waits for large values to end, but not for ever, nor for too many."""
    store.put_result("t", "SUCCESS", bytes(MB), None)
    store.commit()
    store._folding.at = 0.0
    store.commit(told=False)
    assert time.monotonic() < store.fold_at < time.monotonic() + 1.1
    assert 0 == in_file(store)
    monkeypatch.setattr(folding, "_ASIDE_BYTES", 2 * MB)
    store.put_result("s", "SUCCESS", bytes(MB), None)
    store.commit()
    assert 2 * MB == in_file(store)
    monkeypatch.undo()
    store.put_result("u", "SUCCESS", bytes(MB), None)
    store.commit()
    store._folding._aside_until = store._folding.at = 0.0
    store.commit(told=False)
    assert 3 * MB == in_file(store)


def test_a_log_that_is_spent_begins_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hardly anything in the redo log is needed any more what is comes into the database early."""
    monkeypatch.setattr(folding, "_SPENT_BYTES", 10 * MB)
    assert store._redo is not None
    store.put_result("t", "SUCCESS", bytes(MB), None)
    for n in range(16):
        before = store._redo.end
        store.add_message(key(n), f"m{n}", "", bytes(MB), None)
        store.finish(key(n), f"m{n}")
        store.commit()
        if store._redo.end < before:
            break
    assert 8 == n
    assert MB == in_file(store)
    assert store.results(["t"])["t"].body == bytes(MB)


def test_a_log_of_which_much_is_needed_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in the redo log isn't brought into the database early for the little that is gone."""
    monkeypatch.setattr(folding, "_SPENT_BYTES", 2 * MB)
    for n in range(6):
        store.put_result(f"t{n}", "SUCCESS", bytes(MB), None)
        store.commit()
    assert 0 == in_file(store)


def test_what_is_not_large_goes_its_usual_way(store: Store) -> None:
    """Large values stand in a record though others need them whole; many small ones are folded at once."""
    assert store._redo is not None
    store.put_result("a", "SUCCESS", bytes(MB), None)
    store.whole()
    store.commit()
    assert MB < store._redo.end
    for large in (False, True):
        if large:
            store.put_result("b", "SUCCESS", bytes(MB), None)
        for n in range(20_000):
            store.put_result(f"t{n}", "SUCCESS", b'{"value": 1}', None)
        store.commit()
        assert store._redo.empty


def test_a_log_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a record finds no room any more its batch goes into the database, with all that was before it."""
    monkeypatch.setattr(redo, "_MOST_BYTES", 3 * MB)
    assert store.path is not None
    log, sizes = store.path.with_name("journal.redo"), []
    for n in range(4):
        store.put_result(f"t{n}", "SUCCESS", bytes(MB), None)
        store.commit()
        sizes.append(in_file(store))
    assert [0, 0, 3 * MB, 3 * MB] == sizes
    store.add_message(key(1), "m", "", bytes(5 * MB), None)
    store.commit()
    assert 9 * MB == in_file(store)
    assert 4 * MB == log.stat().st_size


def test_a_batch_of_very_many_large_values(store: Store, tmp_path: Path) -> None:
    """More pieces than the system takes in one call become one record all the same."""
    for n in range(600):
        store.put_result(f"t{n}", "SUCCESS", bytes([n % 256]) * ASIDE_BYTES, None)
    store.commit()
    assert 0 == in_file(store)
    again = killed(store, tmp_path / "copy")
    assert 600 * ASIDE_BYTES == in_file(again)
    again.close()


def test_a_record_that_was_written_in_part_does_not_count(store: Store, tmp_path: Path) -> None:
    """A file that can't grow takes the beginning of a record: its batch is undone, the others are there."""
    small: dict[str, StoredResult] = {}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9 * MB // 2, hard))
    try:
        for n in range(4):
            small[f"t{n}"] = StoredResult("SUCCESS", bytes([n]) * MB)
            store.put_result(f"t{n}", *small[f"t{n}"], None)
            store.commit()
        store.put_result("more", "SUCCESS", bytes(MB), None)
        with pytest.raises(JournalError, match="written in part; make room"):
            store.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    again = killed(store, tmp_path / "copy")
    ids = [*small, "more"]
    assert small == again.results(ids)
    again.close()
    assert small == store.results(ids)


def test_the_last_write_counts(store: Store, tmp_path: Path) -> None:
    """Of results that are written over and forgotten in one batch the last is there; also after a kill."""
    store.put_result("small", "SUCCESS", bytes(MB), None)
    store.put_result("small", "FAILURE", b"{}", None)
    store.put_result("large", "SUCCESS", b"{}", None)
    store.put_result("large", "FAILURE", bytes(MB), None)
    store.put_result("gone", "SUCCESS", bytes(MB), None)
    assert 1 == store.forget(["gone", "never"])
    store.put_result("back", "SUCCESS", bytes(MB), None)
    assert 1 == store.forget(["back"])
    store.put_result("back", "SUCCESS", b"{}", None)
    store.commit()
    expected = {"small": ("FAILURE", b"{}"), "large": ("FAILURE", bytes(MB)), "back": ("SUCCESS", b"{}")}
    again = killed(store, tmp_path / "copy")
    for one in (store, again):
        assert expected == one.results(["small", "large", "gone", "back"])
    again.close()


def test_the_log_is_as_small_as_before_after_a_quiet_time(store: Store) -> None:
    """The room that large values took in the redo log is given back once they are gone."""
    assert store.path is not None
    log = store.path.with_name("journal.redo")
    before = log.stat().st_size
    for n in range(10):
        store.put_result(f"t{n}", "SUCCESS", bytes(MB), None)
        store.commit()
        # What is small goes on behind them.
        store.put_result(f"s{n}", "SUCCESS", b"{}", None)
        store.commit()
    assert in_file(store) < MB
    assert log.stat().st_size > 10 * MB
    store.shrink()
    assert log.stat().st_size > 10 * MB
    store.fold()
    store.shrink()
    assert before == log.stat().st_size


def test_a_batch_that_fails_leaves_large_values_that_were_confirmed(store: Store) -> None:
    """A batch that can't be written is undone as a whole, and what was confirmed before it is there."""
    store.put_result("a", "SUCCESS", b"a" * MB, None)
    store.commit()
    store.put_result("b", "SUCCESS", b"b" * MB, None)
    store.commit(told=False)
    assert store._redo is not None
    file, store._redo._fd = store._redo._fd, -1
    store.put_result("a", "SUCCESS", b"A" * MB, None)
    store.put_result("c", "SUCCESS", b"c" * MB, None)
    with pytest.raises(JournalError):
        store.commit()
    store._redo._fd = file
    assert store.probe()
    assert {"a": ("SUCCESS", b"a" * MB)} == store.results(["a", "b", "c"])


def commit_and_fold(store: Store) -> None:
    store.commit(told=False)
    store.fold()


def test_a_fold_that_fails_says_what_is_undone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk what was confirmed stays in the redo log; of what told nothing the caller hears."""

    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(folding, "_ASIDE_BYTES", MB)
    store.put_result("a", "SUCCESS", b"a" * MB, None)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_fill", full)
        store.commit()
        store.fold()
        assert {"a": ("SUCCESS", b"a" * MB)} == store.results(["a"])
        patch.setattr(store, "_repeat", full)
        with pytest.raises(JournalError, match="make room"):
            store.fold()
    assert store.probe()
    assert {"a": ("SUCCESS", b"a" * MB)} == store.results(["a"])
    for size in (10, MB):
        with monkeypatch.context() as patch:
            patch.setattr(store, "_fill", full)
            store.put_result("b", "SUCCESS", b"b" * size, None)
            with pytest.raises(JournalError, match="make room"):
                commit_and_fold(store)
        assert ["a"] == list(store.results(["a", "b"]))
    assert store.probe()


def test_a_batch_is_undone_without_a_free_descriptor(store: Store) -> None:
    """A process that can't open any file starts over from the redo log all the same."""
    store.put_result("a", "SUCCESS", b"a" * MB, None)
    store.commit()
    store.put_result("b", "SUCCESS", b"b" * MB, None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert store.probe()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {"a": ("SUCCESS", b"a" * MB)} == store.results(["a", "b"])


@pytest.mark.parametrize("seed", range(6))
def test_it_is_as_if_nothing_were_kept_aside(store: Store, tmp_path: Path, seed: int) -> None:
    """Whatever is done with messages and results, a journal that keeps nothing aside has the same in it."""
    chance, plain = random.Random(seed), Store(None)
    plain.add_queue("q")
    both: tuple[Store, ...] = (store, plain)
    keys: list[int] = []

    def each(what: str, *arguments: object, **more: object) -> None:
        told = [getattr(journal, what)(*arguments, **more) for journal in both]
        aside, whole = [list(one) if isinstance(one, Iterator) else one for one in told]
        assert whole == aside, what

    for count in range(1, 201):
        value, task_id = bytes([count]) * chance.choice([10, ASIDE_BYTES, 100_000]), f"t{count % 9}"
        one = chance.choice(keys) if keys else None
        chosen = chance.randrange(14)
        if chosen < 5:
            keys.append(key(count))
            headers, marked = chance.choice([("id:t", None), ("epilogue:x", task_id)])
            each("add_message", key(count), f"m{count}", headers, value, marked)
        elif chosen == 5 and one is not None:
            keys.remove(one)
            each("finish", one, f"m{one}")
        elif chosen == 6 and one is not None:
            keys.remove(one)
            each("bury", one, f"m{one}", "q", "lost", 1.0, attempt=1, losses=1)
        elif chosen == 7 and one is not None:
            keys.remove(one)
            each("move", one, count, key(0), "gate")
        elif chosen == 8 and one is not None:
            each("release", one, one, None, None, "id:u", value)
        elif chosen == 9:
            each("put_result", task_id, "SUCCESS", value, float(count % 7))
        elif chosen == 10:
            each("forget", [task_id, "never"])
        elif chosen == 11:
            each("expire_results", float(count % 3), 2)
        elif chosen == 12:
            each("let_all", "gate", key(0), 2)
        elif chosen == 13:
            each("commit", told=chance.random() < 0.7)
        if chance.random() < 0.05:
            store.commit()
            store.fold()
        if chance.random() < 0.02:
            keys.clear()
            each("purge", 1)
        ids = [f"t{n}" for n in range(9)]
        looks: list[tuple[object, ...]] = [("results", ids), ("result_sizes", ids), ("find", "t")]
        looks += [("marked_as", task_id), ("marked_in", 1), ("browse", 1, 0, 99), ("browse_apart", 1, 0, 99)]
        looks += [("parked", "gate", key(0), 99), ("parked_at", "gate"), ("dead_letter", count % 5)]
        looks += [("read_message", one or 0), ("read_messages", 0, key(999), 99)]
        if chance.random() < 0.3:
            what, *arguments = chance.choice(looks)
            each(str(what), *arguments)
    for journal in both:
        journal.commit()
    again = killed(store, tmp_path / "copy")
    expected = contents(plain)
    assert expected == contents(again)
    again.close()
    store.whole()
    assert expected == contents(store)
    plain.close()


def contents(store: Store) -> list[list[object]]:
    """All messages, dead letters and results."""
    db: sqlite3.Connection = store._db
    return [db.execute(f"SELECT * FROM {t} ORDER BY 1").fetchall() for t in ("messages", "dead", "results")]
