"""The fields of a crontab: text to numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from emq_compat.shim.surface.times import weekday, yearmonth

__all__ = ["ParseException", "crontab_parser"]

#: A field of a crontab: a number, an expression, or the numbers themselves.
Cronspec = int | str | Iterable[int]


class ParseException(Exception):
    """A field of a crontab can't be read."""


class crontab_parser:  # noqa: N801 - Celery's name
    """Reads one field: ``*``, ``*/5``, ``3``, ``2-10``, ``22-4``, ``8-17/2``, ``mon-fri``, joined by commas.

    Args:
        max_: how many values there are.
        min_: the least of them.
    """

    ParseException = ParseException
    _PART = re.compile(r"(?P<star>\*)|(?P<first>\w+?)(?:-(?P<last>\w+))?")

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """Return the values that a field names.

        Raises:
            ParseException: it can't be read.
            ValueError: a value is out of range, or no name of a day or month.
        """
        values: set[int] = set()
        for part in spec.split(","):
            values.update(self._part(part.strip()))
        return values

    def _part(self, part: str) -> list[int]:
        if not part:
            raise self.ParseException("empty part")
        if part.startswith("-"):
            raise self.ParseException("negative numbers not supported")
        numbers, slash, step = part.partition("/")
        if slash and not step:
            raise self.ParseException("empty filter")
        found = self._PART.fullmatch(numbers)
        if found is None or (slash and not (step.isdecimal() and int(step))):
            raise self.ParseException(f"{part!r} is no field of a crontab")
        if found["star"]:
            values = list(range(self.min_, self.min_ + self.max_))
        elif found["last"] is None:
            values = [self._number(found["first"])]
        else:
            values = self._range(self._number(found["first"]), self._number(found["last"]))
        return values[:: int(step)] if slash else values

    def _range(self, first: int, last: int) -> list[int]:
        if last >= first:
            return list(range(first, last + 1))
        return [*range(first, self.min_ + self.max_), *range(self.min_, last + 1)]

    def _number(self, text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = self._named(text)
        highest = self.min_ + self.max_ - 1
        if number > highest:
            raise ValueError(f"Invalid end range: {number} > {highest}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number

    @staticmethod
    def _named(text: str) -> int:
        for numbers in (yearmonth, weekday):
            try:
                return numbers(text)
            except KeyError:
                continue
        raise ValueError(f"Invalid weekday literal {text!r}.")
