"""The options of ``emq-compat worker``: Celery's worker's, and some of our own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from emq_compat.cli.worker_log import log_level
from emq_compat.config import default_data_dir
from emq_compat.json_lines import VARIABLE

__all__ = ["worker_options"]


Command = TypeVar("Command", bound=Callable[..., Any])


def worker_options(command: Command) -> Command:
    """Add the options to a click command, in the order in which its help lists them."""
    for option in reversed((*_WHAT_IT_RUNS, *_HOW_IT_RUNS, *_WHERE_IT_RUNS, *_BESIDE_TASKS, *_ACCEPTED)):
        command = option(command)
    return command


def _concurrency(context: click.Context, option: click.Parameter, written: Any) -> int | None:
    """Read ``-c``: a whole number, or ``auto`` (0): the CPUs (a click callback)."""
    if written is None:
        return None
    if written == "auto":
        return 0
    try:
        return click.IntRange(min=0).convert(written, option, context)
    except click.BadParameter as exc:
        raise click.BadParameter(f"{exc.message} Or 'auto': as many as there are CPUs.") from None


def _autoscale(context: click.Context, option: click.Parameter, written: Any) -> tuple[int, int] | None:
    """Read ``MAX,MIN`` or ``MAX``, in whichever order, as (MAX, MIN), of which MIN is at least 1."""
    if written is None:
        return None
    try:
        most, *rest = sorted((int(part) for part in str(written).split(",")), reverse=True)
        if most < 1 or len(rest) > 1 or min([most, *rest]) < 0:
            raise ValueError(written)
    except ValueError:
        raise click.BadParameter(
            f"{written!r} is not MAX,MIN: one or two whole numbers, MAX from 1"
        ) from None
    return most, max([1, *rest])


_WHAT_IT_RUNS = (
    click.option("-A", "--app", "app_name", metavar="APP", help="The app: proj, proj.celery, proj:app."),
    click.option(
        "-b",
        "--broker",
        "brokers",
        multiple=True,
        metavar="URL",
        help="The broker; again: a further one to take tasks from. [default: the app's, EMQ_BROKER_ADDR]",
    ),
    click.option(
        "-Q", "--queues", metavar="NAMES", help="Listen on these, joined by commas. [default: the app's]"
    ),
    click.option("-X", "--exclude-queues", metavar="NAMES", help="Leave these of the app's queues out."),
    click.option("-I", "--include", metavar="MODULES", help="Import these, too, joined by commas."),
)

_HOW_IT_RUNS = (
    click.option(
        "-c",
        "--concurrency",
        callback=_concurrency,
        metavar="N|auto",
        help="Tasks at once. [default, and auto: the CPUs; asyncio: 100]",
    ),
    click.option(
        "--autoscale",
        callback=_autoscale,
        metavar="MAX,MIN",
        help="Between so many tasks at once: more when work waits, fewer when there is none. Not with solo.",
    ),
    click.option("-P", "--pool", metavar="POOL", help="prefork, threads, solo, asyncio. [default: prefork]"),
    click.option(
        "--pool-start-method",
        type=click.Choice(("fork", "spawn")),
        help="How prefork makes processes. [default: fork, where that is safe]",
    ),
    click.option(
        "--time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Hard limit."
    ),
    click.option(
        "--soft-time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Soft limit."
    ),
    click.option(
        "--max-tasks-per-child", type=click.IntRange(min=1), help="Replace a child after so many tasks."
    ),
    click.option(
        "--max-memory-per-child", type=click.IntRange(min=1), metavar="KB", help="… once it uses more."
    ),
    click.option(
        "--prefetch-multiplier",
        type=click.IntRange(min=0),
        help="1: hold nothing but what runs. Else without effect: only short tasks are held, and given back.",
    ),
    click.option("--disable-prefetch", is_flag=True, help="Hold nothing but what runs."),
)

_WHERE_IT_RUNS = (
    click.option(
        "-n", "--hostname", metavar="NAME", help="Its name; %h, %n, %d: this host. [default: celery@%h]"
    ),
    click.option(
        "-l", "--loglevel", callback=log_level, default="warning", show_default=True, help="debug … critical."
    ),
    click.option(
        "-f", "--logfile", metavar="FILE", help="Log here; %n, %h, %p: of the name. [default: stderr]"
    ),
    click.option(
        "--log-format",
        type=click.Choice(("text", "json")),
        envvar=VARIABLE,
        help="json: an object a line, and no banner. [default: text]",
    ),
    click.option("--pidfile", metavar="FILE", help="Keep the pid here, and a second worker from starting."),
    click.option(
        "--http",
        metavar="[HOST:]PORT",
        help="Serve /live, /ready and /metrics there; without a host for this machine alone.",
    ),
    click.option("-D", "--detach", is_flag=True, help="Run in the background."),
    click.option("--executable", metavar="PYTHON", help="With -D: run under this Python."),
    click.option("--uid", metavar="USER", help="Run as this user, by name or number: only root may."),
    click.option("--gid", metavar="GROUP", help="Run as this group. [default: the user's]"),
    click.option("--umask", metavar="OCTAL", help="Make files under this umask, such as 022."),
    click.option("-q", "--quiet", is_flag=True, help="No banner."),
)

_BESIDE_TASKS = (
    click.option(
        "--purge",
        "--discard",
        "purge",
        is_flag=True,
        help="First drop what waits in the queues that it listens on, for good.",
    ),
    click.option(
        "-E", "--task-events", "--events", "task_events", is_flag=True, help="Send events of tasks."
    ),
    click.option("-B", "--beat", is_flag=True, help="Run a beat beside it: any number of workers may."),
    click.option(
        "-s",
        "--schedule-filename",
        "--schedule",
        metavar="NAME",
        help="Of -B: which of the app's schedules it is.",
    ),
    click.option("--scheduler", metavar="CLASS", help="Of -B: pkg.mod:Class, or an entry point's name."),
    click.option(
        "--embed-broker",
        type=click.Path(path_type=Path, file_okay=False),
        is_flag=False,
        flag_value=default_data_dir(),
        metavar="[DIR]",
        help=f"Start a broker, too, with its journal in this folder. [default folder: {default_data_dir()}]",
    ),
)

_ACCEPTED = (
    click.option("-O", "--optimization", metavar="fair|default", help="Accepted: hand-out is always fair."),
    click.option("--without-gossip", is_flag=True, help="Accepted, without effect."),
    click.option("--without-mingle", is_flag=True, help="Accepted, without effect."),
    click.option("--without-heartbeat", is_flag=True, help="Send no events of the worker."),
    click.option(
        "--heartbeat-interval",
        type=click.FloatRange(min=0.1),
        metavar="SECONDS",
        help="Between two heartbeat events. [default: 2]",
    ),
    click.option(
        "-S", "--statedb", metavar="FILE", help="Accepted: the broker keeps what is revoked, for all workers."
    ),
)
