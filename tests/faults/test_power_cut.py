"""Power cuts at any moment: what was confirmed with durability full is there, and nobody is asked."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.journals import FILES, taken_up, written
from tests.faults.power import SECTOR, cut, steps_of

pytestmark = pytest.mark.faults

REPOSITORY = Path(__file__).parents[2]
STRACE = shutil.which("strace")
_TRACED = "openat,pwrite64,pwritev2,write,fsync,fdatasync,ftruncate,unlink"

#: Three runs of a broker's store, each with commits, checkpoints and a redo log that grows and is cut.
LOAD = """
import os, random, sys
from pathlib import Path
from tests.faults.journals import Written
chance, n = random.Random(int(sys.argv[2])), 0
for run in range(3):
    journal = Written(Path(sys.argv[1]), first=n, folds=False)
    journal.store._db.execute("PRAGMA wal_autocheckpoint = 30")
    for _ in range(int(sys.argv[3])):
        journal.commit(chance.randrange(1, 6), b"x" * chance.choice((10, 300, 5000, 70_000, 99_000)))
        os.write(1, b"%d\\n" % journal.total)
        if chance.random() < 0.3:
            journal.store.fold()
            if chance.random() < 0.5:
                journal.store.shrink()
    n = journal.total
    journal.store.close()
"""


def sectors(before: bytes, after: bytes, chance: random.Random) -> bytes:
    """A file of which some sectors are those of after, the others those of before."""
    parts = []
    # A log that begins anew has its head on disk before anything else.
    new = before[:32] != after[:32]
    for start in range(0, max(len(before), len(after)), SECTOR):
        end = start + SECTOR
        whose = after if new and not start else chance.choice((before, after))
        parts.append(whose[start:end].ljust(min(SECTOR, max(len(before), len(after)) - start), b"\0"))
    return b"".join(parts)


def test_sectors_of_a_commit(tmp_path: Path) -> None:
    """A commit of which any sectors are missing, in the log or in the file, is none or whole."""
    chance = random.Random(3)
    with written(tmp_path / "a") as journal:
        journal.store._db.execute("PRAGMA wal_autocheckpoint = 12")
        for round_ in range(12):
            before = journal.copy(tmp_path / f"before{round_}")
            confirmed = len(journal.confirmed)
            journal.commit(chance.randrange(1, 9), b"x" * chance.choice((10, 2000)))
            after = journal.copy(tmp_path / f"after{round_}")
            to = tmp_path / f"cut{round_}"
            # The log is on disk before anything is put into the file.
            whole, torn = chance.choice(((before, "journal.sqlite3-wal"), (after, "journal.sqlite3")))
            shutil.copytree(whole, to)
            to.chmod(0o700)
            contents = [(folder / torn).read_bytes() for folder in (before, after)]
            (to / torn).write_bytes(sectors(*contents, chance))
            if chance.random() < 0.5:
                shutil.copy(before / FILES[2], to / FILES[2])
            there = taken_up(to)
            assert len(there) in (confirmed, len(journal.confirmed))
            if whole == after:
                assert there == journal.confirmed


def replay(tmp_path: Path, commits: int, cuts: int, seed: int) -> None:
    """Record what a store writes, cut it off at many places, and have each taken up."""
    assert STRACE is not None
    data, log = tmp_path / "data", tmp_path / "strace"
    command = [STRACE, "-f", "-x", "-y", "-s", "100000", "-e", f"trace={_TRACED}", "-o", str(log)]
    load = [sys.executable, "-c", LOAD, str(data), str(seed), str(commits)]
    done = subprocess.run(command + load, cwd=REPOSITORY, capture_output=True, check=False)
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("no process may be traced here")
    assert 0 == done.returncode, done.stderr.decode()
    steps = steps_of(log.read_text("latin-1"), data)
    first = next(n for n, step in enumerate(steps) if step.what == "say")
    chance = random.Random(seed)
    for n in range(cuts):
        at = chance.randrange(first, len(steps) + 1)
        to = tmp_path / f"cut{n}"
        said = cut(steps, at, data, to, chance)
        there = taken_up(to)
        assert [f"m{i}" for i in range(len(there))] == there, at
        confirmed = max(said, default=0)
        assert len(there) >= confirmed, f"{confirmed} were confirmed before step {at}, {len(there)} are there"
        shutil.rmtree(to)


@pytest.mark.skipif(STRACE is None, reason="strace isn't installed")
def test_recorded_writes_cut_anywhere(tmp_path: Path) -> None:
    """20 cuts of what strace has seen a store write and fsync."""
    replay(tmp_path, commits=8, cuts=20, seed=1)


@pytest.mark.long
@pytest.mark.skipif(STRACE is None, reason="strace isn't installed")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 7))
def test_recorded_writes_cut_anywhere_often(seed: int, tmp_path: Path) -> None:
    """The same, five loads with 400 cuts each."""
    replay(tmp_path, commits=60, cuts=400, seed=seed)
