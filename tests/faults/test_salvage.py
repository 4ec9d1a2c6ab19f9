"""`emq-compat broker --check` and `--salvage`: what is told of a damaged journal, and what is saved of it."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from emq_compat.broker.check import TABLES, check
from emq_compat.broker.mark import read_mark
from emq_compat.broker.opening import reading
from emq_compat.broker.reading import Gap, Table
from emq_compat.broker.records import ChordState, home_key
from emq_compat.broker.salvage import salvage
from emq_compat.broker.store import Store
from emq_compat.cli.broker import broker
from emq_compat.errors import JournalDamaged, JournalError
from tests.faults.journals import FILES, taken_up, written

pytestmark = pytest.mark.faults

MAIN, LOG, MARK, REDO = FILES
PAGE = 4096


def full(folder: Path, messages: int = 400) -> Path:
    """A closed journal with something of everything."""
    with written(folder) as journal:
        store = journal.store
        journal.commit(messages, b"x" * 300)
        home = home_key(journal.queue, 0)
        for n in range(5):
            store.add_delayed(store.next_sequence(), home, 1 << 40, f"d{n}", f"id:d{n}", b"[]", None)
            store.hand_out(home | (n + 1), 1, b"w", True)
        body = store.next_sequence()
        store.add_held(body, home, "body", "id:body,awaits:c:9", b"[]", "body")
        store.put_chord(ChordState(7, "c", 9, 0, 2, body, None, 1.0))
        store.add_part(7, "0", b"1")
        store.add_part(7, "1", b"2")
        for n in range(300):
            store.put_result(f"r{n}", "SUCCESS", b'{"value":1}' + b" " * 200, time.time() + 1e6)
        store.revoke("r1", time.time() + 1e6)
        store.set_counts(journal.queue, messages - 5, 5)
        store.commit()
    return folder


def command(folder: Path, *options: str) -> Result:
    """Call `emq-compat broker` on a folder."""
    return CliRunner().invoke(broker, ["--data", str(folder), *options])


def tree(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


def test_a_journal_that_is_whole(tmp_path: Path) -> None:
    """--check prints the counts and ends with 0, changes nothing, and tells the same as JSON."""
    folder = full(tmp_path / "data")
    before = tree(folder)
    done = command(folder, "--check")
    assert 0 == done.exit_code
    assert "406 messages" in done.output
    assert "The journal is whole." in done.output
    told = json.loads(command(folder, "--check", "--json").output)
    assert (True, False, [], 300) == (
        told["whole"],
        told["in_use"],
        told["problems"],
        told["counts"]["results"],
    )
    assert before == tree(folder)
    assert 1 == command(tmp_path / "nothing", "--check").exit_code
    assert not (tmp_path / "nothing").exists()


BROKEN = {
    "a queue that isn't there": "DELETE FROM queues",
    "headers": "UPDATE messages SET headers = 'priority:x' WHERE msgid = 'm7'",
    "a hand-out of nothing": "DELETE FROM messages WHERE key IN (SELECT max(key) FROM in_flight)",
    "a count": "UPDATE queues SET waiting = waiting + 1",
    "a body": "DELETE FROM messages WHERE msgid = 'body'",
    "a chord's parts": "UPDATE chords SET arrived = 1",
    "a lost chord": "DELETE FROM chords",
    "a number that isn't reserved": "UPDATE meta SET value = 3 WHERE name = 'sequence'",
    "a result": "UPDATE results SET body = x'7b' WHERE task_id = 'r7'",
    "a part": "UPDATE parts SET value = x'7b' WHERE place = '1'",
    "a hand-out that was there before": "UPDATE in_flight SET attempt = 0",
    "a table": "DROP TABLE shares",
    "a schedule": "INSERT INTO schedules VALUES ('k', 'q', '', x'', 0, 'x', 0, 1)",
    "a newer schema": "PRAGMA user_version = 99",
    "a dead letter": "INSERT INTO dead VALUES (1, 'm', 'q', 'priority:x', x'', 1, 1, '', 0)",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("whole") / "data")


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_wrong_is_found(whole: Path, tmp_path: Path, how: str) -> None:
    """Each broken invariant is found."""
    shutil.copy(whole / MAIN, tmp_path / MAIN)
    with sqlite3.connect(tmp_path / MAIN) as db:
        db.execute(BROKEN[how])
    db.close()
    with reading(tmp_path / MAIN) as db:
        assert check(db).problems
    with reading(whole / MAIN) as db:
        assert [] == check(db).problems


def test_a_check_tells_what_is_wrong_and_salvage_mends_it(whole: Path, tmp_path: Path) -> None:
    """Of a journal with a broken row, --check names it and ends with 3, and --salvage leaves it out."""
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    with sqlite3.connect(folder / MAIN) as db:
        db.execute(BROKEN["headers"])
        db.execute(BROKEN["a lost chord"])
    db.close()
    done = command(folder, "--check")
    assert 3 == done.exit_code
    assert "(m7): its headers can't be read" in done.output
    old = (folder / MAIN).read_bytes()
    done = command(folder, "--salvage")
    assert 3 == done.exit_code
    assert "lost: messages: msgid m7" in done.output
    assert "dead letter" in done.output
    [kept] = folder.glob(f"damaged-*-{MAIN}")
    assert old == kept.read_bytes()
    assert 0 == command(folder, "--check").exit_code
    assert 399 == len([msgid for msgid in taken_up_all(folder) if msgid.startswith("m")])
    again = json.loads(command(folder, "--salvage", "--json").output)
    assert [] == again["lost"]
    assert 2 == len(list(folder.glob(f"damaged-*-{MAIN}")))


def taken_up_all(folder: Path) -> set[str]:
    """The msgids that a broker has of a folder."""
    store = Store(folder)
    try:
        return {row.msgid for row in store.read_messages(0, 1 << 62, 1_000_000)}
    finally:
        store.close()


@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
def test_pages_of_garbage(whole: Path, tmp_path: Path, seed: int) -> None:
    """Of a journal with any page overwritten what remains is in the new one; each lost message is named."""
    pages = (whole / MAIN).stat().st_size // PAGE
    chance = random.Random(seed)
    all_ = taken_up_all_of(whole / MAIN)
    numbers = chance.sample(range(1, pages), 5) if seed == 1 else range(pages)
    for page in numbers:
        folder = tmp_path / f"data{page}"
        shutil.copytree(whole, folder)
        with (folder / MAIN).open("r+b") as file:
            file.seek(page * PAGE + (0 if page else 100))
            file.write(chance.randbytes(PAGE) if seed == 2 else b"\x5a" * (PAGE - (0 if page else 100)))
        try:
            done = salvage(folder)
        except JournalDamaged as error:
            told = str(error)
            assert not list(folder.glob("damaged*"))
            assert not list(folder.glob("salvage*"))
            done = None
        if done is None:
            assert page == 0, told
            assert "restore a backup" in told
            continue
        there = taken_up_all(folder)
        named = " ".join(done.lost)
        assert there <= all_
        assert all_ == there or done.lost
        if len(all_ - there) < 100:  # else the index that names them may be what is lost
            assert [msgid for msgid in all_ - there if msgid not in named] == []
        with reading(folder / MAIN) as db:
            assert [] == check(db).problems
        shutil.rmtree(folder)


def taken_up_all_of(file: Path) -> set[str]:
    with reading(file) as db:
        return {row[0] for row in db.execute("SELECT msgid FROM messages")}


def test_a_cut_off_file_and_its_beginning(whole: Path, tmp_path: Path) -> None:
    """A file without its last pages, or with its first bytes overwritten, is read on."""
    folder = tmp_path / "cut"
    shutil.copytree(whole, folder)
    with (folder / MAIN).open("r+b") as file:
        file.truncate(file.seek(0, 2) - 5 * PAGE)
    done = salvage(folder)
    assert "5 of" in done.lost[0]
    assert len(taken_up_all(folder)) > 100
    folder = tmp_path / "head"
    shutil.copytree(whole, folder)
    with (folder / MAIN).open("r+b") as file:
        file.write(b"\xff" * 100)
    done = salvage(folder)
    assert [] == done.lost
    assert taken_up_all_of(whole / MAIN) == taken_up_all(folder)


def test_what_the_logs_hold_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a log with a bad byte all before it is saved, and what the redo log adds; what lacks is said."""
    monkeypatch.setattr("emq_compat.broker.mark.EVERY_S", 0.0)
    with written(tmp_path / "a") as journal:
        for _ in range(8):
            journal.commit(2)
        journal.folds = False
        for _ in range(3):
            journal.commit(2)
        folder = journal.copy(tmp_path / "killed")
    mark = read_mark(folder / MAIN)
    assert mark is not None
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    done = salvage(whole)
    assert [] == done.lost
    assert journal.confirmed == taken_up(whole)
    with (folder / LOG).open("r+b") as file:
        file.seek(32 + (mark.frames - 1) * (24 + PAGE) + 3000)
        file.write(b"\xee")
    done = salvage(folder)
    assert "the changes between" in done.lost[0]
    there = taken_up(folder)
    assert [f"m{n}" for n in range(14)] + [f"m{n}" for n in range(16, 22)] == there
    assert 4 == len(list(folder.glob("damaged-*")))


