"""A terminal that curses has, and that is in order again afterwards; with or without colours."""

from __future__ import annotations

import curses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from emq_compat.errors import ConfigurationError

__all__ = ["coloured", "taken_over"]


@contextmanager
def taken_over(instead: str) -> Iterator[Any]:
    """Take the terminal over within the block; gives its window.

    ``instead``: what to do where it can't be had, for the error.

    Raises:
        ConfigurationError: it is a terminal that curses doesn't know.
    """
    try:
        # What curses.initscr asks would end the process if it failed.
        curses.setupterm()
    except curses.error as exc:
        term = os.environ.get("TERM", "")
        raise ConfigurationError(f"this terminal (TERM={term}) can't be used: {exc}; {instead}") from exc
    # Not curses.wrapper: it asks for colours, white on black, also where none are wanted.
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        window.keypad(True)
        yield window
    finally:
        window.keypad(False)
        curses.nocbreak()
        curses.echo()
        curses.endwin()


def coloured(colours: Mapping[str, int], *, wanted: bool) -> dict[str, int]:
    """Return each name's attribute, given its colour; nothing where none are wanted or to be had.

    Only where colours are wanted the terminal is asked for any.
    """
    if not wanted or not curses.has_colors():
        return {}
    curses.start_color()
    background = -1  # the terminal's own
    try:
        curses.use_default_colors()
    except curses.error:
        background = curses.COLOR_BLACK
    attributes = {}
    for number, (name, colour) in enumerate(colours.items(), 1):
        curses.init_pair(number, colour, background)
        attributes[name] = curses.color_pair(number)
    return attributes
