"""How far something is that takes long: a bar on the terminal, while there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["progress"]

#: What is done before anybody could read a bar needs none.
_MANY = 1000


@contextmanager
def progress(label: str, total: int, many: int = _MANY) -> Iterator[Callable[[int], None]]:
    """Show how much of ``total`` is done; what it yields is called with how many more are.

    Nothing is shown where standard error is no terminal, or ``total`` is less than ``many``.
    """
    if total < many or not sys.stderr.isatty():
        yield lambda more: None
        return
    with click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True) as bar:
        yield bar.update
