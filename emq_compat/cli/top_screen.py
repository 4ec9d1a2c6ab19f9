"""The screen of `emq-compat top`: the terminal, and its keys."""

from __future__ import annotations

import curses
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from emq_compat.cli.top_lines import Line
from emq_compat.curses_terminal import coloured, taken_over

__all__ = ["show"]

#: How long a key is waited for between two drawings; only what has changed is sent to the terminal.
_EVERY_MS = 200
_COLOURS = {"ok": curses.COLOR_GREEN, "warn": curses.COLOR_YELLOW, "bad": curses.COLOR_RED}
_STYLES = {
    "title": curses.A_DIM,
    "head": curses.A_BOLD | curses.A_UNDERLINE,
    "ok": curses.A_BOLD,
    "warn": curses.A_BOLD,
    "bad": curses.A_BOLD,
}


def show(
    lines: Callable[[int, int], Sequence[Line]], keys: dict[str, Callable[[], object]], *, colours: bool
) -> None:
    """Show lines on this terminal until ``q`` or Ctrl-C.

    Args:
        lines: width, height → what is drawn; an exception of it ends the screen.
        keys: further keys, and what they do.
        colours: whether colours are wanted.

    Raises:
        ConfigurationError: it is a terminal that curses doesn't know.
    """
    with suppress(KeyboardInterrupt), taken_over("--once prints text") as window:
        _run(window, lines, keys, colours)


def _run(
    window: Any,
    lines: Callable[[int, int], Sequence[Line]],
    keys: dict[str, Callable[[], object]],
    colours: bool,
) -> None:
    with suppress(curses.error):  # not every terminal can hide it
        curses.curs_set(0)
    window.timeout(_EVERY_MS)
    styles = dict(_STYLES)
    for level, colour in coloured(_COLOURS, wanted=colours).items():
        styles[level] |= colour
    while True:
        height, width = window.getmaxyx()
        window.erase()
        # Nothing stands in the last column: writing into the last cell of all would be an error.
        for at, line in enumerate(lines(max(1, width - 1), height)):
            text = line.text.encode(window.encoding, "replace").decode(window.encoding)
            with suppress(curses.error):  # the terminal has become smaller
                window.addstr(at, 0, text, styles.get(line.shown, curses.A_NORMAL))
        window.refresh()
        try:
            key = window.getkey()
        except curses.error:  # none
            continue
        if key in ("q", "Q"):
            return
        if key == "KEY_RESIZE":
            window.clear()  # who knows what the terminal has made of the old lines
        if action := keys.get(key):
            action()
