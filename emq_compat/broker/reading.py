"""Reading what can be read of a damaged table: up to the damage, and on behind it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Gap", "Table"]

#: A row's primary key.
Key: TypeAlias = "tuple[Any, ...]"

#: Keys are looked for among the numbers below it; texts by their first characters.
_MOST = 1 << 63
_CHARACTERS = 16
_FIRST, _LETTERS = 0x20, 0x5F


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Rows that can't be read: those between two keys, or the one with the key ``row``.

    Attributes:
        after, before: keys that can be read; None: there is none.
    """

    why: str
    after: Key | None = None
    before: Key | None = None
    row: Key | None = None

    def __str__(self) -> str:
        if self.row is not None:
            return f"row {_shown(self.row)}: {self.why}"
        after = "the first" if self.after is None else f"the one behind {_shown(self.after)}"
        before = "the last" if self.before is None else f"the one before {_shown(self.before)}"
        return f"rows from {after} to {before}: {self.why}"


def _shown(key: Key) -> str:
    return " ".join(map(str, key))


class Table:
    """A table of which pages may be damaged.

    Args:
        key: the columns of its primary key; the first is of whole numbers, or of texts.
        columns: what is read.
        gap: called with each gap.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        name: str,
        key: Sequence[str],
        columns: Sequence[str],
        gap: Callable[[Gap], None],
    ) -> None:
        self._db = db
        self._gap = gap
        self._width = len(key)
        self._key, self._first = ", ".join(key), key[0]
        self._places = ", ".join("?" * len(key))
        self._whole = f"SELECT {self._key}, {', '.join(columns)} FROM {name}"
        self._keys = f"SELECT {self._key} FROM {name}"

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield all rows that can be read, each once and without its key."""
        last: Key | None = None
        while True:
            try:
                for row in self._behind(self._whole, last):
                    last = row[: self._width]
                    yield row[self._width :]
            except sqlite3.DatabaseError as exc:
                why = str(exc)
            else:
                return
            if (spoilt := self._next_key(last)) is not None:
                self._gap(Gap(row=spoilt, why=why))
                last = spoilt
                continue
            found = self._beyond(last)
            self._gap(Gap(after=last, before=found[0][: self._width] if found else None, why=why))
            if not found:
                return
            for row in found:
                last = row[: self._width]
                yield row[self._width :]

    def _behind(self, select: str, key: Key | None) -> sqlite3.Cursor:
        where = "" if key is None else f" WHERE ({self._key}) > ({self._places})"
        return self._db.execute(f"{select}{where} ORDER BY {self._key}", key or ())

    def _next_key(self, after: Key | None) -> Key | None:
        """Return the key of the next row, where that can be read though the row can't."""
        try:
            row: Key | None = self._behind(self._keys, after).fetchone()
        except sqlite3.DatabaseError:
            return None
        return row

    def _beyond(self, after: Key | None) -> list[tuple[Any, ...]]:
        """Return the first rows behind a gap that begins behind this key."""
        text = isinstance(self._any_key(after), str)
        most = (_LETTERS + 1) ** _CHARACTERS if text else _MOST
        low = -1 if after is None else _number(after[0])
        # The last pages may be damaged, too: look ever farther.
        steps = (low + (1 << n) for n in range(most.bit_length()))
        high = next((at for at in steps if at < most and self._readable_from(at, text)), None)
        if high is None:
            return []
        low = max(low, low + (high - low) // 2 - 1)
        while high - low > 1:
            middle = (low + high) // 2
            if self._readable_from(middle, text):
                high = middle
            else:
                low = middle
        rows = []
        try:
            # Those just behind the gap whose texts begin alike.
            query = f"{self._whole} WHERE {self._first} < ? ORDER BY {self._key.replace(',', ' DESC,')} DESC"
            for row in self._db.execute(query, (_value(high, text),)):
                if after is not None and row[: self._width] <= after:
                    break
                rows.append(row)
        except sqlite3.DatabaseError:
            pass
        rows.reverse()
        try:
            query = f"{self._whole} WHERE {self._first} >= ? ORDER BY {self._key} LIMIT 1"
            rows += self._db.execute(query, (_value(high, text),)).fetchall()
        except sqlite3.DatabaseError:
            pass
        return rows

    def _any_key(self, after: Key | None) -> Any:
        """Return some key's first column, to know of what kind they are."""
        if after is not None:
            return after[0]
        try:
            row = self._db.execute(
                f"{self._keys} ORDER BY {self._key.replace(',', ' DESC,')} DESC"
            ).fetchone()
        except sqlite3.DatabaseError:
            return 0
        return row[0] if row else 0

    def _readable_from(self, number: int, text: bool) -> bool:
        """Whether the first row with such a key or a larger one, if there is any, can be found."""
        query = f"{self._keys} WHERE {self._first} >= ? ORDER BY {self._key} LIMIT 1"
        try:
            self._db.execute(query, (_value(number, text),)).fetchone()
        except sqlite3.DatabaseError:
            return False
        return True


def _number(value: Any) -> int:
    """Return where a key stands among all of its kind."""
    if not isinstance(value, str):
        return int(value)
    number = 0
    for character in value[:_CHARACTERS].ljust(_CHARACTERS, "\0"):
        number = number * (_LETTERS + 1) + min(_LETTERS, max(0, ord(character) - _FIRST + 1))
    return number


def _value(number: int, text: bool) -> Any:
    """Return the key that stands there."""
    if not text:
        return number
    characters = ""
    for _ in range(_CHARACTERS):
        number, digit = divmod(number, _LETTERS + 1)
        characters = (chr(digit + _FIRST - 1) if digit else "\0") + characters
    return characters.rstrip("\0")
