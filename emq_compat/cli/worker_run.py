"""One run of a worker, from its app to its exit status."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from emq_compat import __version__, json_lines
from emq_compat.address import Address, is_kombu
from emq_compat.cli.background import started
from emq_compat.cli.companion import Companion
from emq_compat.cli.node_name import node_name
from emq_compat.cli.own_broker import OwnBroker, broker_argv, own_address
from emq_compat.cli.pid_file import pid_file
from emq_compat.cli.worker_autoscale import autoscaler_of
from emq_compat.cli.worker_site import (
    MORE_MODULES,
    WorkerSite,
    configured_app,
    selected_queues,
    site_of,
    worker_config,
)
from emq_compat.client import Client
from emq_compat.config import WorkerConfig
from emq_compat.errors import ConfigurationError
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import EventmqSettings
from emq_compat.memory import share_one_heap
from emq_compat.pool.base import PoolOptions
from emq_compat.shim.app import Celery
from emq_compat.shim.events.telling import Switch
from emq_compat.shim.program import ShimProgram
from emq_compat.shim.worker import WorkController
from emq_compat.upstream.base import Upstream
from emq_compat.upstream.factory import purge, shown, upstreams_for
from emq_compat.words import amount

if TYPE_CHECKING:
    from emq_compat.genuine.program import GenuineProgram
    from emq_compat.monitor.worker import WorkerMonitor

__all__ = ["run"]

logger = logging.getLogger(__name__)


def run(app_name: str, brokers: Sequence[str], options: Mapping[str, Any]) -> tuple[int, bool]:
    """Run a worker to its end; returns its exit status and whether it is to start again.

    It publishes to the first of the brokers, and takes tasks from all.
    """
    broker = brokers[0] if brokers else None
    app, url, changes = configured_app(app_name, broker, options)
    app.hostname = node_name(options["hostname"])
    controller = WorkController(app, app.hostname, options)
    program = _program(app, app_name, url, changes, controller)
    assert program.announcer is not None
    signals = program.announcer.signals
    # In Celery's order: tasks' modules may have receivers of what comes, and those may change settings.
    program.load()
    signals.celeryd_init.send(
        sender=app.hostname, instance=controller, conf=app.conf, options=controller.options
    )
    config = worker_config(app, (url, *brokers[1:]), options)
    site = site_of(app, app_name, url, config, options)
    controller.concurrency, controller.pool_cls = config.slots, config.pool
    controller.loglevel = config.log_level
    controller.logfile, controller.pidfile = (str(path) if path else None for path in (site.log, site.pid))
    program.announcer.worker_init()
    with ExitStack() as stack:
        stack.callback(_put_back, sys.stdout, sys.stderr)
        _set_up_log(app, config.log_level, site.log)
        if config.pool == "solo" and config.concurrency > 1:
            logger.warning("the solo pool runs one task at a time: -c %d has no effect", config.concurrency)
        in_process = any(address.in_process for address in config.addresses)
        if in_process:
            logger.warning("%s is a broker inside this process: nothing else can publish to it", url)
        signals.celeryd_after_setup.send(sender=app.hostname, instance=controller, conf=app.conf)
        config = replace(config, queues=selected_queues(app))
        stack.enter_context(pid_file(site.pid))
        companions = {}
        if site.broker_data is not None:
            address = own_address(url, "--embed-broker")
            argv = broker_argv(address, site.broker_data, config.log_level.lower())
            own = OwnBroker(address, argv, site.log)
            stack.callback(own.stop)
            own.start()
            if own.fileno() >= 0:
                companions["the embedded broker"] = own.fileno()
        if options["beat"]:
            if in_process:
                raise ConfigurationError(f"-B starts another process, which can't publish to {url}")
            beat = Companion(_beat_argv(site, broker, options), site.log)
            stack.callback(beat.stop)
            beat.start()
            if beat.fileno() >= 0:
                companions["the embedded beat"] = beat.fileno()
        monitor = _monitor(options["http"])
        if monitor is not None:
            stack.callback(monitor.stop)
        manager = _manager(site, config, program, companions, monitor)
        controller.manager, controller.pool = manager, manager.pool
        controller.autoscaler = manager.autoscaler
        status = manager.start()
        app.loader.shutdown_worker()
    if manager.modules_wanted:
        before = os.environ.get(MORE_MODULES)
        os.environ[MORE_MODULES] = ",".join([*([before] if before else []), *manager.modules_wanted])
    return status, manager.restart_wanted


def _program(
    app: Any, app_name: str, url: str, changes: Mapping[str, Any], controller: WorkController
) -> ShimProgram | GenuineProgram:
    """Return what runs the tasks of an app, of the shim or a genuine one."""
    if isinstance(app, Celery):
        return ShimProgram(app, found_as=app_name, changes=changes, controller=controller)
    from emq_compat.genuine import program as genuine  # noqa: PLC0415 - it needs Celery
    from emq_compat.genuine.onlooker import GenuineAnnouncer  # noqa: PLC0415 - likewise

    events = Switch()
    return genuine.GenuineProgram(
        app.real,
        hostname=app.hostname,
        url=url,
        found_as=app_name,
        changes=changes,
        announcer=GenuineAnnouncer(app, controller, events),
        events=events,
    )


def _monitor(http: str | None) -> WorkerMonitor | None:
    """Return what tells of the worker at this address; None: nothing does.

    Raises:
        ConfigurationError: it is no address.
    """
    if http is None:
        return None
    from emq_compat.monitor.worker import WorkerMonitor  # noqa: PLC0415 - a web server, for those who want it

    return WorkerMonitor(http)


def _beat_argv(site: WorkerSite, broker: str | None, options: Mapping[str, Any]) -> list[str]:
    """Return the arguments of ``emq-compat`` for a beat of the same app, broker and log."""
    given = {
        "--broker": broker,
        "--logfile": site.log,
        "--schedule": options["schedule_filename"],
        "--scheduler": options["scheduler"],
    }
    argv = ["beat", "--embedded", "--quiet", "-A", site.app_name, "-l", options["loglevel"]]
    return [*argv, *(word for name, value in given.items() if value for word in (name, str(value)))]


def _set_up_log(app: Any, level: str, file: Path | None) -> None:
    """Set logging up as the app's settings say, and have what tasks print logged."""
    conf = app.conf
    try:
        app.log.setup(
            level,
            file if file is None else str(file),
            bool(conf.worker_redirect_stdouts),
            conf.worker_redirect_stdouts_level,
            hostname=app.hostname,
        )
        if not isinstance(app, Celery):
            from emq_compat.genuine.log import in_json  # noqa: PLC0415 - it needs Celery

            in_json()
    except OSError as exc:
        raise ConfigurationError(f"the log file {file} can't be opened: {exc.strerror or exc}") from exc


