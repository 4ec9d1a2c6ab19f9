"""``emq-compat worker``: runs the tasks of a Celery-style app, with the options of Celery's worker."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import click

from emq_compat import __version__
from emq_compat.address import Address
from emq_compat.cli.background import command_line, go_to_background, started
from emq_compat.cli.connection import Connection, load_app, one_line_errors
from emq_compat.cli.node_name import file_name, node_name
from emq_compat.cli.own_broker import OwnBroker, broker_argv, own_address
from emq_compat.cli.pid_file import pid_file
from emq_compat.cli.worker_log import log_level
from emq_compat.config import WorkerConfig, default_data_dir
from emq_compat.errors import ConfigurationError
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import DEFAULT_WEIGHT, EventmqSettings
from emq_compat.pool.base import PoolOptions
from emq_compat.pool.factory import checked_name
from emq_compat.shim import signals
from emq_compat.shim.app import Celery
from emq_compat.shim.current import given_app
from emq_compat.shim.exceptions import QueueNotFound
from emq_compat.shim.program import ShimProgram
from emq_compat.shim.worker import WorkController

__all__ = ["worker"]

logger = logging.getLogger(__name__)

_NO_BEAT = (
    "-B: there is no scheduler inside the worker; the broker runs schedules that are stored in it "
    "(eventmq's SCHEDULE)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    """Where a worker runs, besides what its job manager is told (WorkerConfig)."""

    app: Celery
    app_name: str
    url: str
    log: Path | None
    pid: Path | None
    broker_data: Path | None
    quiet: bool


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", "app_name", metavar="APP", help="The app: proj, proj.celery, proj:app.")
@click.option("-b", "--broker", metavar="URL", help="The broker. [default: the app's, EMQ_BROKER_ADDR]")
@click.option(
    "-Q", "--queues", metavar="NAMES", help="Listen on these, joined by commas. [default: the app's]"
)
@click.option("-X", "--exclude-queues", metavar="NAMES", help="Leave these of the app's queues out.")
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(min=0),
    help="Tasks at once. [default: the CPUs; asyncio: 100]",
)
@click.option("-P", "--pool", metavar="POOL", help="prefork, threads, solo, asyncio. [default: prefork]")
@click.option(
    "-l", "--loglevel", callback=log_level, default="warning", show_default=True, help="debug … critical."
)
@click.option(
    "-n", "--hostname", metavar="NAME", help="Its name; %h, %n, %d: this host. [default: celery@%h]"
)
@click.option("-f", "--logfile", metavar="FILE", help="Log here; %n, %h, %p: of the name. [default: stderr]")
@click.option("-O", "--optimization", metavar="fair|default", help="Accepted: hand-out is always fair.")
@click.option("-I", "--include", metavar="MODULES", help="Import these, too, joined by commas.")
@click.option("-D", "--detach", is_flag=True, help="Run in the background.")
@click.option("-E", "--task-events", "--events", "task_events", is_flag=True, help="Accepted: no events yet.")
@click.option("-B", "--beat", is_flag=True, hidden=True)
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Hard limit.")
@click.option(
    "--soft-time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Soft limit."
)
@click.option(
    "--max-tasks-per-child", type=click.IntRange(min=1), help="Replace a child after so many tasks."
)
@click.option("--max-memory-per-child", type=click.IntRange(min=1), metavar="KB", help="… once it uses more.")
@click.option(
    "--prefetch-multiplier",
    type=click.IntRange(min=0),
    help="1: hold nothing but what runs. Else without effect: only short tasks are held, and given back.",
)
@click.option("--pidfile", metavar="FILE", help="Keep the pid here, and a second worker from starting.")
@click.option(
    "--embed-broker",
    type=click.Path(path_type=Path, file_okay=False),
    is_flag=False,
    flag_value=default_data_dir(),
    metavar="[DIR]",
    help=f"Start a broker, too, with its journal in this folder. [default folder: {default_data_dir()}]",
)
@click.option("--without-gossip", is_flag=True, help="Accepted, without effect.")
@click.option("--without-mingle", is_flag=True, help="Accepted, without effect.")
@click.option("--without-heartbeat", is_flag=True, help="Accepted: without heartbeats nothing works.")
@click.option("--heartbeat-interval", type=float, hidden=True)
@click.option("-S", "--statedb", hidden=True)
@click.option("-q", "--quiet", is_flag=True, help="No banner.")
@click.pass_context
def worker(context: click.Context, /, app_name: str | None, broker: str | None, **options: Any) -> None:
    """Run the tasks of an app, until TERM or Ctrl-C: what runs is finished, the rest given back."""
    before = context.find_root().params
    app_name = app_name or before.get("app")
    if not app_name and given_app.get() is None:
        raise click.UsageError("worker needs the app: -A proj")
    if options["beat"]:
        raise click.UsageError(_NO_BEAT)
    if options["detach"]:
        go_to_background()
    folder = os.getcwd()
    with one_line_errors(options["loglevel"]):
        status, again = _run(app_name or "", broker or before.get("broker"), options)
    if again:
        os.chdir(folder)
        argv = command_line()
        os.execv(argv[0], argv)  # noqa: S606 - this very command
    sys.exit(status)


def _run(app_name: str, broker: str | None, options: Mapping[str, Any]) -> tuple[int, bool]:
    """Run a worker to its end; returns its exit status and whether it is to start again."""
    app, url, changes = _configured_app(app_name, broker, options)
    app.hostname = node_name(options["hostname"])
    controller = WorkController(app, app.hostname, options)
    program = ShimProgram(app, found_as=app_name, changes=changes, controller=controller)
    # In Celery's order: tasks' modules may have receivers of what comes, and those may change settings.
    program.load()
    signals.celeryd_init.send(
        sender=app.hostname, instance=controller, conf=app.conf, options=controller.options
    )
    config = _config(app, url, options)
    site = _site(app, app_name, url, config, options)
    controller.concurrency, controller.pool_cls = config.slots, config.pool
    controller.loglevel = config.log_level
    controller.logfile, controller.pidfile = (str(path) if path else None for path in (site.log, site.pid))
    program.announcer.worker_init()
    with ExitStack() as stack:
        stack.callback(_put_back, sys.stdout, sys.stderr)
        _set_up_log(app, config.log_level, site.log)
        if config.pool == "solo" and config.concurrency > 1:
            logger.warning("the solo pool runs one task at a time: -c %d has no effect", config.concurrency)
        signals.celeryd_after_setup.send(sender=app.hostname, instance=controller, conf=app.conf)
        config = replace(config, queues=_selected(app))
        stack.enter_context(pid_file(site.pid))
        companions = {}
        if site.broker_data is not None:
            address = own_address(url, "--embed-broker")
            own = OwnBroker(address, broker_argv(address, site.broker_data, config.log_level.lower()))
            stack.callback(own.stop)
            own.start()
            if own.fileno() >= 0:
                companions["the embedded broker"] = own.fileno()
        manager = _manager(site, config, program, companions)
        controller.manager, controller.pool = manager, manager.pool
        status = manager.start()
        app.loader.shutdown_worker()
    return status, manager.restart_wanted


def _set_up_log(app: Celery, level: str, file: Path | None) -> None:
    """Set logging up as the app's settings say, and have what tasks print logged."""
    conf = app.conf
    try:
        app.log.setup(
            level,
            file,
            bool(conf.worker_redirect_stdouts),
            conf.worker_redirect_stdouts_level,
            hostname=app.hostname,
        )
    except OSError as exc:
        raise ConfigurationError(f"the log file {file} can't be opened: {exc.strerror or exc}") from exc


