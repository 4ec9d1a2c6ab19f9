"""The journal cut, torn, mixed up, overwritten at every kind of place: all that was confirmed, or refused."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emq_compat.broker.mark import read_mark
from emq_compat.broker.store import Store
from emq_compat.errors import JournalDamaged, OperationalError
from tests.broker_process import Broker
from tests.faults.journals import FILES, refused, taken_up, written

pytestmark = pytest.mark.faults

MAIN, LOG, MARK, REDO = FILES
FRAME = 24 + 4096


@pytest.fixture
def killed(tmp_path: Path) -> Callable[[str], Path]:
    """Makes copies of a journal whose broker was killed, with ten commits in its log and more in its file."""
    folder = tmp_path / "first"
    with written(folder) as journal:
        journal.commit(200)
        journal.store._db.execute("PRAGMA wal_checkpoint(FULL)")
        for _ in range(10):
            journal.commit(3)
        journal.copy(tmp_path / "killed")
    numbers = iter(range(10_000))

    def copy(*without: str) -> Path:
        to = tmp_path / f"copy{next(numbers)}"
        shutil.copytree(tmp_path / "killed", to)
        to.chmod(0o700)
        for name in without:
            (to / name).unlink()
        return to

    return copy


ALL = [f"m{n}" for n in range(230)]


def cut(file: Path, size: int) -> None:
    with file.open("r+b") as opened:
        opened.truncate(size)


def overwrite(file: Path, at: int, content: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(content)


def flip(file: Path, at: int) -> None:
    """Change a byte, whatever it is."""
    overwrite(file, at, bytes((file.read_bytes()[at] ^ 0xA5,)))


def test_a_killed_brokers_journal_is_taken_up(killed: Callable[..., Path]) -> None:
    """All that was confirmed is there, after the start that takes up the log and after the next."""
    folder = killed()
    assert ALL == taken_up(folder)
    assert ALL == taken_up(folder)
    assert not (folder / LOG).exists()


def test_a_log_that_is_cut_off_is_refused(killed: Callable[..., Path]) -> None:
    """Wherever the log is cut: all that was confirmed is there, or it is refused with what to do."""
    size = (killed() / LOG).stat().st_size
    used = read_mark(killed() / MAIN)
    assert used is not None
    last = 32 + used.frames * FRAME
    places = {0, 1, 16, 31, 32, 33, 40, 56, 57, 32 + 2000, 32 + FRAME - 1, 32 + FRAME, 32 + FRAME + 1}
    places |= {last - 1, last - 4096, last - FRAME, last - FRAME - 1, last, last + 1, size - 1}
    places |= {32 + n * FRAME for n in range(used.frames)}
    for place in sorted(p for p in places if p <= size):
        folder = killed()
        cut(folder / LOG, place)
        if place >= last:
            assert ALL == taken_up(folder), place
        else:
            assert "journal.sqlite3-wal" in refused(folder), place


def test_a_log_with_a_bad_byte_is_refused(killed: Callable[..., Path]) -> None:
    """A byte that the disk has changed, anywhere in the log that is needed, is found."""
    used = read_mark(killed() / MAIN)
    assert used is not None
    chance = random.Random(7)
    places = [
        0,
        4,
        10,
        17,
        25,
        33,
        41,
        49,
        *(chance.randrange(56, 32 + used.frames * FRAME) for _ in range(30)),
    ]
    for place in places:
        folder = killed()
        before = (folder / LOG).read_bytes()[place]
        overwrite(folder / LOG, place, bytes([before ^ 1]))
        assert "journal.sqlite3-wal" in refused(folder), place


def test_missing_files(killed: Callable[..., Path]) -> None:
    """Without its log, or with that alone, a journal is refused; without the mark it is checked."""
    assert "missing" in refused(killed(LOG))
    assert "its log" in refused(killed(LOG, MARK))
    assert "missing or empty" in refused(killed(MAIN))
    assert "missing or empty" in refused(killed(MAIN, LOG))
    folder = killed()
    cut(folder / MAIN, 0)
    assert "missing or empty" in refused(folder)
    folder = killed(MARK)
    store = Store(folder)
    assert ["journal.sqlite3 has a log and no journal.sqlite3-mark: it was checked in full"] == list(
        store.notes
    )
    store.close()
    assert ALL == taken_up(folder)


def test_a_journal_of_an_older_release(killed: Callable[..., Path]) -> None:
    """One that knows of no runs and was killed is taken up, checked once, and known from then on."""
    folder = killed(MARK, REDO)
    db = sqlite3.connect(folder / MAIN, isolation_level=None)
    db.execute("DELETE FROM meta WHERE name = 'session'")
    # What goes on as a reader keeps the log from being put into the file.
    reader = sqlite3.connect(f"file:{folder / MAIN}?mode=ro", uri=True)
    reader.execute("SELECT count(*) FROM meta").fetchone()
    db.close()
    reader.close()
    assert (folder / LOG).stat().st_size
    assert ALL == taken_up(folder)
    known = read_mark(folder / MAIN)
    assert known is not None
    assert known.closed


@pytest.mark.parametrize("content", [b"", b"\0" * 32768, b"\xff" * 40000, random.Random(1).randbytes(32768)])
def test_the_index_is_made_anew(killed: Callable[..., Path], content: bytes) -> None:
    """Whatever stands in the -shm file, all that was confirmed is taken up."""
    folder = killed()
    (folder / "journal.sqlite3-shm").write_bytes(content)
    assert ALL == taken_up(folder)


def test_a_mark_that_cannot_be_read(killed: Callable[..., Path]) -> None:
    """A garbled or empty mark counts as none."""
    for content in (b"", b"\xff" * 256, b"emq-compat 1 a - open full - 00 x 12345678\n", b"\n"):
        folder = killed()
        (folder / MARK).write_bytes(content)
        assert ALL == taken_up(folder)


def test_a_file_that_is_cut_off_is_refused(killed: Callable[..., Path], tmp_path: Path) -> None:
    """A journal's file that lacks pages is refused, with a log beside it or without."""
    whole = killed()
    Store(whole).close()
    size = (whole / MAIN).stat().st_size
    for place in (1, 99, 100, 512, 4095, 4096, 4097, 8192, size // 2, size - 4096, size - 1):
        for beside in (True, False):
            folder = killed() if beside else tmp_path / f"closed{place}"
            if not beside:
                shutil.copytree(whole, folder)
            if place >= (folder / MAIN).stat().st_size:
                continue
            cut(folder / MAIN, place)
            try:
                there = taken_up(folder)
            except JournalDamaged as error:
                told, there = str(error), None
            if there is None:
                assert "--salvage" in told
            else:
                # What the cut took is in the log.
                assert beside
                assert ALL == there, place


def test_files_of_different_times_are_refused(killed: Callable[..., Path], tmp_path: Path) -> None:
    """A backup, an older copy or another journal beside a log that isn't its own is refused."""
    with written(tmp_path / "other") as other:
        other.commit(5)
        backup = tmp_path / "backup"
        other.store.backup(backup)
        running = other.copy(tmp_path / "running")
    for foreign in (backup, running / MAIN, tmp_path / "other" / MAIN):
        folder = killed()
        shutil.copy(foreign, folder / MAIN)
        assert "journal.sqlite3" in refused(folder)
    folder = killed(LOG)
    shutil.copy(running / LOG, folder / LOG)
    refused(folder)
    # In order: the backup alone, and the backup in the place of a journal that was closed.
    for folder in (killed(*FILES), tmp_path / "other"):
        shutil.copy(backup, folder / MAIN)
        assert [f"m{n}" for n in range(5)] == taken_up(folder)


def test_an_older_log_is_refused(tmp_path: Path) -> None:
    """A log of an earlier generation is refused: it lacks what came after it."""
    with written(tmp_path / "a") as journal:
        journal.commit(5)
        old = journal.copy(tmp_path / "old")
        journal.store._db.execute("PRAGMA wal_checkpoint(RESTART)")
        journal.commit(5)
        new = journal.copy(tmp_path / "new")
    shutil.copy(old / LOG, new / LOG)
    assert "older one" in refused(new)


def test_a_redo_log_that_lacks_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut, missing, an older one or with a bad byte: all that was confirmed is there, or it is refused."""
    monkeypatch.setattr("emq_compat.broker.mark.EVERY_S", 0.0)
    with written(tmp_path / "a", folds=False) as journal:
        journal.commit(3)
        older = journal.copy(tmp_path / "older")
        journal.store.fold()
        for _ in range(6):
            journal.commit(2)
        whole, confirmed = journal.copy(tmp_path / "whole"), list(journal.confirmed)
    used = read_mark(whole / MAIN)
    assert used is not None
    assert 0 < used.redo < 10_000
    copies = iter(range(1000))

    def damaged(damage: Callable[[Path], object]) -> None:
        copy = tmp_path / f"copy{next(copies)}"
        shutil.copytree(whole, copy)
        damage(copy / REDO)
        assert "journal.redo" in refused(copy)

    for size in (0, 1, 30, used.redo // 2, used.redo - 1):
        damaged(lambda file, size=size: cut(file, size))  # type: ignore[misc]
    for at in (0, 3, 5, 9, 40, used.redo // 2, used.redo - 1):
        damaged(lambda file, at=at: flip(file, at))  # type: ignore[misc]
    damaged(Path.unlink)
    damaged(lambda file: shutil.copy(older / REDO, file))
    copy = tmp_path / "behind"
    shutil.copytree(whole, copy)
    overwrite(copy / REDO, used.redo, b"\xa5" * 100)
    assert confirmed == taken_up(copy)


def test_copies_made_while_it_is_written(tmp_path: Path) -> None:
    """Files copied one by one under writes are taken up with all that was confirmed at first, or refused."""
    came: set[bool] = set()
    for round_ in range(6):
        chance = random.Random(round_)
        with written(tmp_path / f"a{round_}") as journal:
            journal.store._db.execute("PRAGMA wal_autocheckpoint = 20")
            journal.commit(20, b"x" * 3000)
            first, to = list(journal.confirmed), tmp_path / f"copy{round_}"
            to.mkdir(mode=0o700)
            for name in chance.sample(FILES, 3) if round_ % 3 else FILES:
                journal.copy(to / "one", (name,))
                if (to / "one" / name).exists():
                    (to / "one" / name).rename(to / name)
                (to / "one").rmdir()
                for _ in range(chance.randrange(6)):
                    journal.commit(chance.randrange(1, 8), b"y" * 2000)
        try:
            there = taken_up(to)
        except JournalDamaged as error:
            told, there = str(error), None
        if there is None:
            assert "--salvage" in told
            came.add(False)
        else:
            came.add(True)
            assert first == there[: len(first)]
            assert [f"m{n}" for n in range(len(there))] == there
    assert {True, False} == came


def test_a_power_cut_without_fsync_is_not_refused(killed: Callable[..., Path], tmp_path: Path) -> None:
    """With durability normal a shorter log is taken up after a power cut, and said."""
    with written(tmp_path / "a", "normal") as journal:
        for _ in range(5):
            journal.commit(2)
        killed_ = journal.copy(tmp_path / "killed_normal")
    said = read_mark(killed_ / MAIN)
    assert said is not None
    cut(killed_ / LOG, 32 + said.frames * FRAME - 100)
    assert "cut off" in refused(killed_)
    (killed_ / MARK).write_bytes(replace(said, boot="another").encode())
    store = Store(killed_)
    assert "power cut" in store.notes[0]
    store.close()


def test_damage_inside_is_refused_or_ends_the_broker(killed: Callable[..., Path], tmp_path: Path) -> None:
    """Pages of garbage: reading or writing them is an error that names --check and --salvage."""
    folder = killed()
    Store(folder).close()
    pages = (folder / MAIN).stat().st_size // 4096
    for page in range(2, pages):
        copy = tmp_path / f"page{page}"
        shutil.copytree(folder, copy)
        overwrite(copy / MAIN, page * 4096, b"\x17" * 4096)
        try:
            there = taken_up(copy)
        except JournalDamaged as error:
            told, there = str(error), None
        assert "--salvage" in told if there is None else ALL == there


def test_another_program_has_put_the_log_into_the_journal(killed: Callable[..., Path]) -> None:
    """SQLite's shell after a kill takes the log away: refused, and said."""
    folder = killed()
    db = sqlite3.connect(folder / MAIN)
    db.execute("SELECT count(*) FROM messages").fetchone()
    db.close()
    assert not (folder / LOG).exists()
    assert "SQLite's shell" in refused(folder)


def test_a_broker_on_a_damaged_journal(killed: Callable[..., Path], broker: Broker) -> None:
    """It doesn't start, or ends where it meets the damage, with a sentence that says what to do."""
    broker.data = killed(LOG)
    proc = broker.start(ready=None)
    assert 1 == proc.wait(30)
    assert "--salvage" in proc.output()
    assert "Traceback" not in proc.output()
    broker.data = killed()
    Store(broker.data).close()
    file = broker.data / MAIN
    content = file.read_bytes()
    pages = [n for n in range(len(content) // 4096) if content[n * 4096] == 0x0D]
    [page] = [n for n in pages if b"m150id:m150" in content[n * 4096 : (n + 1) * 4096]]
    overwrite(file, page * 4096, b"\x17" * 4096)
    proc = broker.start()
    with pytest.raises(OperationalError):
        broker.client.ask("browse", queue="q", limit=1000)
    assert 1 == proc.wait(30)
    assert "--salvage" in proc.output()
    assert "Traceback" not in proc.output()
