"""``emq-compat``: the command, whose subcommands are imported when they are asked for.

The module ``emq_compat.cli.NAME`` holds the click command ``NAME``. ``-A`` and ``-b`` may stand before the
subcommand, as in ``celery -A proj worker``: a subcommand that has them finds them in the root's parameters.
Packages may add subcommands as they do to Celery: by entry points in the group ``celery.commands``.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from emq_compat.cli.context import CLIContext
from emq_compat.cli.plugins import plugin_command, plugin_names
from emq_compat.cli.privileges import become_as_written
from emq_compat.cli.telling import line_of
from emq_compat.cli.user_options import with_user_options
from emq_compat.errors import ConfigurationError
from emq_compat.shim.alias.finder import install

__all__ = ["COMMANDS", "cli", "main"]

#: Subcommand → what the list of commands says of it.
COMMANDS = {
    "broker": "Run the durable broker.",
    "worker": "Run a worker of an app's tasks.",
    "beat": "Publish periodic tasks when they are due.",
    "schedules": "Show what beats send, and their last runs.",
    "jobmanager": "Run an eventmq job manager of allowed functions.",
    "dev": "Run broker and worker in one terminal, with reload.",
    "multi": "Start, stop and restart several workers.",
    "call": "Publish a task, and wait for its result if wanted.",
    "result": "Show a task's result.",
    "status": "Show workers and queues.",
    "top": "Show queues, workers, rates and failures, live.",
    "health": "Tell whether a broker, worker or beat lives, or is ready.",
    "dashboard": "Serve a page with queues, workers, failures.",
    "inspect": "Ask workers what they do.",
    "control": "Have workers change something.",
    "list": "List bindings: which names lead to which queue.",
    "graph": "Draw the workers, or a worker's steps, for graphviz.",
    "events": "Show tasks and workers as they change, by their events.",
    "held": "Show unique keys, what is parked, and why a task waits.",
    "purge": "Drop the messages that wait in queues.",
    "queue": "Pause queues, and let them go on.",
    "dead": "Look at the dead letters, requeue or drop them.",
    "amqp": "Administrate queues, one command after the other.",
    "shell": "Open a Python shell with the app and its tasks.",
    "logtool": "Sum a worker's log up.",
    "upgrade": "Bring a file of settings to Celery's new names.",
    "keys": "Make and list keys.",
    "report": "Show versions, settings and the broker, for a bug report.",
    "migrate": "Tell what a move from Celery costs, and rewrite imports.",
}


#: What people look for → the command that shows it.
_SHOWN_BY = {
    "queues": "status",
    "workers": "status",
    "tasks": "status",
    "results": "result",
    "start": "worker",
    "run": "worker",
    "publish": "call",
    "send": "call",
    "config": "report",
    "version": "report",
}


class _Commands(click.Group):
    """Imports a subcommand's module when it is called, so that the list and errors are quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *plugin_names(COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return plugin_command(cmd_name)
        command = getattr(importlib.import_module(f"emq_compat.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            known = self.list_commands(ctx)
            if args[0] not in known:
                near = [_SHOWN_BY[args[0]]] if args[0] in _SHOWN_BY else []
                near = near or difflib.get_close_matches(args[0], known, n=1)
                ctx.fail(f"no command {args[0]!r}" + (f"; is {near[0]} meant?" if near else ""))
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None:
            if name == "worker":
                try:
                    become_as_written(rest)
                except ConfigurationError as exc:
                    ctx.fail(str(exc))
            command = with_user_options(command, name, ctx.params.get("app"), rest)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        plugins = plugin_names(COMMANDS)
        if plugins:
            with formatter.section("Commands of other packages"):
                formatter.write_dl([(name, f"from {package}") for name, package in plugins.items()])


def _version(context: click.Context, option: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"emq-compat {importlib.import_module('emq_compat').__version__}")
        context.exit()


def _without_colours(context: click.Context, option: click.Parameter, asked: bool) -> bool:
    """Return whether there are to be none; processes that are started here are told by NO_COLOR, too.

    That says so whatever it holds, be it ``0``, unless it is empty (no-color.org).
    """
    if asked:
        os.environ["NO_COLOR"] = "1"
    return bool(os.environ.get("NO_COLOR"))


def _change_folder(context: click.Context, option: click.Parameter, folder: str | None) -> None:
    if folder is not None:
        os.chdir(folder)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CELERY"},
)
@click.option("-A", "--app", metavar="APP", help="The app, as Celery finds it: proj, proj.celery, proj:app.")
@click.option("-b", "--broker", metavar="URL", help="The broker. [default: the app's, EMQ_BROKER_ADDR]")
@click.option("--result-backend", metavar="URL", help="Where results are kept. [default: the app's]")
@click.option("--loader", metavar="CLASS", help="The loader of an app that names none.")
@click.option("--config", metavar="MODULE", help="Settings of an app that reads none.")
@click.option(
    "--workdir",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    is_eager=True,
    expose_value=False,
    callback=_change_folder,
    help="Change to this folder first.",
)
@click.option(
    "-C",
    "--no-color",
    is_flag=True,
    callback=_without_colours,
    help="Print without colours; NO_COLOR says so, too.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print less.")
@click.option("--skip-checks", is_flag=True, help="Don't run Django's checks first.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,  # images of containers set CELERY_VERSION
    callback=_version,
    help="Tell it.",
)
@click.pass_context
def cli(
    context: click.Context,
    app: str | None,
    broker: str | None,
    result_backend: str | None,
    loader: str | None,
    config: str | None,
    no_color: bool,
    quiet: bool,
    skip_checks: bool,
) -> None:
    """A durable broker for Python tasks, and a worker for Celery's and eventmq's.

    Each option may come from the environment, too: CELERY_ and its name, such as CELERY_APP.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        context.exit()
    # In the environment, where apps look for them, those of processes that are started here included.
    said = {
        "CELERY_BROKER_URL": broker,
        "CELERY_RESULT_BACKEND": result_backend,
        "CELERY_LOADER": loader,
        "CELERY_CONFIG_MODULE": config,
        "CELERY_SKIP_CHECKS": "true" if skip_checks else None,
    }
    os.environ.update({name: value for name, value in said.items() if value})
    context.obj = CLIContext(app, no_color, os.getcwd(), quiet)


#: What the system lacks → what to do.
_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (`ulimit -n`, LimitNOFILE= in systemd)",
    errno.ENFILE: "the whole machine has no file descriptors left",
    errno.ENOMEM: "there is no memory for it",
    errno.EAGAIN: "no more processes or threads may be started (`ulimit -u`, TasksMax= in systemd)",
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room on that disk",
    errno.EROFS: "it has to be on a disk that can be written",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0; 1, an error, told in one line; 2, it was called wrongly.

    Where Celery isn't installed ``import celery`` means the shim in the app that it imports. The traceback of
    an error is shown by ``-l debug`` only.
    """
    install()
    try:
        cli.main(args=None if argv is None else list(argv), prog_name="emq-compat")
    except MemoryError:
        click.echo("Error: there is no memory left", err=True)
        sys.exit(1)
    except Exception as exc:
        line = line_of(exc)
        if isinstance(exc, OSError) and exc.errno in _REMEDIES:
            line = f"{exc}: {_REMEDIES[exc.errno]}"
        if line is None or logging.getLogger().isEnabledFor(logging.DEBUG):
            raise
        click.echo(f"Error: {line}", err=True)
        sys.exit(1)