def _put_back(stdout: TextIO, stderr: TextIO) -> None:
    sys.stdout, sys.stderr = stdout, stderr


def _configured_app(
    app_name: str, broker: str | None, options: Mapping[str, Any]
) -> tuple[Celery, str, dict[str, Any]]:
    """Return the app, the broker's address, and the settings that the command line gave to the app."""
    app = load_app(app_name)
    conf = app.conf
    conf.settle()
    own_url = None if broker else conf["broker_read_url"]
    url = own_url or Connection(app_name, broker).url
    changes: dict[str, Any] = {}
    if broker:
        changes.update(broker_url=broker, broker_write_url=None, broker_read_url=None)
    for setting in ("time_limit", "soft_time_limit"):
        if options[setting] is not None:
            changes[f"task_{setting}"] = options[setting]
    if options["task_events"]:
        changes["worker_send_task_events"] = True
    if options["include"]:
        changes["include"] = [*_names(conf.include), *_names(options["include"])]
    conf.update(changes)
    if options["include"]:
        app = load_app(app_name)
    return app, url, changes


def _config(app: Celery, url: str, options: Mapping[str, Any]) -> WorkerConfig:
    conf = app.conf
    conf.settle()  # a receiver of celeryd_init may have changed them

    def chosen(option: str, setting: str) -> Any:
        return conf[setting] if options[option] is None else options[option]

    return WorkerConfig(
        name=app.hostname,
        addresses=Address.parse(url),
        queues=_queues(app, options, app.hostname),
        exclude_queues=frozenset(_names(options["exclude_queues"])),
        concurrency=int(chosen("concurrency", "worker_concurrency") or 0),
        pool=checked_name(str(chosen("pool", "worker_pool"))),
        time_limit_s=conf.task_time_limit,
        soft_time_limit_s=conf.task_soft_time_limit,
        max_tasks_per_child=chosen("max_tasks_per_child", "worker_max_tasks_per_child"),
        max_memory_per_child_kb=chosen("max_memory_per_child", "worker_max_memory_per_child"),
        prefetch_multiplier=int(chosen("prefetch_multiplier", "worker_prefetch_multiplier")),
        soft_shutdown_timeout_s=float(conf.worker_soft_shutdown_timeout or 0),
        enable_soft_shutdown_on_idle=bool(conf.worker_enable_soft_shutdown_on_idle),
        log_level=options["loglevel"],
    )


