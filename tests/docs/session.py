"""What a document tells its reader to save and to type, done as it stands there.

A Python block whose first line is a comment with a file's name is saved. In a block ``console`` each line
that begins with ``$`` is typed, and the lines below it are what is then seen (``...`` stands for any text).
A comment in front of a block says what a reader does besides: ``<!-- background: TEXT -->``, the command
goes on in another terminal, and is awaited until it has said TEXT; ``<!-- kill: COMMAND -->``, the block is
done to what was started by this command, whose number stands in for ``PID``.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Save", "Type", "fits", "steps"]

_COMMENT = r"<!-- (?P<how>\w+): (?P<what>.*?) -->\n"
_BLOCK = re.compile(rf"(?:{_COMMENT})?```(?P<kind>python|console)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """A file that is saved."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Type:
    """A command that is typed.

    Attributes:
        seen: what is then in the terminal; empty: nobody looks.
        background: what is awaited in another terminal; empty: it is this one, until it has ended.
        kill: the command whose process ``PID`` is; empty: none.
    """

    command: str
    seen: str = ""
    background: str = ""
    kill: str = ""


def steps(document: Path) -> Iterator[Save | Type]:
    """Yield what a document's reader does, in its order."""
    for block in _BLOCK.finditer(document.read_text()):
        text = block["text"]
        if block["kind"] == "python":
            named = re.match(r"# ([\w/]+\.py)\n", text)
            if named:
                yield Save(name=named[1], text=text)
            continue
        for typed in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.M):
            how, what = block["how"], block["what"] or ""
            yield Type(
                command=typed[1],
                seen=typed[2],
                background=what if how == "background" else "",
                kill=what if how == "kill" else "",
            )


def fits(wanted: str, seen: str) -> bool:
    """Return whether this was seen, where ``...`` stands for any text."""
    return doctest.OutputChecker().check_output(wanted, seen, doctest.ELLIPSIS)
