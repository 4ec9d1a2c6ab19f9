"""What ``inspect`` and ``control`` have in common: their options, arguments of commands, and replies."""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection
from emq_compat.cli.context import CLIContext, indented, root_context
from emq_compat.cli.telling import line_of
from emq_compat.errors import EmqError, OperationalError
from emq_compat.shim.app import Celery
from emq_compat.shim.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from emq_compat.shim.panel import Panel, controller_info_t

__all__ = ["NOBODY", "ask", "namesakes_told", "nobody_replied", "reply_options", "unreachable"]

#: What a command ends with when no node replied, or no broker did (EX_UNAVAILABLE).
NOBODY = 69

F = TypeVar("F", bound=Callable[..., Any])


def reply_options(command: F) -> F:
    """Add ``-t``, ``-d`` and ``-j``."""
    for option in (
        json_option("Print the replies as JSON."),
        click.option(
            "-d",
            "--destination",
            metavar="NODES",
            callback=lambda context, option, written: _names(written),
            help="Ask these nodes only, joined by commas. [default: all]",
        ),
        click.option(
            "-t",
            "--timeout",
            type=click.FloatRange(min=0, max=60),
            default=1.0,
            show_default=True,
            metavar="SECONDS",
            help="How long nodes may take to reply.",
        ),
    ):
        command = option(command)
    return command


def _names(written: str | None) -> list[str] | None:
    return [name.strip() for name in written.split(",") if name.strip()] if written else None


def ask(
    connection: Connection,
    kind: str,
    command: str,
    words: Sequence[str],
    request: Callable[[Celery, str, Mapping[str, Any], Callable[[Any], None] | None], Any],
    *,
    as_json: bool,
) -> Any:
    """Run one command of remote control and print the replies; returns them.

    Args:
        connection: to which app and broker.
        kind: ``inspect`` or ``control``.
        command: its name.
        words: its arguments, as they were written.
        request: asks, given the app, the command's arguments and what is called with each reply.
        as_json: print all replies as one JSON document.

    Raises:
        click.UsageError: there is no such command, or its arguments are others.
        SystemExit: no node replied, or no broker (status 69).
    """
    context = root_context()
    try:
        with connection.app() as app:
            arguments = _arguments(kind, command, words)
            told = None if as_json else functools.partial(_say, context)
            try:
                with namesakes_told():
                    replies = request(app, command, arguments, told)
            except ValueError as exc:
                raise click.UsageError(f"{command}: {exc}") from exc
    except Exception as exc:
        if (line := unreachable(exc, connection)) is None:
            raise
        nobody_replied(line)
    if not replies:
        nobody_replied("No nodes replied within time constraint")
    if as_json:
        tell(replies, default=repr)
    return replies


@contextmanager
def namesakes_told() -> Iterator[None]:
    """Tell of workers of one name in a line of the command's own; Python's shows code besides."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=DuplicateNodenameWarning)
        yield
    told: dict[str, None] = {}
    for one in caught:
        if one.category.__name__ == DuplicateNodenameWarning.__name__:  # or Celery's own, of its apps
            told[" ".join(str(one.message).split())] = None
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    for line in told:
        click.echo(f"Warning: {line}", err=True)


def unreachable(exc: Exception, connection: Connection) -> str | None:
    """Return what is told of an exception if it says that no broker answers; None: it says something else."""
    if isinstance(exc, (EmqError, ImproperlyConfigured)) and not isinstance(exc, OperationalError):
        return None
    return line_of(exc, connection.shown)


def nobody_replied(why: str) -> NoReturn:
    """End as Celery's commands do when nobody is there."""
    click.echo(f"Error: {why}", err=True)
    sys.exit(NOBODY)


def _say(context: CLIContext, reply: Mapping[str, Any]) -> None:
    for node, answer in reply.items():
        status, told = context.pretty(answer)
        name = context.style(f"{node}: ", fg="cyan", bold=True)
        context.say_chat("->", f"{name}{status}", indented(told), show_body=True)


def list_option(kind: str) -> Callable[[F], F]:
    """Add ``--list``, which shows the commands of a kind; a project's own only with ``-A`` before it."""

    def show(context: click.Context, option: click.Parameter, asked: bool) -> None:
        if not asked:
            return
        name = context.find_root().params.get("app")
        if name:
            with Connection(name, None).app():
                pass
        formatter = context.make_formatter()
        with formatter.section(f"{kind.capitalize()} Commands"):
            formatter.write_dl(
                [
                    (f"{command} {info.signature}" if info.signature else command, info.help or "")
                    for command, info in _commands(kind).items()
                ]
            )
        click.echo(formatter.getvalue(), nl=False)
        context.exit()

    return click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=show, help="List the commands."
    )


def _commands(kind: str) -> dict[str, controller_info_t]:
    return {name: info for name, info in sorted(Panel.meta.items()) if info.type == kind and info.visible}


def _arguments(kind: str, command: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments of a command, which is called with these words."""
    known = _commands(kind)
    info = known.get(command) or next((i for i in known.values() if i.alias == command), None)
    if info is None:
        raise click.UsageError(f"Command {command} not recognized. Available: {', '.join(known)}")
    takes = list(info.args or ())
    usage = f"{command} takes the arguments: {info.signature or 'none'}"
    if len(words) < _least(info.signature or "") or (len(words) > len(takes) and not info.variadic):
        raise click.UsageError(usage)
    arguments: dict[str, Any] = {}
    for (name, kind_of_value), word in zip(takes, words, strict=False):
        try:
            arguments[name] = word if kind_of_value is None else kind_of_value(word)
        except (TypeError, ValueError) as exc:
            raise click.UsageError(f"{name}: {exc}; {usage}") from exc
    if info.variadic:
        arguments[info.variadic] = list(words[len(takes) :])
    return arguments


def _least(signature: str) -> int:
    """Return how many arguments a signature asks for: those in <> that stand in no []."""
    outside = signature
    while (inner := re.sub(r"\[[^\[\]]*\]", "", outside)) != outside:
        outside = inner
    return len(re.findall(r"<[^<>]*>", outside))
