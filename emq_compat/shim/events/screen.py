"""A cluster's tasks and workers on a terminal, kept up to date (``celery.events.cursesmon``)."""

from __future__ import annotations

import curses
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from emq_compat.curses_terminal import coloured, taken_over
from emq_compat.shim import current, states
from emq_compat.shim.surface.text import abbr, abbrtask
from emq_compat.table import cut, padded, printable

if TYPE_CHECKING:
    from emq_compat.shim.events.records import Task
    from emq_compat.shim.events.state import State

__all__ = ["CursesMonitor", "evtop"]

_EVERY_MS = 250
#: Lines around the tasks: head, columns, line, selection, workers, counts, keys.
_AROUND = 8
_UUID, _TIME, _STATE = 36, 8, 9


class CursesMonitor:
    """Draws a state: the newest tasks, the workers, and the task that is selected.

    Keys: j and k (or the arrows) select, i shows a task's details, t its traceback, r its result, c revokes
    it, q ends.

    Args:
        state: what is drawn.
        app: whose tasks are revoked.
        keymap: further keys → functions.
        colours: whether colours are wanted.
    """

    help = "j:down k:up i:info t:traceback r:result c:revoke q:quit"
    greet = "emq-compat events"

    def __init__(
        self,
        state: State,
        app: Any,
        keymap: dict[str, Callable[[], object]] | None = None,
        *,
        colours: bool = True,
    ) -> None:
        self.state = state
        self.app = app
        self._colours = colours
        self._terminal = ExitStack()
        self._styles: dict[str, int] = {}
        self.win: Any = None
        self.selected_task: str | None = None
        self.done = False
        #: Lines shown in place of the tasks until a key is pressed.
        self.page: list[str] | None = None
        self.keymap: dict[str, Callable[[], object]] = {
            "J": self.move_selection_down,
            "K": self.move_selection_up,
            "I": self.selection_info,
            "T": self.selection_traceback,
            "R": self.selection_result,
            "C": self.revoke_selection,
            "Q": self.quit,
            **(keymap or {}),
        }

    # What is drawn, as text

    def rows(self, count: int) -> list[Task]:
        """Return the newest tasks, at most ``count``."""
        found = self.state.freeze_while(lambda: list(self.state.tasks_by_time()))
        return [task for _, task in found[:count]]

    def format_row(self, uuid: str, task: str, worker: str, timestamp: str, state: str, width: int) -> str:
        """Return a line of the list of tasks, at most ``width`` cells of the terminal."""
        left = max(width - _TIME - _STATE - 4, 24)
        uuid_width = min(_UUID, left // 3)
        task_width = (left - uuid_width) // 2
        worker_width = left - uuid_width - task_width
        cells = (
            (abbr(uuid, uuid_width), uuid_width),
            (abbr(worker, worker_width), worker_width),
            (abbrtask(task, task_width), task_width),
            (timestamp, _TIME),
            (state, _STATE),
        )
        # Wide characters take two cells.
        return cut(" ".join(padded(cut(printable(text), size), size) for text, size in cells), width)

    def lines(self, height: int, width: int) -> list[tuple[str, str]]:
        """Return what is drawn: lines of at most ``width`` characters, each with how it is shown.

        That is ``title``, ``head``, ``selected``, a task's state, or nothing.
        """
        if self.page is not None:
            shown = [part for line in self.page for part in (wrap(line, width) or [""])]
            return [(line, "") for line in shown[: height - 1]] + [("any key: back", "head")]
        drawn = [
            (self.greet[:width], "title"),
            (self.format_row("UUID", "TASK", "WORKER", "TIME", "STATE", width), "head"),
        ]
        for task in self.rows(max(1, height - _AROUND)):
            when = datetime.fromtimestamp(task.timestamp or time.time()).strftime("%H:%M:%S")  # noqa: DTZ006
            hostname = task.worker.hostname if task.worker is not None else None
            line = self.format_row(
                task.uuid or "", task.name or "-", hostname or "-", when, task.state, width
            )
            drawn.append((line, "selected" if task.uuid == self.selected_task else task.state))
        drawn += [("", "")] * (height - _AROUND + 3 - len(drawn))
        alive = sorted(worker.hostname or "-" for worker in self.state.alive_workers())
        selected = self._selected()
        told = "" if selected is None else " ".join(f"{k}={v}" for k, v in selected.info().items())
        footer = [
            f"Selected: {told}" if selected is not None else "No task selected",
            f"Workers online: {', '.join(alive)}" if alive else "No workers discovered.",
            f"Info: events: {self.state.event_count} tasks: {self.state.task_count} "
            f"workers: {len(alive)}/{len(self.state.workers)}",
            f"Keys: {self.help}",
        ]
        drawn += [(cut(printable(" ".join(line.split())), width), "") for line in footer]
        return drawn[:height]

    def _selected(self) -> Task | None:
        return self.state.tasks.get(self.selected_task) if self.selected_task else None

    # Keys

    def handle_keypress(self) -> None:
        """Do what the key that was pressed is for, if one was."""
        try:
            key = self.win.getkey()
        except curses.error:  # none
            return
        if self.page is not None:
            self.page = None
            return
        known = {"KEY_DOWN": "J", "KEY_UP": "K", "\n": "I"}
        action = self.keymap.get(known.get(key, key.upper()))
        if action is not None:
            action()

    def move_selection_down(self) -> None:
        """Select the next task."""
        self.move_selection(1)

    def move_selection_up(self) -> None:
        """Select the one before."""
        self.move_selection(-1)

    def move_selection(self, direction: int = 1) -> None:
        """Select another task."""
        ids = [task.uuid for task in self.rows(1_000)]
        if ids:
            at = ids.index(self.selected_task) + direction if self.selected_task in ids else 0
            self.selected_task = ids[max(0, min(at, len(ids) - 1))]

    def selection_info(self) -> None:
        """Show all that is known of the selected task."""
        if (task := self._selected()) is not None:
            info = task.info(extra=["state", "name"])
            self.page = [f"Task {task.uuid}", *(f"{name}: {value}" for name, value in sorted(info.items()))]

    def selection_traceback(self) -> None:
        """Show the traceback of the selected task."""
        if (task := self._selected()) is not None and task.traceback:
            self.page = [f"Traceback of {task.uuid}", *task.traceback.splitlines()]

    def selection_result(self) -> None:
        """Show the result, or the exception, of the selected task."""
        if (task := self._selected()) is not None:
            self.page = [f"Result of {task.uuid}", task.result or task.exception or "(none yet)"]

    def revoke_selection(self) -> None:
        """Revoke the selected task."""
        if (task := self._selected()) is not None:
            replies = self.app.control.revoke(task.uuid, reply=True) or []
            told = [f"{node}: {said}" for reply in replies for node, said in reply.items()]
            self.page = [f"Revoked {task.uuid}", *told]

    def quit(self) -> None:
        """End it."""
        self.done = True

    # The terminal

    def init_screen(self) -> None:
        """Take the terminal over.

        Raises:
            ConfigurationError: it is a terminal that curses doesn't know.
        """
        self.win = self._terminal.enter_context(taken_over("--dump writes lines"))
        self.win.timeout(_EVERY_MS)
        self._styles = {**_STYLES, **coloured(_COLOURS, wanted=self._colours)}

    def resetscreen(self) -> None:
        """Give it back."""
        self._terminal.close()

    def draw(self) -> None:
        """Draw once, and take the next key, or wait a moment for one."""
        height, width = self.win.getmaxyx()
        self.win.erase()
        for number, (line, shown) in enumerate(self.lines(height, width - 1)[:height]):
            with suppress(curses.error):  # wide characters may not fit
                self.win.addstr(number, 0, line, self._styles.get(shown, curses.A_NORMAL))
        self.win.refresh()
        self.handle_keypress()


_COLOURS = {
    states.FAILURE: curses.COLOR_RED,
    states.RETRY: curses.COLOR_RED,
    states.SUCCESS: curses.COLOR_GREEN,
    states.REVOKED: curses.COLOR_MAGENTA,
    states.STARTED: curses.COLOR_YELLOW,
}
_STYLES = {"title": curses.A_DIM, "head": curses.A_BOLD | curses.A_UNDERLINE, "selected": curses.A_STANDOUT}


def evtop(app: Any = None, *, colours: bool = True) -> None:
    """Show the cluster on this terminal until q or Ctrl-C.

    Args:
        app: whose; the current one.
        colours: whether colours are wanted.

    Raises:
        OperationalError: there is no broker.
        ConfigurationError: it is a terminal that curses doesn't know.
    """
    app = app or current.get_app()
    state = app.events.State()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": state.event})
        receiver.queue.declare()
        # The screen is its own: what goes wrong with the connection is shown there by what doesn't come.
        receiver.on_connection_error = lambda exc, interval: None
        capturing = threading.Thread(target=receiver.capture, name="events", daemon=True)
        monitor = CursesMonitor(state, app, colours=colours)
        monitor.init_screen()
        capturing.start()
        try:
            while not monitor.done:
                monitor.draw()
        except KeyboardInterrupt:
            pass
        finally:
            monitor.resetscreen()
            receiver.should_stop = True
            capturing.join(5.0)
            receiver.close()
