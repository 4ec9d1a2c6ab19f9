"""``emq-compat amqp``: administration of queues under the names of Celery's shell for AMQP."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.cli.context import root_context
from emq_compat.client import Client
from emq_compat.errors import EmqError
from emq_compat.table import Column, names, printable, table
from emq_compat.words import amount

__all__ = ["amqp"]

_NO_EXCHANGES = (
    "there are no exchanges here: task_queues and task_routes of the app say which name leads to which queue "
    "(emq-compat list bindings)"
)


@click.group()
def shell() -> None:
    """The commands, inside the shell too."""


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog="Commands: queue.list [--json], queue.declare NAME, queue.purge NAME, queue.delete NAME "
    "[IF_UNUSED [IF_EMPTY]], help, exit. What Celery's shell has beside them is answered with what to use "
    "instead.",
)
@click.argument("words", nargs=-1, metavar="[COMMAND ARGUMENTS]")
@talks_to_broker
def amqp(connection: Connection, words: tuple[str, ...]) -> None:
    """Administrate the broker's queues: one command, or as many as are typed.

    A queue comes into being with its first message or listener. DURABLE and AUTO_DELETE mean nothing here:
    all queues are durable, and stay.
    """
    with connection.client() as client:
        if words:
            _run(client, list(words))
            return
        context = root_context()
        context.echo(f"-> connecting to {connection.url}.")
        client.ask("stats")
        context.secho("-> connected.", fg="green", bold=True)
        _loop(client)


def _loop(client: Client) -> None:
    """Run what is typed, or stands in standard input, to its end."""
    failed = False
    while True:
        try:
            line = input("> ") if sys.stdin.isatty() else next(sys.stdin)
        except (EOFError, StopIteration):
            break
        except KeyboardInterrupt:
            click.echo()
            continue
        try:
            words = shlex.split(line)
            if words[:1] in (["exit"], ["quit"], [":exit"], [":quit"], [":q"]):
                break
            if words:
                _run(client, words)
        except click.ClickException as exc:
            failed = True
            root_context().error(f"{root_context().ERROR}: {exc.format_message()}")
        except (ValueError, EmqError) as exc:
            failed = True
            root_context().error(f"{root_context().ERROR}: {exc}")
    if failed and not sys.stdin.isatty():
        sys.exit(1)


def _run(client: Client, words: list[str]) -> None:
    if words == ["help"]:
        words = ["--help"]
    shell.main(args=words, prog_name="amqp", obj=client, standalone_mode=False)


@shell.command("queue.list")
@json_option("Print them as one JSON array.")
@click.pass_obj
def _list(client: Client, as_json: bool) -> None:
    """Show the queues."""
    queues = client.ask("queues")
    if as_json:
        tell(queues)
        return
    columns = (names("name"), *map(Column, ("waiting", "delayed", "in_flight", "workers")))
    click.echo(table(columns, [[queue[column.head] for column in columns] for queue in queues]))


@shell.command("queue.declare")
@click.argument("queue")
@click.argument("passive", type=bool, default=False)
@click.argument("durable", type=bool, default=True)
@click.argument("auto_delete", type=bool, default=False)
@click.pass_obj
def _declare(client: Client, queue: str, passive: bool, durable: bool, auto_delete: bool) -> None:
    """Show what a queue holds and who listens; PASSIVE: an error if there is none of this name."""
    found = _queue(client, queue, must_be=passive)
    told = f"queue:{printable(queue)} messages:{_held(found)} consumers:{found['workers']}"
    root_context().secho(told, fg="cyan", bold=True)
    click.echo(root_context().OK)


@shell.command("queue.purge")
@click.argument("queue")
@click.pass_obj
def _purge(client: Client, queue: str) -> None:
    """Drop all messages that wait in a queue."""
    _tell_deleted(client.ask("purge", queue=queue))


@shell.command("queue.delete")
@click.argument("queue")
@click.argument("if_unused", type=bool, default=False)
@click.argument("if_empty", type=bool, default=False)
@click.pass_obj
def _delete(client: Client, queue: str, if_unused: bool, if_empty: bool) -> None:
    """Drop what a queue holds; its name stays known to the broker.

    IF_UNUSED, IF_EMPTY: an error where workers listen on it, where it holds messages.
    """
    found = _queue(client, queue, must_be=True)
    if if_unused and found["workers"]:
        raise click.ClickException(f"{queue!r} is in use: {amount(found['workers'], 'worker')} listen on it")
    if if_empty and _held(found):
        raise click.ClickException(f"{queue!r} is not empty: it holds {amount(_held(found), 'message')}")
    _tell_deleted(client.ask("purge", queue=queue))


def _queue(client: Client, name: str, *, must_be: bool) -> dict[str, Any]:
    for queue in client.ask("queues"):
        if queue["name"] == name:
            return dict(queue)
    if must_be:
        raise click.ClickException(f"there is no queue {name!r}")
    return {"name": name, "waiting": 0, "delayed": 0, "workers": 0}


def _held(queue: dict[str, Any]) -> int:
    return int(queue["waiting"] + queue["delayed"] + queue.get("held", 0))


def _tell_deleted(count: int) -> None:
    root_context().secho(f"{count} messages deleted.", fg="cyan", bold=True)
    click.echo(root_context().OK)


def _refused(name: str, why: str) -> None:
    @shell.command(
        name, help=f"Not here: {why}.", context_settings={"ignore_unknown_options": True}, hidden=True
    )
    @click.argument("words", nargs=-1)
    def refuse(words: tuple[str, ...]) -> None:
        raise click.ClickException(f"{name}: {why}")


for _name in ("exchange.declare", "exchange.delete", "queue.bind"):
    _refused(_name, _NO_EXCHANGES)
_refused("basic.get", "a message is handed to workers only; `status` and `inspect` show what is there")
_refused("basic.ack", "a message is acknowledged by the worker that has it")
_refused("basic.publish", "a message is a task: `emq-compat call NAME -a '[1, 2]'` publishes one")
