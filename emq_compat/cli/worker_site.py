"""Where a worker runs and what it is told: its app, broker, queues and files, of options and settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from emq_compat.address import Address, is_kombu
from emq_compat.cli.connection import Connection, load_app
from emq_compat.cli.node_name import file_name
from emq_compat.config import WorkerConfig
from emq_compat.manager.settings import DEFAULT_WEIGHT
from emq_compat.pool.factory import checked_name
from emq_compat.shim.app import Celery
from emq_compat.shim.exceptions import QueueNotFound
from emq_compat.shim.settings_source import from_command_line

__all__ = ["MORE_MODULES", "WorkerSite", "configured_app", "selected_queues", "site_of", "worker_config"]

#: In the environment of a worker that starts again: modules that it is to import, too.
MORE_MODULES = "EMQ_COMPAT_INCLUDE"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSite:
    """Where a worker runs, besides what its job manager is told (WorkerConfig)."""

    app: Celery
    app_name: str
    url: str
    log: Path | None
    pid: Path | None
    broker_data: Path | None
    purge: bool
    quiet: bool


def configured_app(
    app_name: str, broker: str | None, options: Mapping[str, Any]
) -> tuple[Celery, str, dict[str, Any]]:
    """Return the app, the broker's address, and the settings that the command line gave to the app.

    Raises:
        click.UsageError: what stands behind ``--`` is no setting.
    """
    app = load_app(app_name)
    conf = app.conf
    try:
        changes: dict[str, Any] = from_command_line(options["settings"], "worker")
    except ValueError as exc:
        raise click.UsageError(f"behind -- stand settings: {exc}") from exc
    conf.update(changes)
    conf.settle()
    own_url = None if broker else conf["broker_read_url"]
    url = own_url or Connection(app_name, broker).url
    if broker:
        changes.update(broker_url=broker, broker_write_url=None, broker_read_url=None)
        os.environ["CELERY_BROKER_URL"] = broker  # it would win over the settings
    for setting in ("time_limit", "soft_time_limit"):
        if options[setting] is not None:
            changes[f"task_{setting}"] = options[setting]
    if options["pool_start_method"]:
        changes["worker_pool_start_method"] = options["pool_start_method"]
    if options["no_color"]:
        changes["worker_log_color"] = False
    if options["task_events"]:
        changes["worker_send_task_events"] = True
    more = [*_names(options["include"]), *_names(os.environ.get(MORE_MODULES))]
    if more:
        changes["include"] = [*_names(conf.include), *more]
    conf.update(changes)
    if more:
        app = load_app(app_name)
    return app, url, changes


def worker_config(app: Celery, brokers: Sequence[str], options: Mapping[str, Any]) -> WorkerConfig:
    conf = app.conf
    conf.settle()  # a receiver of celeryd_init may have changed them

    def chosen(option: str, setting: str) -> Any:
        return conf[setting] if options[option] is None else options[option]

    return WorkerConfig(
        name=app.hostname,
        brokers=tuple(brokers),
        addresses=tuple(
            address for url in brokers if not is_kombu(url) for address in Address.parse(url)
        ),
        queues=_queues(app, options, app.hostname),
        exclude_queues=frozenset(_names(options["exclude_queues"])),
        concurrency=int(chosen("concurrency", "worker_concurrency") or 0),
        pool=checked_name(str(chosen("pool", "worker_pool"))),
        time_limit_s=conf.task_time_limit,
        soft_time_limit_s=conf.task_soft_time_limit,
        max_tasks_per_child=chosen("max_tasks_per_child", "worker_max_tasks_per_child"),
        max_memory_per_child_kb=chosen("max_memory_per_child", "worker_max_memory_per_child"),
        autoscale=options["autoscale"],
        prefetch_multiplier=1
        if options["disable_prefetch"] or conf.worker_disable_prefetch
        else int(chosen("prefetch_multiplier", "worker_prefetch_multiplier")),
        soft_shutdown_timeout_s=float(conf.worker_soft_shutdown_timeout or 0),
        enable_soft_shutdown_on_idle=bool(conf.worker_enable_soft_shutdown_on_idle),
        log_level=options["loglevel"],
    )


def _queues(app: Celery, options: Mapping[str, Any], node: str) -> tuple[tuple[int, str], ...]:
    """Return (weight, name) of each queue: those of -Q, or else of the settings, less those of -X."""
    queues = app.amqp.queues
    try:
        queues.select(_names(options["queues"]))
    except (QueueNotFound, KeyError) as exc:
        raise click.UsageError(f"-Q: {exc.args[0]}, and task_create_missing_queues is off") from exc
    queues.deselect(_names(options["exclude_queues"]))
    if app.conf.worker_direct:
        queues.select_add(f"{node}.dq2")
    if not queues.consume_from:
        raise click.UsageError("-X leaves no queue to listen on")
    return selected_queues(app)


def selected_queues(app: Celery) -> tuple[tuple[int, str], ...]:
    return tuple((DEFAULT_WEIGHT, name) for name in app.amqp.queues.consume_from)


def _names(written: str | Iterable[Any] | None) -> list[str]:
    """Return the names in a text that joins them by commas, or in a list of names or of kombu's queues."""
    parts = written.split(",") if isinstance(written, str) else written or ()
    names = (part if isinstance(part, str) else str(part.name) for part in parts)
    return [name.strip() for name in names if name.strip()]


def site_of(
    app: Celery, app_name: str, url: str, config: WorkerConfig, options: Mapping[str, Any]
) -> WorkerSite:
    files = {
        name: Path(file_name(options[name], config.name)).absolute() if options[name] else None
        for name in ("logfile", "pidfile")
    }
    return WorkerSite(
        app=app,
        app_name=app_name,
        url=url,
        log=files["logfile"],
        pid=files["pidfile"],
        broker_data=options["embed_broker"],
        purge=options["purge"],
        quiet=options["quiet"],
    )
