"""``emq-compat worker``: runs the tasks of a Celery-style app, with the options of Celery's worker."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from emq_compat.cli.background import command_line, go_to_background
from emq_compat.cli.connection import one_line_errors
from emq_compat.cli.worker_options import worker_options
from emq_compat.cli.worker_run import run
from emq_compat.shim.current import given_app

__all__ = ["worker"]

@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@worker_options
@click.pass_context
def worker(context: click.Context, /, app_name: str | None, broker: str | None, **options: Any) -> None:
    """Run the tasks of an app, until TERM or Ctrl-C: what runs is finished, the rest given back."""
    before = context.find_root().params
    app_name = app_name or before.get("app")
    if not app_name and given_app.get() is None:
        raise click.UsageError("worker needs the app: -A proj")
    if options["beat"] and not app_name:
        raise click.UsageError("-B starts a beat, which needs the app's name: -A proj")
    if options["detach"]:
        go_to_background()
    folder = os.getcwd()
    with one_line_errors(options["loglevel"]):
        status, again = run(app_name or "", broker or before.get("broker"), options)
    if again:
        os.chdir(folder)
        argv = command_line()
        os.execv(argv[0], argv)  # noqa: S606 - this very command
    sys.exit(status)
