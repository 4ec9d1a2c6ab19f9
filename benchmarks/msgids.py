"""How fast the journal's unique index takes ids, in inserts a second, sorted by time (ours) and random ones.

The figure decides which UUIDs are used: docs/decisions/05-message-ids.md.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from emq_compat.message import new_id

BATCH = 256
BLOCKS = 10
COUNT = 300_000


def rates(make: Callable[[], str], count: int, folder: Path) -> list[float]:
    """Insert ``count`` rows; return the rate of each tenth of them."""
    db = sqlite3.connect(folder / "journal", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE messages (key INTEGER PRIMARY KEY, msgid TEXT NOT NULL UNIQUE, payload BLOB)")
    found, key = [], 0
    for _ in range(BLOCKS):
        ids = [make() for _ in range(count // BLOCKS)]
        began = time.perf_counter()
        for i in range(0, len(ids), BATCH):
            rows = [(key + i + n, msgid, b"x" * 280) for n, msgid in enumerate(ids[i : i + BATCH])]
            db.execute("BEGIN")
            db.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)
            db.execute("COMMIT")
        key += len(ids)
        found.append(len(ids) / (time.perf_counter() - began))
    db.close()
    return found


def main(count: int) -> None:
    """Print the first and the last tenth's rate of both."""
    for name, make in (("version 7 (sorted)", new_id), ("version 4 (random)", lambda: str(uuid.uuid4()))):
        with tempfile.TemporaryDirectory() as folder:
            found = rates(make, count, Path(folder))
        print(f"{name}: first {count // BLOCKS:,} {found[0]:,.0f}/s, up to {count:,} {found[-1]:,.0f}/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
