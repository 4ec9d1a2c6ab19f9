"""``emq-compat``: the command, whose subcommands are imported when they are asked for.

The module ``emq_compat.cli.NAME`` holds the click command ``NAME``. ``-A`` and ``-b`` may stand before the
subcommand, as in ``celery -A proj worker``: a subcommand that has them finds them in the root's parameters.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from emq_compat.errors import EmqError
from emq_compat.shim.alias.finder import install

__all__ = ["COMMANDS", "cli", "main"]

#: Subcommand → what the list of commands says of it.
COMMANDS = {
    "broker": "Run the durable broker.",
    "worker": "Run a worker of an app's tasks.",
    "jobmanager": "Run an eventmq job manager of allowed functions.",
    "dev": "Run broker and worker in one terminal, with reload.",
    "call": "Publish a task, and wait for its result if wanted.",
    "result": "Show a task's result.",
    "status": "Show workers and queues.",
    "purge": "Drop the messages that wait in queues.",
    "dead": "Look at the dead letters, requeue or drop them.",
    "keys": "Make and list keys.",
    "report": "Show versions, settings and the broker, for a bug report.",
    "migrate": "Tell what a move from Celery costs, and rewrite imports.",
}


class _Commands(click.Group):
    """Imports a subcommand's module when it is called, so that the list and errors are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"emq_compat.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"no command {args[0]!r}" + (f"; is {near[0]} meant?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"emq-compat {importlib.import_module('emq_compat').__version__}")
        context.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", metavar="APP", help="The app, as Celery finds it: proj, proj.celery, proj:app.")
@click.option("-b", "--broker", metavar="URL", help="The broker. [default: the app's, EMQ_BROKER_ADDR]")
@click.option(
    "--workdir",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Change to this folder first.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Tell it."
)
def cli(app: str | None, broker: str | None, workdir: str | None) -> None:
    """A durable broker for Python tasks, and a worker for Celery's and eventmq's."""
    if workdir is not None:
        os.chdir(workdir)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0; 1, an error, told in one line; 2, it was called wrongly.

    Where Celery isn't installed ``import celery`` means the shim in the app that it imports. The traceback of
    an error is shown by ``-l debug`` only.
    """
    install()
    try:
        cli.main(args=None if argv is None else list(argv), prog_name="emq-compat")
    except EmqError as exc:
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        click.echo(f"Error: {exc}", err=True)
        sys.exit(1)
