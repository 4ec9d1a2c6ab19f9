"""``emq-compat worker``: runs the tasks of a Celery-style app, with the options of Celery's worker."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from emq_compat.cli.background import command_line, go_to_background
from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.privileges import become, set_umask
from emq_compat.cli.worker_options import worker_options
from emq_compat.cli.worker_run import run
from emq_compat.json_lines import VARIABLE
from emq_compat.shim.current import given_app

__all__ = ["worker"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@worker_options
@click.argument("settings", nargs=-1, metavar="[-- SETTING=VALUE …]")
@click.pass_context
def worker(context: click.Context, /, app_name: str | None, brokers: tuple[str, ...], **options: Any) -> None:
    """Run the tasks of an app, until TERM or Ctrl-C: what runs is finished, the rest given back.

    Behind -- stand settings: task_acks_late=yes, or .max_tasks_per_child=10 for worker_max_tasks_per_child.
    """
    root = context.find_root()
    app_name = app_name or root.params.get("app")
    if not app_name and given_app.get() is None:
        raise click.UsageError("worker needs the app: -A proj")
    if options["beat"] and not app_name:
        raise click.UsageError("-B starts a beat, which needs the app's name: -A proj")
    options["quiet"] = options["quiet"] or bool(root.params.get("quiet"))
    if options["log_format"] == "json":
        os.environ[VARIABLE] = "json"  # of the processes that are started here, too
        options["quiet"] = True
    options["no_color"] = bool(root.params.get("no_color"))
    folder = os.getcwd()
    with one_line_errors(options["loglevel"]):
        if options["detach"]:
            go_to_background(options["executable"])
        set_umask(options["umask"])
        # For those that come from the environment; the command's own were obeyed before the app was imported.
        become(options["uid"], options["gid"])
        brokers = brokers or tuple(filter(None, (root.params.get("broker"),)))
        status, again = run(app_name or "", brokers, options)
    if again:
        os.chdir(folder)
        argv = command_line()
        os.execv(argv[0], argv)  # noqa: S606 - this very command
    sys.exit(status)
