"""``emq-compat status``: the broker, its workers with what they hold, its queues."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from emq_compat.cli import status_kombu
from emq_compat.cli.as_json import tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.remote import NOBODY, reply_options
from emq_compat.ids import plain_name
from emq_compat.table import Column, ids, names, table, whole
from emq_compat.words import amount, duration

__all__ = ["status"]

#: Tasks that are listed of one worker.
_TASKS_SHOWN = 10
_WORKERS = (
    names("worker"),
    whole("state"),
    names("host"),
    whole("pid"),
    whole("holds"),
    "queues",
    whole("heard"),
)
_TASKS = (names("worker"), names("task"), ids("id"), whole("state"), whole("since"), whole("process"))


@click.command()
@reply_options
@talks_to_broker
def status(connection: Connection, as_json: bool, destination: list[str] | None, timeout: float) -> None:
    """Show the workers with what they hold, and the queues with what waits.

    Ends with 69 when no worker is connected, as `celery status` does.
    """
    if connection.over_kombu:
        _over_kombu(connection, destination, timeout, as_json=as_json)
        return
    with connection.client() as client:
        stats = client.ask("stats")
        workers = _meant(client.ask("workers"), destination)
        queues = client.ask("queues")
        running = _answers(client.inspect("active", timeout_s=timeout))
        reserved = _answers(client.inspect("reserved", timeout_s=timeout))
    for worker in workers:
        worker["active"] = _of(running, worker["name"])
        worker["reserved"] = _of(reserved, worker["name"])
    if as_json:
        tell({"broker": connection.url, "stats": stats, "workers": workers, "queues": queues})
    else:
        click.echo(_text(connection.url, stats, workers, queues))
    if not any(worker.get("present", True) for worker in workers):
        sys.exit(NOBODY)


def _over_kombu(
    connection: Connection, destination: list[str] | None, timeout_s: float, *, as_json: bool
) -> None:
    nodes = [*map(plain_name, destination)] if destination else None
    with connection.app() as app:
        status = status_kombu.found(app, nodes, timeout_s)
    if as_json:
        tell(status)
    else:
        click.echo(status_kombu.text(status))
    if not status["workers"]:
        sys.exit(NOBODY)


def _meant(workers: list[dict[str, Any]], destination: list[str] | None) -> list[dict[str, Any]]:
    """Return the workers that ``-d`` names, by their names or identities."""
    if not destination:
        return workers
    wanted = {*map(plain_name, destination)}
    return [worker for worker in workers if wanted & {worker["name"], worker["name"].rpartition(".")[0]}]


def _answers(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return identity → tasks of the workers that answered with some; the others answered an error."""
    return {name: answer["ok"] for name, answer in found.items() if isinstance(answer.get("ok"), list)}


def _of(found: Mapping[str, list[dict[str, Any]]], worker: str) -> list[dict[str, Any]] | None:
    """Return a worker's tasks; None: it did not answer. The broker lists it by name or by identity."""
    return next((tasks for name, tasks in found.items() if worker in (name, name.rpartition(".")[0])), None)


def _text(
    url: str,
    stats: Mapping[str, Any],
    workers: Sequence[Mapping[str, Any]],
    queues: Sequence[Mapping[str, Any]],
) -> str:
    waiting = sum(queue["waiting"] for queue in queues)
    delayed = sum(queue["delayed"] for queue in queues)
    held = sum(queue.get("held", 0) for queue in queues)
    parked = sum(queue.get("parked", 0) for queue in queues)
    parts = [
        f"Broker {url}, up {duration(stats['uptime_s'])}: {waiting:,} waiting, {delayed:,} delayed, "
        f"{f'{held:,} awaiting chords, ' if held else ''}"
        f"{f'{parked:,} parked (emq-compat held), ' if parked else ''}"
        f"{stats['in_flight']:,} in flight, {amount(stats['dead'], 'dead letter')}."
    ]
    if workers:
        workers_shown = [
            (
                worker["name"],
                "lost?" if not worker.get("present", True) else "stock" if worker["stock"] else "ready",
                worker["hostname"] or "-",
                worker["pid"] or "-",
                f"{worker['in_flight']} of {worker['slots']}" if worker["slots"] else worker["in_flight"],
                ", ".join(worker["queues"]),
                duration(worker["silent_s"]) + " ago",
            )
            for worker in workers
        ]
        parts.append(table(_WORKERS, workers_shown))
        tasks = [row for worker in workers for row in _held(worker)]
        if tasks:
            parts.append(table(_TASKS, tasks))
    else:
        parts.append("No worker is connected.")
    if queues:
        columns = ("name", "waiting", "delayed", "held", "parked", "in_flight", "workers")
        counts = ("waiting", "delayed", "held", "parked", "in flight", "workers")
        heads = [names("queue"), *map(Column, counts)]
        rows = [[queue.get(column, 0) for column in columns] for queue in queues]
        if any(queue.get("paused") for queue in queues):
            heads.append(whole("state"))
            rows = [
                [*row, "paused" if queue.get("paused") else ""]
                for row, queue in zip(rows, queues, strict=True)
            ]
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def _held(worker: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each task that a worker holds."""
    rows: list[tuple[str, ...]] = []
    for state, told in (("active", "running"), ("reserved", "not begun")):
        tasks = worker[state] or []
        for task in tasks[:_TASKS_SHOWN]:
            began = task.get("time_start")
            since = duration(max(0.0, time.time() - began)) if began else ""
            process = str(task["worker_pid"]) if began else ""
            rows.append((worker["name"], task["name"], task["id"], told, since, process))
        if len(tasks) > _TASKS_SHOWN:
            rows.append((worker["name"], f"and {len(tasks) - _TASKS_SHOWN} more", "", told, "", ""))
    return rows
