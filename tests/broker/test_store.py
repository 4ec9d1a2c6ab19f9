"""The journal: who may open a folder, which schemas it takes, and what a failed commit leaves."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from emq_compat import memory
from emq_compat.broker.asks import Asks
from emq_compat.broker.records import ChordRow, ChordState, LockRow, StoredMessage, home_key
from emq_compat.broker.schema import SCHEMA_VERSION, SQL
from emq_compat.broker.store import Store
from emq_compat.errors import JournalError
from emq_compat.protocol.commands import Ask
from emq_compat.terms import Shares
from tests.broker.bench import CLIENT, Bench

pytestmark = pytest.mark.integration


def journal(folder: Path) -> Path:
    """The folder's database."""
    return folder / "journal.sqlite3"


def add(store: Store, n: int) -> None:
    """Store n results."""
    for i in range(n):
        store.put_result(f"t{i}", "SUCCESS", b'{"value":1}', time.time() + 60)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A folder that a newer release has written is left as it is; the error says what to do."""
    folder = tmp_path / "data"
    Store(folder).close()
    with sqlite3.connect(journal(folder)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(JournalError, match=r"newer emq-compat .*upgrade"):
        Store(folder)
    with sqlite3.connect(journal(folder)) as db:
        assert (SCHEMA_VERSION + 1,) == db.execute("PRAGMA user_version").fetchone()
    db.close()


def test_an_older_schema_is_migrated(tmp_path: Path) -> None:
    """A folder of schema 1 is taken up with all that is in it, and has chords from then on."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    with sqlite3.connect(journal(folder)) as db:
        db.executescript(SQL["schema"])
        db.execute("INSERT INTO queues (name, waiting) VALUES ('q', 1)")
        key = home_key(1, 0) | 7
        db.execute(
            "INSERT INTO messages (key, msgid, headers, payload) VALUES (?, 'm', 'id:t', x'5b5d')", (key,)
        )
        db.execute("PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        store = Store(folder)
        assert StoredMessage(key, "m", "id:t", b"[]", 0, 0) == store.read_message(key)
        assert [] == store.marked_as("t")
        chord = ChordState(5, "c", 2, 0, 1, None, None, 1.0)
        store.put_chord(chord)
        store.add_part(5, "0", b"1")
        store.commit()
        assert [ChordRow(chord, 0, "", "")] == store.chords()
        assert [("0", b"1")] == store.parts(5)
        store.close()
    with sqlite3.connect(journal(folder)) as db:
        assert (SCHEMA_VERSION,) == db.execute("PRAGMA user_version").fetchone()
    db.close()


def test_a_schema_without_terms_is_migrated(tmp_path: Path) -> None:
    """A folder of schema 2 keeps its messages where they are, and has gates, unique keys and shares then."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    home = home_key(1, 0)
    with sqlite3.connect(journal(folder)) as db:
        db.executescript(SQL["schema"] + SQL["migrate_1"])
        db.execute("INSERT INTO queues (name, waiting, delayed) VALUES ('q', 1, 1)")
        insert = "INSERT INTO messages (key, home, due_ms, msgid, headers, payload, task_id) VALUES"
        db.execute(f"{insert} (?, NULL, NULL, 'm', 'id:t', x'5b5d', 't')", (home | 7,))
        db.execute(f"{insert} (8, ?, 5000, 'd', 'id:u', x'5b5d', 'u')", (home,))
        db.execute("PRAGMA user_version = 2")
    db.close()
    for _ in range(2):
        store = Store(folder)
        waits = StoredMessage(home | 7, "m", "id:t", b"[]", 0, 0)
        assert [(waits, None, None)] == store.marked_as("t")
        assert [(8, home, None)] == [(row.message.key, row.home, row.gate) for row in store.marked_as("u")]
        assert [] == store.parked_counts() == store.locks(["k"]) == store.paces(0.0)
        assert {} == store.shares()
        store.close()
    store = Store(folder)
    store.move(home | 7, 7, home, "g")
    store.put_lock(LockRow("k", "t", 0.0, 0.0))
    store.put_pace("g", 5.0)
    store.put_shares("task", Shares(2, True, 0.5, False))
    store.commit()
    store.close()
    store = Store(folder)
    assert [("g", home, 1)] == store.parked_counts()
    assert ["m"] == [row.msgid for row in store.parked("g", home, 9)]
    assert {"m", "d"} == {row.msgid for row in store.marked_in(1)}
    assert [LockRow("k", "t", 0.0, 0.0)] == store.locks(["k"])
    assert [("g", 5.0)] == store.paces(4.0)
    assert {"task": Shares(2, True, 0.5, False)} == store.shares()
    assert 2 == store.purge(1)
    store.close()


def test_another_file_is_refused(tmp_path: Path) -> None:
    """A file that is no database is refused with a message that names it, and left as it is."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    journal(folder).write_bytes(b"no database at all" * 1000)
    with pytest.raises(JournalError, match=r"journal\.sqlite3"):
        Store(folder)
    assert journal(folder).read_bytes().startswith(b"no database")


def test_a_folder_that_others_read_is_refused(tmp_path: Path) -> None:
    """A folder that others can enter is refused; the message says chmod."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(JournalError, match="chmod 700"):
        Store(folder)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, mocker: object) -> None:
    """A folder that belongs to somebody else is refused, naming the owner."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    mocker.patch("os.getuid", return_value=os.getuid() + 1)  # type: ignore[attr-defined]
    with pytest.raises(JournalError, match=f"uid {folder.stat().st_uid}"):
        Store(folder)


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    """A folder is free again once its store is closed."""
    folder = tmp_path / "data"
    first = Store(folder)
    with pytest.raises(JournalError, match=f"pid {os.getpid()}"):
        Store(folder)
    first.close()
    Store(folder).close()


def test_a_failed_commit_is_undone_as_a_whole(tmp_path: Path) -> None:
    """When the disk is full nothing of the batch stays, and a smaller one goes in afterwards."""
    store = Store(tmp_path / "data")
    add(store, 1)
    store.commit()
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 2}")
    add(store, 10_000)
    with pytest.raises(JournalError, match="full"):
        store.commit()
    assert 1 == store.sizes()["results"]
    store.put_result("small", "SUCCESS", b"{}", None)
    store.commit()
    assert {"small"} == set(store.results(["small", "t500"]))
    store.close()