def _put_back(stdout: TextIO, stderr: TextIO) -> None:
    sys.stdout, sys.stderr = stdout, stderr


def _manager(
    site: WorkerSite,
    config: WorkerConfig,
    program: ShimProgram | GenuineProgram,
    companions: Mapping[str, int],
    monitor: WorkerMonitor | None,
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

    def after_fork() -> None:
        if config.pool == "prefork":  # where tasks are threads of this process, they allocate at once
            share_one_heap()
        if site.purge:
            _purge(site, queues)
        if monitor is not None:
            address = monitor.start(manager)
            if not site.quiet and not logger.isEnabledFor(logging.INFO):  # else the log has it
                click.echo(
                    f"health and metrics: http://{address}/live, /ready, /metrics", file=sys.__stdout__
                )

    def say_ready(address: str) -> None:
        nonlocal said_ready
        if not said_ready and json_lines.wanted():
            logger.info("%s is ready, connected to %s", config.name, address)
        elif not said_ready and not site.quiet:
            click.echo(f"{config.name} is ready, connected to {address}", file=sys.__stdout__)
        said_ready = True

    manager = JobManager(
        config.name,
        queues,
        concurrent_jobs=config.slots,
        program=program,
        pool=config.pool,
        pool_options=pool_options,
        upstreams=lambda manager: _upstreams(site, config, manager),
        settings=EventmqSettings(),
        kill_grace_period=config.kill_grace_period_s,
        soft_shutdown_timeout_s=config.soft_shutdown_timeout_s,
        restart_on_hup=True,
        reserve=config.prefetch_multiplier != 1,
        before_fork=show_banner,
        after_fork=after_fork,
        on_connected=say_ready,
        companions=companions,
        autoscaler=autoscaler_of(conf, config),
    )
    return manager


def _upstreams(site: WorkerSite, config: WorkerConfig, manager: JobManager) -> Sequence[Upstream]:
    app, program = site.app, manager.program
    policies = program.policies or {}
    default = program.default_policy
    return upstreams_for(
        config.brokers,
        name=manager.name,
        queues=manager.queues,
        find_queue=app.amqp.queues.__getitem__,
        declared=lambda: set(app.amqp.queues),
        conf=app.conf,
        acks_late=lambda task: policies.get(task, default).acks_late,
        emq=manager.upstream_of,
        prefetch_multiplier=config.prefetch_multiplier,
    )


def _purge(site: WorkerSite, queues: Iterable[tuple[int, str]]) -> None:
    """Drop what waits in the queues; raises OperationalError where the broker isn't there."""
    if is_kombu(site.url):
        dropped = purge(site.url, [name for _, name in queues], site.app.conf)
    else:
        with Client(site.url) as client:
            dropped = sum(client.ask("purge", queue=name) for _, name in queues)
    if dropped:
        logger.warning("--purge: dropped %s that waited", amount(dropped, "message"))


def _banner(
    site: WorkerSite, config: WorkerConfig, queues: Iterable[tuple[int, str]], tasks: Iterable[str]
) -> str:
    addresses = ", ".join(
        shown(url) if is_kombu(url) else ", ".join(map(str, Address.parse(url))) for url in config.brokers
    )
    own = f" (started here, journal in {site.broker_data})" if site.broker_data is not None else ""
    tasks = list(tasks)
    rows = [
        ("app", site.app.main or site.app_name),
        ("broker", addresses + own),
        ("queues", ", ".join(name for _, name in queues)),
        ("pool", f"{config.pool}, {_at_once(config)} at once"),
        ("tasks", tasks[0] if tasks else "none"),
        *(("", task) for task in tasks[1:]),
    ]
    lines = [f"emq-compat {__version__}, worker {config.name}, process {os.getpid()}", ""]
    return "\n".join([*lines, *(f"  {head:<8}{text}" for head, text in rows), ""])


def _at_once(config: WorkerConfig) -> str:
    if config.autoscale is None:
        return str(config.slots)
    most, least = config.autoscale
    return f"{least} to {most}"
