"""``celery.utils.text``."""

from __future__ import annotations

import pprint
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "abbr",
    "abbrtask",
    "dedent",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "pluralize",
    "pretty",
    "simple_format",
    "str_to_list",
    "truncate",
]


def str_to_list(s: Any) -> Any:
    """Return the names in a text that joins them by commas; anything else as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent(s: str, sep: str = "\n") -> str:
    """Return a text without its common indentation, ending in an empty line."""
    return ensure_sep(sep, textwrap.dedent(s))


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Return a text with each of its lines wrapped."""
    return sep.join(textwrap.fill(line, width) for line in s.split(sep))


def join(l: list[str], sep: str = "\n") -> str:  # noqa: E741 - Celery's name
    """Return the texts that aren't empty, joined."""
    return sep.join(text for text in l if text)


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """Return a text that ends in ``n`` separators at least."""
    return s + sep * (n - s.count(sep))


ensure_newlines = ensure_sep


def abbr(S: str, max: int, ellipsis: str | bool = "...") -> str:  # noqa: A002, N803 - Celery's names
    """Return a text cut to ``max`` characters, the ellipsis included."""
    if not S or len(S) <= max:
        return S or "???"
    return S[: max - len(str(ellipsis))] + str(ellipsis) if ellipsis else S[:max]


def abbrtask(S: str, max: int) -> str:  # noqa: A002, N803 - Celery's names
    """Return the name of a task cut in its module."""
    if not S or len(S) <= max:
        return S or "???"
    module, _, name = S.rpartition(".")
    return f"{abbr(module, max - len(name), False)}[.]{name}"


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Return a text with each of its lines moved to the right."""
    return sep.join(" " * indent + line for line in t.split(sep))


def truncate(s: str, maxlen: int = 128, suffix: str = "...") -> str:
    """Return a text cut after a word, with the suffix, where it is longer than ``maxlen``."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """Return a word in the plural where ``n`` isn't one."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """Return a value laid out for readers."""
    if isinstance(value, dict):
        return f"{{{sep} {pprint.pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}{' ' * 4}{pprint.pformat(value, width=nl_width, **kw)}"
    return pprint.pformat(value, width=width, **kw)


def simple_format(
    s: Any, keys: Mapping[str, Any], pattern: re.Pattern[str] = re.compile(r"%(\w|%)"), expand: str = r"\1"
) -> Any:
    """Replace ``%x`` by what ``keys`` has for ``x``: a text, or a function that returns it.

    Raises:
        ValueError: ``keys`` has no ``x``.
    """
    if not s:
        return s
    known: dict[str, Any] = {"%": "%", **keys}

    def replaced(found: re.Match[str]) -> str:
        name = found.expand(expand)
        try:
            value: str | Callable[[], str] = known[name]
        except KeyError:
            raise ValueError(f"Unknown format %{name} in string {s!r}") from None
        return str(value() if callable(value) else value)

    return pattern.sub(replaced, s)