def test_sequences_never_repeat(tmp_path: Path) -> None:
    """A restart goes on with larger sequence numbers, whether or not the last ones were committed."""
    folder = tmp_path / "data"
    store = Store(folder)
    before = [store.next_sequence() for _ in range(10)]
    store.commit()
    more = [store.next_sequence() for _ in range(10)]
    store.close()
    store = Store(folder)
    assert store.next_sequence() > max(before + more)
    store.close()


def test_a_question_that_the_journal_fails_at_fails_its_turn(mocker: MockerFixture) -> None:
    """What else came in that turn is undone, too: nobody may be told that it was taken."""
    bench = Bench()
    Asks(bench.engine, lambda file, done: None, bench.now)
    mocker.patch.object(bench.store, "forget", side_effect=JournalError("the disk is full"))
    question = Ask(msgid="a", verb="forget", arguments={"ids": ["t"]})
    with pytest.raises(JournalError, match="full"):
        bench.engine.from_client(CLIENT, question, bench.now)


def test_what_is_deleted_is_not_written_once_more(tmp_path: Path) -> None:
    """A large result that is forgotten leaves free pages; some systems' SQLite would fill them with zeros."""
    store = Store(tmp_path / "data")
    store.put_result("t", "SUCCESS", bytes(1 << 20), None)
    store.commit()
    store.fold()
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert 1 == store.forget(["t"])
    store.commit()
    assert (tmp_path / "data" / "journal.sqlite3-wal").stat().st_size < 1 << 17
    store.close()


def test_giving_memory_back_changes_nothing(tmp_path: Path) -> None:
    """What statements were given last is let go of by giving them values that no row can have."""
    store = Store(tmp_path / "data")
    add(store, 2)
    store.commit()
    before = list(store._db.iterdump())

    store.shrink()

    assert before == list(store._db.iterdump())
    store.commit()
    store.close()


def test_memory_does_not_follow_the_file(tmp_path: Path) -> None:
    """Of a journal that grows to many times its cache no more than the cache is in memory."""
    store = Store(tmp_path / "data", durability="normal")
    memory.trim()
    before = memory.resident_kb()
    for batch in range(40):
        for n in range(batch * 500, batch * 500 + 500):
            store.put_result(f"t{n}", "SUCCESS", bytes(3000), None)
        store.commit()
    store.fold()
    assert (tmp_path / "data" / "journal.sqlite3").stat().st_size > 60 << 20
    memory.trim()
    assert memory.resident_kb() - before < 26 << 10
    store.close()
