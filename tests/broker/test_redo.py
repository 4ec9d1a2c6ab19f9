"""The redo log, and a journal that is killed with commits that stand only there."""

from __future__ import annotations

import logging
import pickle
import shutil
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from emq_compat.broker.backups import Backups
from emq_compat.broker.records import LockRow
from emq_compat.broker.redo import RECORD_BYTES, RedoLog, Writes
from emq_compat.broker.store import Store
from emq_compat.errors import EmqError, JournalError

pytestmark = pytest.mark.integration

TOKEN, OTHER = b"token--1", b"token--2"
ONE: Writes = [("hand_out", [(1 << 50, 1, b"w", True)]), ("drop_message", [(2,), (3,)])]
TWO: Writes = [("add_message", [(4, "m", "id:t", b"\x00\xff", None)])]


def log(folder: Path, *, synced: bool = True) -> RedoLog:
    return RedoLog(folder / "redo", synced=synced)


def test_what_was_appended_is_read_in_its_order(tmp_path: Path) -> None:
    """A log that is opened again has what was appended after its last beginning, and goes on behind it."""
    first = log(tmp_path)
    first.begin(OTHER)
    assert first.append(TWO)
    first.begin(TOKEN)
    assert first.empty
    assert first.append(ONE)
    assert not first.empty
    first.close()
    again = log(tmp_path)
    assert [ONE] == list(again.read(TOKEN))
    assert again.append(TWO)
    assert [ONE, TWO] == list(again.read(TOKEN))
    assert [] == list(again.read(OTHER))
    again.close()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_record_that_was_just_being_written_ends_the_log(tmp_path: Path, cut: int) -> None:
    """A power cut in the middle of a record leaves those before it, and the next takes its place."""
    torn = log(tmp_path)
    torn.begin(TOKEN)
    torn.append(ONE)
    torn.append(TWO)
    end = torn._at
    torn.close()
    with (tmp_path / "redo").open("r+b") as file:
        file.seek(end - cut)
        file.write(bytes(cut))
    again = log(tmp_path)
    assert [ONE] == list(again.read(TOKEN))
    assert again.append(TWO)
    assert [ONE, TWO] == list(again.read(TOKEN))
    again.close()


def test_a_record_that_was_damaged_later_is_no_end(tmp_path: Path) -> None:
    """A byte that changed in the middle of what was synced is told, not taken for the end."""
    for synced in (True, False):
        damaged = log(tmp_path, synced=synced)
        damaged.begin(TOKEN)
        damaged.append(ONE)
        damaged.append(TWO)
        damaged.close()
        with (tmp_path / "redo").open("r+b") as file:
            file.seek(30)
            file.write(b"\xaa")
        again = log(tmp_path)
        if synced:
            with pytest.raises(JournalError, match=r"redo is damaged at byte 0: restore"):
                list(again.read(TOKEN))
        else:
            # Nothing says in which order the system wrote it.
            assert [] == list(again.read(TOKEN))
        again.close()


def test_a_log_has_its_size(tmp_path: Path) -> None:
    """What is too large, or finds no room, isn't taken, and the file never grows."""
    full = log(tmp_path, synced=False)
    size = (tmp_path / "redo").stat().st_size
    full.begin(TOKEN)
    large: Writes = [("add_message", [(1, "m", "", bytes(RECORD_BYTES), None)])]
    assert not full.append(large)
    assert full.empty
    some: Writes = [("add_message", [(1, "m", "", bytes(60_000), None)])]
    taken = 0
    while full.append(some):
        taken += 1
    assert size == (tmp_path / "redo").stat().st_size
    assert size // 60_200 == taken == len(list(full.read(TOKEN)))
    full.begin(OTHER)
    assert full.append(some)
    full.close()


def test_nothing_but_plain_values_is_read(tmp_path: Path) -> None:
    """A record that names a class or a function is not loaded."""
    forged = log(tmp_path)
    forged.begin(TOKEN)
    forged.append(ONE)
    forged.close()
    body = pickle.dumps([("x", [(Path("y"),)])], 4)
    checked = struct.pack("<BI8s", 1, len(body), TOKEN)
    record = struct.pack("<I", zlib.crc32(body, zlib.crc32(checked))) + checked + body
    with (tmp_path / "redo").open("r+b") as file:
        file.write(record)
    again = log(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="doesn't belong here"):
        list(again.read(TOKEN))
    again.close()


def killed(folder: Path, copy: Path, durability: str = "full") -> Store:
    """A store on what a process that was killed now would leave."""
    shutil.copytree(folder, copy)
    copy.chmod(0o700)
    return Store(copy, durability=durability)


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_commits_survive_a_kill(tmp_path: Path, durability: str) -> None:
    """Commits that no other reader sees in the database yet are there after a kill, in their order."""
    store = Store(tmp_path / "data", durability=durability)
    store.put_result("a", "STARTED", b"1", None)
    store.commit()
    store.put_result("a", "SUCCESS", b"2", None)
    store.put_lock(LockRow("k", "t", 0.0, 0.0))
    store.commit()
    store.drop_lock("k", "t")
    store.commit()
    store.put_result("b", "SUCCESS", b"3", None)
    again = killed(tmp_path / "data", tmp_path / "copy", durability)
    assert {"a": ("SUCCESS", b"2")} == again.results(["a", "b"])
    assert [] == again.locks(["k"])
    again.close()
    store.close()