def test_a_journal_that_is_in_use(tmp_path: Path) -> None:
    """A broker's journal can be checked while it runs; salvaging it is refused."""
    with written(tmp_path / "data") as journal:
        journal.commit(20)
        done = command(tmp_path / "data", "--check")
        assert 0 == done.exit_code
        assert "20 messages" in done.output
        assert "uses the data folder" in done.output
        done = command(tmp_path / "data", "--salvage")
        assert 1 == done.exit_code
        assert "uses the data folder" in done.output
        journal.commit(1)
    assert 21 == len(taken_up(tmp_path / "data"))


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    """--check goes without --salvage and --memory; --json needs one of the two."""
    for options in (
        ("--check", "--salvage"),
        ("--check", "--memory"),
        ("--json",),
        ("--salvage", "--backup", "x"),
    ):
        assert 2 == command(tmp_path, *options).exit_code


def test_a_salvage_that_has_no_room_changes_nothing(whole: Path, tmp_path: Path, mocker: object) -> None:
    """When the new journal can't be written the old one is as it was."""
    folder = tmp_path / "data"
    shutil.copytree(whole, folder)
    before = tree(folder)
    mocker.patch("os.fsync", side_effect=OSError(28, "No space left on device"))  # type: ignore[attr-defined]
    with pytest.raises(JournalError, match="No space left"):
        salvage(folder)
    assert before == tree(folder)


