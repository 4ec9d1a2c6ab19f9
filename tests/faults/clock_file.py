"""A clock in a file: how many seconds it is ahead of the machine's. A test's broker and beats read it."""

from __future__ import annotations

import os
import time
from datetime import datetime, timezone
from pathlib import Path


class ClockFile:
    """The clock of a file; put to and fro by whoever writes it, at once for all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def put(self, ahead_s: float) -> None:
        """Put it there; nobody sees half of it."""
        new = self.path.with_suffix(".new")
        new.write_text(repr(ahead_s))
        os.replace(new, self.path)

    def unix(self) -> float:
        """What it shows, in unix seconds."""
        return time.time() + float(self.path.read_text())

    def now(self) -> datetime:
        """What it shows."""
        return datetime.fromtimestamp(self.unix(), timezone.utc)
