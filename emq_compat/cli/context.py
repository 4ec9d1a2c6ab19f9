"""What all commands are told: click's ``ctx.obj``, with the names that plug-ins of Celery's commands use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pprint import pformat
from typing import TYPE_CHECKING, Any

import click

from emq_compat.table import printable

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["CLIContext", "indented", "root_context"]


class CLIContext:
    """The options that stand before the command's name, and how to print.

    Args:
        app: what ``-A`` says, an app, or nothing.
        no_color: print without colours.
        workdir: the folder that was changed to.
        quiet: print less.
    """

    def __init__(
        self, app: str | Celery | None, no_color: bool = False, workdir: Any = None, quiet: bool = False
    ) -> None:
        self._app = app
        self.no_color = no_color
        self.workdir = workdir
        self.quiet = quiet

    @property
    def app(self) -> Celery:
        """The app that ``-A`` names, or the default one; raises as ``find_app`` where it can't be had."""
        named = self._app
        if named is None or isinstance(named, str):
            from emq_compat.cli.connection import viewed  # noqa: PLC0415 - few commands need an app this way
            from emq_compat.shim import current  # noqa: PLC0415 - likewise
            from emq_compat.shim.find_app import find_app  # noqa: PLC0415 - likewise

            if named or current.given_app.get() is not None:
                self._app = viewed(find_app(named or ""))
            else:
                self._app = current.get_app()
            named = self._app
        return named

    @property
    def OK(self) -> str:  # noqa: N802 - Celery's name
        """The word, in green."""
        return self.style("OK", fg="green", bold=True)

    @property
    def ERROR(self) -> str:  # noqa: N802 - Celery's name
        """The word, in red."""
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: Any = None, **kwargs: Any) -> str:
        """Return a text in colours, or as it is where none are wanted."""
        return str(message) if self.no_color else click.style(message, **kwargs)

    def echo(self, message: Any = None, **kwargs: Any) -> None:
        """Print a text."""
        click.echo(message, **({**kwargs, "color": False} if self.no_color else kwargs))

    def secho(self, message: Any = None, **kwargs: Any) -> None:
        """Print a text in colours; arguments are those of ``click.secho``."""
        if self.no_color:
            self.echo(message, **{name: kwargs[name] for name in ("nl", "err", "file") if name in kwargs})
        else:
            click.secho(message, **kwargs)

    def error(self, message: Any = None, **kwargs: Any) -> None:
        """Print a text on standard error."""
        self.secho(message, **{**kwargs, "err": True})

    def pretty(self, n: Any) -> tuple[str, str]:
        """Return what an answer is worth (OK or ERROR), and the answer as people read it."""
        if isinstance(n, list):
            star = self.style("*", fg="white")
            return self.OK, "\n".join(f"{star} {printable(str(item))}" for item in n) or "- empty -"
        if isinstance(n, Mapping):
            if "ok" in n:
                return self.OK, indented(self.pretty(n["ok"])[1])
            if "error" in n:
                return self.ERROR, indented(self.pretty(n["error"])[1])
            return self.OK, json.dumps(n, sort_keys=True, indent=4, default=repr, ensure_ascii=False)
        if isinstance(n, str):
            return self.OK, "\n".join(map(printable, n.splitlines()))
        return self.OK, pformat(n)

    def say_chat(self, direction: str, title: str, body: str = "", show_body: bool = False) -> None:
        """Print who says what to whom, unless less is to be printed; the body in full."""
        if direction == "<-" and self.quiet:
            return
        arrow = "" if self.quiet else f"{self.style(direction, fg='white', bold=True)} "
        self.echo(f"{arrow} {title}")
        if body and show_body:
            self.echo(body)


def indented(text: str, by: int = 4) -> str:
    """Return a text with every line further to the right."""
    return "\n".join(" " * by + line for line in text.split("\n"))


def root_context() -> CLIContext:
    """Return what stood before the command that runs.

    Where a command is called by itself, as those of the shell of ``amqp`` are, nothing did; NO_COLOR counts.
    """
    found = click.get_current_context().find_root().obj
    if isinstance(found, CLIContext):
        return found
    return CLIContext(None, no_color=bool(os.environ.get("NO_COLOR")))