def _queues(app: Celery, options: Mapping[str, Any], node: str) -> tuple[tuple[int, str], ...]:
    """Return (weight, name) of each queue: those of -Q, or else of the settings, less those of -X."""
    queues = app.amqp.queues
    try:
        queues.select(_names(options["queues"]))
    except QueueNotFound as exc:
        raise click.UsageError(f"-Q: {exc.args[0]}, and task_create_missing_queues is off") from exc
    queues.deselect(_names(options["exclude_queues"]))
    if app.conf.worker_direct:
        queues.select_add(f"{node}.dq2")
    if not queues.consume_from:
        raise click.UsageError("-X leaves no queue to listen on")
    return _selected(app)


def _selected(app: Celery) -> tuple[tuple[int, str], ...]:
    return tuple((DEFAULT_WEIGHT, name) for name in app.amqp.queues.consume_from)


def _names(written: str | Iterable[Any] | None) -> list[str]:
    """Return the names in a text that joins them by commas, or in a list of names or of kombu's queues."""
    parts = written.split(",") if isinstance(written, str) else written or ()
    names = (part if isinstance(part, str) else str(part.name) for part in parts)
    return [name.strip() for name in names if name.strip()]


def _site(app: Celery, app_name: str, url: str, config: WorkerConfig, options: Mapping[str, Any]) -> _Site:
    files = {
        name: Path(file_name(options[name], config.name)).absolute() if options[name] else None
        for name in ("logfile", "pidfile")
    }
    return _Site(
        app=app,
        app_name=app_name,
        url=url,
        log=files["logfile"],
        pid=files["pidfile"],
        broker_data=options["embed_broker"],
        quiet=options["quiet"],
    )


def _manager(
    site: _Site, config: WorkerConfig, program: ShimProgram, companions: Mapping[str, int]
) -> JobManager:
    queues = config.listens_to(program.default_queue)
    conf = site.app.conf
    pool_options = PoolOptions(
        max_tasks_per_child=config.max_tasks_per_child,
        max_memory_per_child_kb=config.max_memory_per_child_kb,
        start_method="spawn" if conf.worker_pool_start_method == "spawn" else None,
        start_timeout_s=max(PoolOptions().start_timeout_s, float(conf.worker_proc_alive_timeout)),
    )
    said_ready = False

    def show_banner() -> None:
        if not site.quiet:
            click.echo(_banner(site, config, queues, sorted(site.app.tasks.own())), file=sys.__stdout__)
        started(site.log)

    def say_ready(address: str) -> None:
        nonlocal said_ready
        if not said_ready and not site.quiet:
            click.echo(f"{config.name} is ready, connected to {address}", file=sys.__stdout__)
        said_ready = True

    return JobManager(
        config.name,
        queues,
        concurrent_jobs=config.slots,
        program=program,
        pool=config.pool,
        pool_options=pool_options,
        addresses=config.addresses,
        settings=EventmqSettings(),
        kill_grace_period=config.kill_grace_period_s,
        soft_shutdown_timeout_s=config.soft_shutdown_timeout_s,
        restart_on_hup=True,
        reserve=config.prefetch_multiplier != 1,
        before_fork=show_banner,
        on_connected=say_ready,
        companions=companions,
    )


def _banner(
    site: _Site, config: WorkerConfig, queues: Iterable[tuple[int, str]], tasks: Iterable[str]
) -> str:
    addresses = ", ".join(map(str, config.addresses))
    own = f" (started here, journal in {site.broker_data})" if site.broker_data is not None else ""
    tasks = list(tasks)
    rows = [
        ("app", site.app.main or site.app_name),
        ("broker", addresses + own),
        ("queues", ", ".join(name for _, name in queues)),
        ("pool", f"{config.pool}, {config.slots} at once"),
        ("tasks", tasks[0] if tasks else "none"),
        *(("", task) for task in tasks[1:]),
    ]
    lines = [f"emq-compat {__version__}, worker {config.name}, process {os.getpid()}", ""]
    return "\n".join([*lines, *(f"  {head:<8}{text}" for head, text in rows), ""])