def test_a_batch_that_told_nothing_is_durable_with_the_next(tmp_path: Path) -> None:
    """What nobody was told of may be lost with the process, until a commit of which somebody is told."""
    store = Store(tmp_path / "data")
    store.put_result("quiet", "SUCCESS", b"1", None)
    store.commit(told=False)
    assert {"quiet"} == set(store.results(["quiet"]))
    again = killed(tmp_path / "data", tmp_path / "before")
    assert {} == again.results(["quiet"])
    again.close()
    store.put_result("told", "SUCCESS", b"1", None)
    store.commit()
    again = killed(tmp_path / "data", tmp_path / "after")
    assert {"quiet", "told"} == set(again.results(["quiet", "told"]))
    again.close()
    store.close()


def test_quiet_batches_are_durable_in_time(tmp_path: Path) -> None:
    """A store says when it is to be called though nothing is written, and then is as if told."""
    store = Store(tmp_path / "data")
    assert store.fold_at > time.monotonic() + 1e6
    store.put_result("quiet", "SUCCESS", b"1", None)
    store.commit(told=False)
    assert time.monotonic() - 60 < store.fold_at <= time.monotonic() + 1
    store._folding.at = time.monotonic()
    store.commit(told=False)
    assert store.fold_at > time.monotonic() + 1e6
    again = killed(tmp_path / "data", tmp_path / "copy")
    assert {"quiet"} == set(again.results(["quiet"]))
    again.close()
    store.close()


def test_a_close_in_the_middle_of_a_batch_keeps_what_was_committed(tmp_path: Path) -> None:
    """What was committed is in the database after the end, and what wasn't is nowhere."""
    store = Store(tmp_path / "data")
    store.put_result("a", "SUCCESS", b"1", None)
    store.commit()
    store.put_result("b", "SUCCESS", b"1", None)
    assert {"a", "b"} == set(store.results(["a", "b"]))
    store.close()
    (tmp_path / "data" / "journal.redo").unlink()
    again = Store(tmp_path / "data")
    assert {"a"} == set(again.results(["a", "b"]))
    again.close()


def test_a_batch_that_fails_leaves_what_was_confirmed(tmp_path: Path) -> None:
    """A batch for which the disk has no room is undone, and nothing of what was confirmed before it."""
    store = Store(tmp_path / "data")
    store.fold()
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    for name in ("a", "b"):
        store.put_result(name, "SUCCESS", bytes(3000), None)
        store.commit()
    store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
    store.put_result("c", "SUCCESS", bytes(20_000), None)
    with pytest.raises(JournalError, match="full"):
        store.commit()
    assert {"a", "b"} == set(store.results(["a", "b", "c"]))
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.probe()
    assert {"a", "b"} == set(store.results(["a", "b", "c"]))
    store.close()


class FullDisk:
    """A connection to a database on a disk that has no room when a transaction is to be committed."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.full = True

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if self.full and sql == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        return self.db.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


def test_a_full_disk_leaves_commits_in_the_log(tmp_path: Path) -> None:
    """Where the database takes nothing confirmed commits stay in the redo log, until it does or a restart."""
    store = Store(tmp_path / "data")
    disk = FullDisk(store._db)
    store._db = disk  # type: ignore[assignment]
    for name in "abc":
        store.put_result(name, "SUCCESS", b"1", None)
        store._folding.at = 0.0
        store.commit(told=False)
        assert store.fold_at > time.monotonic()
    again = killed(tmp_path / "data", tmp_path / "copy")
    assert set("abc") == set(again.results(list("abc")))
    again.close()
    for n in range(RECORD_BYTES // 2000 + 1):  # too much for the log
        store.put_result(f"d{n}", "SUCCESS", bytes(2000), None)
    with pytest.raises(JournalError, match="full"):
        store.commit()
    assert set("abc") == set(store.results([*"abc", "d0", "d1"]))
    assert not store.probe()
    disk.full = False
    assert store.probe()
    (tmp_path / "data" / "journal.redo").unlink()
    again = killed(tmp_path / "data", tmp_path / "later")
    assert set("abc") == set(again.results([*"abc", "d0", "d1"]))
    again.close()
    store.close()


def test_a_disk_without_room_for_the_log(
    tmp_path: Path, mocker: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Without room for the redo log a journal works as well, and says that it is slower."""
    mocker.patch(  # type: ignore[attr-defined]
        "emq_compat.broker.database.RedoLog", side_effect=OSError(28, "No space left on device")
    )
    with caplog.at_level(logging.WARNING):
        store = Store(tmp_path / "data")
    assert "journal.redo can't be made (No space left on device): every commit is slower" in caplog.text
    store.put_result("a", "SUCCESS", b"1", None)
    store.commit(told=False)
    again = killed(tmp_path / "data", tmp_path / "copy")
    assert {"a"} == set(again.results(["a"]))
    again.close()
    store.close()


def test_no_backup_without_what_stands_in_the_log(tmp_path: Path) -> None:
    """Where the database's disk is full a backup is refused, and made once there is room."""
    store = Store(tmp_path / "data")
    (tmp_path / "copy").mkdir(mode=0o700)
    told: list[EmqError | None] = []
    woken = threading.Event()
    backups = Backups(store, woken.set)
    disk = FullDisk(store._db)
    store._db = disk  # type: ignore[assignment]
    store.put_result("a", "SUCCESS", b"1", None)
    store.commit()
    for _ in ("full", "room"):
        backups.ask(tmp_path / "copy" / "journal.sqlite3", told.append)
        backups.begin()
        assert woken.wait(10)
        woken.clear()
        backups.tell()
        disk.full = False
    backups.close()
    refused, made = told
    assert "full" in str(refused)
    assert None is made
    copy = Store(tmp_path / "copy")
    assert {"a"} == set(copy.results(["a"]))
    copy.close()
    store.close()
