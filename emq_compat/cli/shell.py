"""``emq-compat shell``: a Python shell with the app, its tasks, and what workflows are made of."""

from __future__ import annotations

import code
import importlib
import os
import sys
from typing import Any

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.shim.app import Celery
from emq_compat.shim.canvas import kinds

__all__ = ["shell"]

_SHELLS = ("ipython", "bpython", "python")


@click.command()
@click.option("-I", "--ipython", "wanted", flag_value="ipython", help="Use IPython.")
@click.option("-B", "--bpython", "wanted", flag_value="bpython", help="Use bpython.")
@click.option("-P", "--python", "wanted", flag_value="python", help="Use Python's own.")
@click.option("-T", "--without-tasks", is_flag=True, help="Leave the tasks out.")
@click.option("--eventlet", "green", flag_value="eventlet", hidden=True)
@click.option("--gevent", "green", flag_value="gevent", hidden=True)
@talks_to_broker
def shell(connection: Connection, wanted: str | None, without_tasks: bool, green: str | None) -> None:
    """Open a Python shell in which `app`, its tasks by their short names, and `chain`, `group` … are there.

    IPython or bpython is used where it is installed. Reads commands from standard input, too.
    """
    if green:
        raise click.UsageError(f"--{green}: there are no green threads here")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with connection.app() as app:
        app.set_current()
        _start(wanted, _names(app, with_tasks=not without_tasks))


def _names(app: Celery, *, with_tasks: bool) -> dict[str, Any]:
    """Return what the shell knows; tasks that share a short name: the last by their full names."""
    tasks = (
        {task.__name__: task for name, task in sorted(app.tasks.items()) if name in app.tasks.own()}
        if with_tasks
        else {}
    )
    names = ("chord", "group", "chain", "chunks", "xmap", "xstarmap", "subtask", "signature")
    workflows = getattr(app, "workflows", None) or {name: getattr(kinds, name) for name in names}
    real: Any = getattr(app, "real", app)
    return {**tasks, **workflows, "app": real, "celery": real, "Task": real.Task}


def _start(wanted: str | None, names: dict[str, Any]) -> None:
    for kind in (wanted,) if wanted else _SHELLS if sys.stdin.isatty() else ("python",):
        try:
            _STARTS[kind](names)
        except ImportError as exc:
            if wanted:
                raise click.ClickException(f"{wanted} is not installed: {exc}") from exc
        else:
            return


def _ipython(names: dict[str, Any]) -> None:
    importlib.import_module("IPython").start_ipython(argv=[], user_ns=names)


def _bpython(names: dict[str, Any]) -> None:
    importlib.import_module("bpython").embed(names)


def _python(names: dict[str, Any]) -> None:
    if sys.stdin.isatty():
        try:
            readline = importlib.import_module("readline")
            completer = importlib.import_module("rlcompleter").Completer(names)
        except ImportError:
            pass
        else:
            readline.set_completer(completer.complete)
            readline.parse_and_bind("tab:complete")
    code.interact(banner=f"Python {sys.version.split()[0]}, {names['app']!r}", local=names, exitmsg="")


_STARTS = {"ipython": _ipython, "bpython": _bpython, "python": _python}