def test_every_table_is_known(whole: Path) -> None:
    """A table that the schema gains has to be known to --check and --salvage."""
    with reading(whole / MAIN) as db:
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert there == set(TABLES)


@pytest.mark.parametrize("text", [False, True])
def test_reading_goes_on_behind_damaged_pages(tmp_path: Path, text: bool) -> None:
    """Of a table with damaged leaves every row on the others is read once, and each gap is told."""
    file = tmp_path / "db"
    db = sqlite3.connect(file)
    kind = "TEXT PRIMARY KEY, v) WITHOUT ROWID" if text else "INTEGER PRIMARY KEY, v)"
    db.execute(f"CREATE TABLE t (k {kind}")
    keys = [f"{n:x}-{n}" if text else n * 7 for n in range(1000)]
    db.executemany("INSERT INTO t VALUES (?, ?)", [(key, "v" * 100) for key in keys])
    db.commit()
    db.close()
    content = bytearray(file.read_bytes())
    leaf = 10 if text else 13
    leaves = [n for n in range(2, len(content) // PAGE) if content[n * PAGE] == leaf]
    for n in (leaves[0], leaves[5], leaves[6], leaves[-1]):
        content[n * PAGE : (n + 1) * PAGE] = b"\x99" * PAGE
    file.write_bytes(content)
    gaps: list[Gap] = []
    db = sqlite3.connect(file)
    rows = [row[0] for row in Table(db, "t", ("k",), ("k",), gaps.append).rows()]
    db.close()
    assert sorted(set(rows)) == rows
    lost = 1000 - len(rows)
    assert 60 < lost < 250
    assert 3 <= len(gaps) <= 6
