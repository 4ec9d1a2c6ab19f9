"""``emq-compat call``: publish one call of a task, or of a plain function for job managers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click

from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.result import show_result, wait_for_result, where_it_is
from emq_compat.errors import ConfigurationError
from emq_compat.message import Headers, Job, Publish, new_id
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.registry import nearest
from emq_compat.shim.signals import after_task_publish

__all__ = ["Call", "call", "plain_publish"]

#: Where eventmq's job managers listen unless they are told otherwise.
_DEFAULT_QUEUE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is to be called and how; times in unix seconds, 0.0: none."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    eta: float
    expires: float
    queue: str | None
    priority: int | None
    task_id: str


def _time(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Return seconds from now, or a time in ISO format, as unix seconds."""
    if text is None:
        return None
    try:
        return time.time() + float(text)
    except ValueError:
        pass
    try:
        # Python 3.10 doesn't read the Z that others write for UTC.
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z")).timestamp()
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a number of seconds nor a time such as 2030-01-31T18:00"
        ) from None


@click.command()
@click.argument("name", metavar="NAME|MODULE:FUNCTION")
@click.option("-a", "--args", "args_text", default="[]", metavar="JSON", help="Arguments, a list: '[2, 3]'.")
@click.option(
    "-k", "--kwargs", "kwargs_text", default="{}", metavar="JSON", help="Keyword arguments, an object."
)
@click.option("--countdown", type=click.FloatRange(min=0), metavar="SECONDS", help="Not before so long.")
@click.option(
    "--eta", callback=_time, metavar="TIME", help="Not before this time (ISO format; without a zone: here)."
)
@click.option("--expires", callback=_time, metavar="SECONDS|TIME", help="Not after so long, or this time.")
@click.option("-Q", "--queue", help="[default: the task's own, or 'default' for MODULE:FUNCTION]")
@click.option("--priority", type=click.IntRange(0, 9), help="0 to 9, higher first.")
@click.option("--task-id", help="[default: a new one]")
@click.option(
    "-t",
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait for the result, at most so long, and print it instead of the id.",
)
@click.option(
    "--traceback", is_flag=True, help="With --wait: show the worker's traceback, where there is one."
)
@talks_to_broker
def call(
    connection: Connection,
    name: str,
    args_text: str,
    kwargs_text: str,
    countdown: float | None,
    eta: float | None,
    expires: float | None,
    queue: str | None,
    priority: int | None,
    task_id: str | None,
    wait_s: float | None,
    traceback: bool,
) -> None:
    """Publish a call and print its id.

    NAME is a task's name (with -A, its own queue and options count). MODULE:FUNCTION or MODULE:Class.method
    is a plain function, for `emq-compat jobmanager` and stock eventmq job managers.
    """
    if countdown is not None and eta is not None:
        raise click.UsageError("give --countdown or --eta, not both")
    if wait_s is not None and connection.stock:
        raise ConfigurationError(
            f"{connection.url} is a stock eventmq router, which keeps no results: leave --wait out"
        )
    asked = Call(
        name=name,
        args=_json("-a", args_text, list),
        kwargs=_json("-k", kwargs_text, dict),
        eta=time.time() + countdown if countdown else eta or 0.0,
        expires=expires or 0.0,
        queue=queue,
        priority=priority,
        task_id=task_id or new_id(),
    )
    if ":" in name:
        with connection.client() as client:
            message = plain_publish(asked, stock=client.stock)
            client.publish(message)
    else:
        _publish_task(connection, asked, waits=wait_s is not None)
    if wait_s is None:
        click.echo(asked.task_id)
        return
    with connection.client() as client:
        try:
            stored = wait_for_result(client, asked.task_id, wait_s)
        except KeyboardInterrupt:
            why = f"emq-compat result {asked.task_id} tells what becomes of it"
            raise click.ClickException(f"{asked.task_id} is published: {why}") from None
        if stored is None:
            known = where_it_is(client, asked.task_id)
            why = f": {known}" if known else ""
            raise click.ClickException(f"{asked.task_id} is published, and not done after {wait_s:g} s{why}")
    show_result(asked.task_id, stored, traceback=traceback)


def _json(option: str, text: str, kind: type) -> Any:
    wanted = (
        "a JSON list, such as '[2, \"three\"]'" if kind is list else "a JSON object, such as '{\"x\": 2}'"
    )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise click.BadParameter(f"{text!r} is not {wanted}: {exc}", param_hint=option) from None
    if not isinstance(value, kind):
        raise click.BadParameter(f"{text!r} is not {wanted}", param_hint=option)
    return value


def _publish_task(connection: Connection, asked: Call, *, waits: bool) -> str:
    """Return the name of the queue it went to."""
    queues: list[str] = []

    def note_queue(routing_key: str, **_: Any) -> None:
        queues.append(routing_key)

    options: dict[str, Any] = {
        "task_id": asked.task_id,
        "queue": asked.queue,
        "priority": asked.priority,
        "eta": _utc(asked.eta),
        "expires": _utc(asked.expires),
    }
    given = {name: value for name, value in options.items() if value is not None}
    with connection.app() as app:
        app.conf.task_always_eager = False  # a setting for tests: the task would run here, in this process
        task = app.tasks.get(asked.name)
        if waits and (app.conf.task_ignore_result if task is None else task.ignore_result):
            raise ConfigurationError(f"{asked.name} ignores its result: leave --wait out")
        after_task_publish.connect(note_queue)
        try:
            if task is not None:
                task.apply_async(list(asked.args), dict(asked.kwargs), **given)
                return next(iter(queues), "")
            if connection.app_name:
                near = ", ".join(nearest(asked.name, app.tasks))
                click.echo(
                    f"Note: {connection.app_name} has no task {asked.name!r}"
                    + (f"; near it: {near}" if near else ""),
                    err=True,
                )
            app.send_task(asked.name, list(asked.args), dict(asked.kwargs), **given)
            return next(iter(queues), "")
        except (TypeError, ValueError, ImproperlyConfigured) as exc:
            raise click.ClickException(str(exc)) from exc
        finally:
            after_task_publish.disconnect(note_queue)


def _utc(unix_time: float) -> datetime | None:
    return datetime.fromtimestamp(unix_time).astimezone() if unix_time else None


def plain_publish(asked: Call, *, stock: bool) -> Publish:
    """Return the message of a plain function; raises ConfigurationError for what a stock router can't do."""
    module, _, target = asked.name.partition(":")
    class_name, _, function = target.rpartition(".")
    if not module or not function or "." in class_name:
        raise click.BadParameter(
            f"{asked.name!r} is neither MODULE:FUNCTION nor MODULE:Class.method", param_hint="NAME"
        )
    if stock and (asked.eta or asked.expires or asked.priority):
        raise ConfigurationError(
            "a stock eventmq router knows no --countdown, --eta, --expires and --priority"
        )
    job = Job(
        path=f"{module}:{class_name}" if class_name else module,
        callable=function,
        args=asked.args,
        kwargs=asked.kwargs,
    )
    headers = Headers(
        guarantee=not stock,
        task_id=asked.task_id,
        priority=asked.priority or 0,
        eta=asked.eta,
        expires=asked.expires,
    )
    return Publish(queue=asked.queue or _DEFAULT_QUEUE, headers=headers, payload=job.encode())
