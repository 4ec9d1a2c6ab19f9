"""Files that processes append to, a JSON object a line: one system call each, so a kill tears none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Ledger", "read"]

Line = dict[str, Any]


class Ledger:
    """A ledger that this process writes.

    Args:
        durable: each line is on the disk when ``write`` returns.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._durable = durable

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line."""
        os.write(self._fd, json.dumps(line, separators=(",", ":")).encode() + b"\n")
        if self._durable:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read(path: Path) -> list[Line]:
    """The lines of a ledger; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
