"""Patterns of node names, by kombu's matchers: ``glob``, and ``pcre``, which is Python's ``re`` here.

Who may ask workers may send a pattern, which is matched in the loop of a broker or worker. ``re`` tries one
way to match after the other, and patterns of a few characters have more of them than can ever be tried. So
those are counted before: a pattern with too many is refused.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from emq_compat.errors import MessageError

__all__ = ["matches"]

_LONGEST_PATTERN: Final = 200
_LONGEST_NAME: Final = 200
#: A few tenths of a second.
_MOST_WAYS: Final = 10_000_000


def matches(node: str, pattern: str, matcher: str) -> bool:
    """Tell whether a node's name matches.

    Raises:
        MessageError: there is no such matcher, the pattern is none, or too long, or it could be matched in
            so many ways that trying them might not end.
    """
    match = _MATCHERS.get(matcher)
    if match is None:
        raise MessageError(f"the matcher {matcher!r} is unknown; known: {', '.join(_MATCHERS)}")
    if len(pattern) > _LONGEST_PATTERN:
        raise MessageError(f"a pattern has at most {_LONGEST_PATTERN} characters, this one {len(pattern)}")
    return match(node[:_LONGEST_NAME], pattern)


def _pcre(node: str, pattern: str) -> bool:
    return _compiled(pattern).match(node) is not None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
        ways = _ways(_parse(pattern))
    except (re.error, OverflowError, RecursionError) as exc:
        raise MessageError(f"{pattern!r} is no pattern: {exc}") from exc
    if ways > _MOST_WAYS:
        raise MessageError(
            f"{pattern!r} could match in too many ways: repeat characters, not groups, and at most three"
        )
    return compiled


def _parse(pattern: str) -> Any:
    """Return what ``re`` makes of a pattern before it compiles it: (operator, argument) in their order."""
    return _PARSER.parse(pattern)


def _parser() -> Any:
    try:
        return importlib.import_module("re._parser")
    except ModuleNotFoundError:  # Python 3.10
        return importlib.import_module("sre_parse")


_PARSER: Final = _parser()


def _ways(items: Iterable[tuple[Any, Any]]) -> int:
    """Return an upper bound of how many ways there are to match these, one after the other."""
    ways = 1
    for operator, argument in items:
        ways = min(ways * _ways_of(str(operator), argument), _MOST_WAYS + 1)
    return ways


def _ways_of(operator: str, argument: Any) -> int:
    if operator == "BRANCH":
        return sum(map(_ways, argument[1]))
    if operator.endswith("_REPEAT"):  # MAX, MIN, POSSESSIVE
        least, most, repeated = argument
        least, most = (min(int(count), _LONGEST_NAME) for count in (least, most))
        return _ways_repeated(least, most, _ways(repeated))
    if operator.startswith("GROUPREF_"):  # a conditional
        return sum(_ways(branch) for branch in argument[1:] if branch is not None)
    parts = argument if isinstance(argument, tuple) else (argument,)
    ways = 1
    for part in parts:  # of groups and assertions: what is in them
        if isinstance(part, _PARSER.SubPattern):
            ways *= _ways(part)
    return ways


def _ways_repeated(least: int, most: int, ways: int) -> int:
    if ways == 1:
        return most - least + 1
    total, power = 0, ways**least
    for _ in range(least, most + 1):
        total += power
        power *= ways
        if total > _MOST_WAYS:
            break
    return total


#: Name → whether a node's name matches a pattern.
_MATCHERS: Final[dict[str, Callable[[str, str], bool]]] = {"glob": fnmatch.fnmatch, "pcre": _pcre}
