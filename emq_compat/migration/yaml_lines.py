"""What of a command line stands below its first line: in YAML, and in lists over several lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["arguments", "list_words", "yaml_words"]

#: A line that goes on with options.
_OPTIONS: Final = re.compile(r"""^\s*(?:-\s+)?["']?(--?[A-Za-z][^#]*?)["']?,?\s*$""")
_LIST_WORD: Final = re.compile(r"""^\s*-\s+["']?([^"'#]*?)["']?\s*$""")
#: `key:` with what stands behind it; `- ` before it belongs to the indentation.
_KEY: Final = re.compile(
    r"""^(?P<indent>\s*(?:-\s+)*)(?:"[^"]*"|'[^']*'|[\w.\-]+)\s*:(?:\s+(?P<value>.*)|\s*)$"""
)
_FOLDED: Final = re.compile(r">[+\-]?\d?[+\-]?\s*(?:#.*)?")
_QUOTED: Final = re.compile(r"""["']([^"']*)["']""")


def list_words(lines: Sequence[str], start: int, rest: str) -> tuple[int, str]:
    """Return what follows in a list in brackets that isn't closed yet: ``["celery",`` …

    Args:
        lines: the file's.
        start: the index of the line below.
        rest: what stands behind the program's name, its closing quote first.

    Returns: the index of the line behind the list, and all of the list's rest.
    """
    number = start
    while "]" not in _QUOTED.sub("", rest[1:]) and number < len(lines):
        rest += " " + lines[number].strip()
        number += 1
    return number, rest


def yaml_words(lines: Sequence[str], first: int, start: int) -> tuple[int, str]:
    """Return what goes on in the lines below: a folded text, a plain one, or a list of words.

    Args:
        lines: the file's.
        first: the index of the line in which the command line begins.
        start: the index of the first line that may go on with it.

    Returns: the index of the line behind, and the words.
    """
    list_of_words = _LIST_WORD.match(lines[first]) is not None
    above = _within(lines, first)
    words: list[str] = []
    number = start
    while number < len(lines):
        line = lines[number]
        match = _LIST_WORD.match(line) if list_of_words else _OPTIONS.match(line)
        if match is not None:
            if list_of_words and ":" in match[1] and " " in match[1]:
                break
            words.append(match[1].rstrip("\\"))
        elif above is not None and _is_text(line) and _indent(line) > above:
            words.append(line.strip().rstrip("\\"))
        else:
            break
        number += 1
    return number, " ".join(words)


def arguments(lines: Sequence[str], start: int) -> tuple[int, str]:
    """Return the words of the ``args:`` that may stand below a ``command:`` which only names the program."""
    key = _KEY.match(lines[start]) if start < len(lines) else None
    if key is None or not lines[start].strip().startswith("args:"):
        return start, ""
    value = key["value"] or ""
    if value.startswith("["):
        number, listed = list_words(lines, start + 1, "," + value[1:])
        return number, " ".join(_QUOTED.findall(listed))
    words: list[str] = []
    number = start + 1
    while number < len(lines) and (match := _LIST_WORD.match(lines[number])) is not None:
        words.append(match[1])
        number += 1
    return number, " ".join(words)


def _within(lines: Sequence[str], first: int) -> int | None:
    """Return the column that lines which go on with a text stand behind; None: only options go on."""
    key = _KEY.match(lines[first])
    if key is not None:
        return len(key["indent"])
    for line in reversed(lines[:first]):
        if line.strip() and _indent(line) < _indent(lines[first]):
            above = _KEY.match(line)
            folded = above is not None and _FOLDED.fullmatch(above["value"] or "") is not None
            return len(above["indent"]) if folded and above is not None else None
    return None


def _is_text(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
