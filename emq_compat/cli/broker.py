"""``emq-compat broker``: the durable broker; also takes a backup of one that runs, and mends a journal."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import click

from emq_compat.broker.running import run_broker
from emq_compat.cli.as_json import json_option
from emq_compat.cli.journal import check_journal, salvage_journal
from emq_compat.cli.telling import line_of
from emq_compat.client import client_for
from emq_compat.config import BrokerConfig, default_data_dir
from emq_compat.errors import ConfigurationError, EmqError
from emq_compat.json_lines import VARIABLE, JsonLines
from emq_compat.memory import collect_seldom, share_one_heap

__all__ = ["broker"]

_DEFAULTS = BrokerConfig()


@click.command()
@click.option("--frontend", default=_DEFAULTS.frontend, show_default=True, help="Where clients connect.")
@click.option("--backend", default=_DEFAULTS.backend, show_default=True, help="Where workers connect.")
@click.option("--admin", default=_DEFAULTS.admin, show_default=True, help="Where emq-cli connects.")
@click.option(
    "--ipc",
    type=click.Path(path_type=Path),
    help="Listen on sockets in this folder (mode 0700) instead: emq+ipc://FOLDER.",
)
@click.option(
    "--data", type=click.Path(path_type=Path), help=f"Folder of the journal. [default: {default_data_dir()}]"
)
@click.option("--memory", is_flag=True, help="Keep nothing on disk.")
@click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    default=_DEFAULTS.durability,
    show_default=True,
    help="full: safe against power loss; normal: against a killed process.",
)
@click.option(
    "--dead-after",
    type=click.FloatRange(min=0.5),
    default=_DEFAULTS.dead_after_s,
    show_default=True,
    help="Seconds of silence after which a worker counts as lost.",
)
@click.option(
    "--max-redeliveries",
    type=click.IntRange(min=0),
    default=_DEFAULTS.max_redeliveries,
    show_default=True,
    help="How often a late-acked task may lose its worker; 0: no limit.",
)
@click.option(
    "--queue-limit",
    type=click.IntRange(min=0),
    default=_DEFAULTS.queue_limit,
    show_default=True,
    help="Messages a queue may hold; 0: no limit.",
)
@click.option(
    "--stock-timeout",
    type=click.FloatRange(min=1),
    default=_DEFAULTS.stock_timeout_s,
    show_default=True,
    help="Seconds after which what a stock worker left unanswered is handed out again.",
)
@click.option(
    "--result-expires",
    type=click.FloatRange(min=0),
    default=_DEFAULTS.result_expires_s,
    show_default=True,
    help="Seconds a result is kept; 0: for good.",
)
@click.option(
    "--publish",
    "pubsub",
    is_flag=True,
    help="Forward PUBLISH from 47298 to subscribers on 47299, as eventmq does.",
)
@click.option("--publish-in", metavar="ENDPOINT", help="The same, with PUBLISH taken here.")
@click.option("--publish-out", metavar="ENDPOINT", help="The same, with subscribers here.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="EMQ_KEYS",
    help="Folder of CURVE keys: only clients with keys are let in.",
)
@click.option("--insecure", is_flag=True, help="Allow other machines to connect without keys.")
@click.option(
    "--backup",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tell the running broker at --frontend to write a copy of its journal to this file, and end.",
)
@click.option("--check", is_flag=True, help="Look whether the journal at --data is whole, and end.")
@click.option(
    "--salvage",
    is_flag=True,
    help="Make a new journal of what can be read of a damaged one, keep the old files, and end.",
)
@click.option(
    "--http",
    metavar="[HOST:]PORT",
    help="Serve /live, /ready and /metrics there; without a host for this machine alone.",
)
@click.option("--for-dev", is_flag=True, hidden=True, help="Begun by `emq-compat dev`, for an hour or two.")
@json_option("With --check or --salvage: tell it as one JSON object.")
@click.option(
    "--log-format",
    type=click.Choice(("text", "json")),
    envvar=VARIABLE,
    help="json: an object a line. [default: text]",
)
@click.option("-l", "--loglevel", default="info", show_default=True, help="debug, info, warning, error.")
def broker(
    frontend: str,
    backend: str,
    admin: str,
    ipc: Path | None,
    data: Path | None,
    memory: bool,
    durability: str,
    dead_after: float,
    max_redeliveries: int,
    queue_limit: int,
    stock_timeout: float,
    result_expires: float,
    pubsub: bool,
    publish_in: str | None,
    publish_out: str | None,
    keys: Path | None,
    insecure: bool,
    backup: Path | None,
    check: bool,
    salvage: bool,
    http: str | None,
    for_dev: bool,
    as_json: bool,
    log_format: str | None,
    loglevel: str,
) -> None:
    """Run the durable broker (eMQP/1.0, stock eventmq clients and job managers included)."""
    level = loglevel.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        raise click.BadParameter(f"{loglevel!r} is none of debug, info, warning, error", param_hint="-l")
    logging.basicConfig(level=level, format="[%(asctime)s: %(levelname)s/broker] %(message)s")
    if log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    if (check or salvage or as_json) and (check == salvage or backup is not None or memory):
        raise click.UsageError("one of --check and --salvage, without --backup and --memory")
    try:
        if check or salvage:
            look = check_journal if check else salvage_journal
            raise SystemExit(look(data or default_data_dir(), as_json=as_json))
        if backup is not None:
            _back_up(frontend, ipc, backup)
            return
        options: dict[str, Any] = {
            "frontend": frontend,
            "backend": backend,
            "admin": admin,
            "memory": memory,
            "durability": durability,
            "dead_after_s": dead_after,
            "max_redeliveries": max_redeliveries,
            "queue_limit": queue_limit,
            "stock_timeout_s": stock_timeout,
            "result_expires_s": result_expires,
            "keys_dir": keys,
            "insecure": insecure,
            "log_level": level,
        }
        if data is not None:
            options["data"] = data
        if ipc is not None:
            folder = _private_folder(ipc)
            options |= {
                "frontend": f"ipc://{folder}/client.sock",
                "backend": f"ipc://{folder}/worker.sock",
                "admin": f"ipc://{folder}/admin.sock",
            }
        if pubsub or publish_in or publish_out:
            options["publish_in"] = publish_in or "tcp://127.0.0.1:47298"
            options["publish_out"] = publish_out or "tcp://127.0.0.1:47299"
        share_one_heap()
        collect_seldom()
        config = BrokerConfig(**options)
        if http is None:
            run_broker(config, neighbours=logging.INFO if for_dev else logging.WARNING)
        else:
            from emq_compat.monitor.broker import monitored  # noqa: PLC0415 - a web server, for those who want it

            with monitored(http) as watch:
                run_broker(config, watch)
    except EmqError as exc:
        if level == "DEBUG":
            raise
        line = line_of(exc) or ""
        if os.strerror(errno.EADDRINUSE) in line:
            line += (
                ". A broker may run there: a worker uses it (`emq-compat worker -A …`). Else give other "
                "ports: --frontend, --backend and --admin"
            )
        raise click.ClickException(line) from exc


def _private_folder(folder: Path) -> Path:
    """Make the sockets' folder, for this user only."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise ConfigurationError(
                f"others can reach the sockets in {folder}: chmod 700 it, or choose another folder"
            )
    except OSError as exc:
        raise ConfigurationError(f"the folder {folder} can't be used: {exc.strerror or exc}") from exc
    return folder.resolve()


def _back_up(frontend: str, ipc: Path | None, file: Path) -> None:
    """Ask the running broker for a copy of its journal."""
    url = f"emq+ipc://{ipc.resolve()}" if ipc is not None else "emq://" + frontend.removeprefix("tcp://")
    client = client_for(url)
    client.ask("stats")  # Fails within seconds where no broker is; the copy may take long.
    written = client.ask("backup", timeout_s=3600.0, file=str(file.absolute()))
    click.echo(f"written: {written}")
