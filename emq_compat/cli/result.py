"""``emq-compat result``: what became of a task."""

from __future__ import annotations

import sys
from typing import Any

import click

from emq_compat.broker.term_asks import ENDED, NOTHING_KNOWN
from emq_compat.cli.as_json import json_option, one_line, tell
from emq_compat.cli.connection import Connection, talks_to_broker
from emq_compat.client import Client, StoredResult
from emq_compat.errors import BrokerRefused
from emq_compat.message import FINAL_STATES, SUCCESS
from emq_compat.table import printable

__all__ = ["result", "show_result", "wait_for_result", "where_it_is"]


@click.command()
@click.argument("task_id", metavar="ID")
@click.option(
    "-t",
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait for it, at most so long.",
)
@click.option("--traceback", is_flag=True, help="Show the worker's traceback, where there is one.")
@json_option("Print all that is stored, as one JSON object.")
@talks_to_broker
def result(
    connection: Connection, task_id: str, wait_s: float | None, traceback: bool, as_json: bool
) -> None:
    """Print the result of the task ID as JSON.

    Ends with 0 when the task has succeeded; else with 1, and says why on standard error.
    """
    with connection.client() as client:
        stored = None
        if wait_s is not None:
            stored = wait_for_result(client, task_id, wait_s)
        if stored is None:
            stored = client.results([task_id])[task_id]
        whereabouts = "" if stored is not None else where_it_is(client, task_id)
    if stored is None:
        waited = "" if wait_s is None else f", after {wait_s:g} s"
        why = whereabouts or "the task has not begun, keeps none, or it has expired; or there is no such id"
        raise click.ClickException(f"no result of {printable(task_id)}{waited}: {why}")
    if as_json:
        tell({**stored.reply, "id": task_id, "state": stored.state})
        sys.exit(0 if stored.state == SUCCESS else 1)
    show_result(task_id, stored, traceback=traceback)


def where_it_is(client: Client, task_id: str) -> str:
    """Return in words what the broker knows of a task that has no result yet; empty: nothing."""
    try:
        told = str(client.ask("why", ids=[task_id])[task_id])
    except BrokerRefused:  # an older one, or a key that doesn't open that
        return ""
    if told == NOTHING_KNOWN or told.startswith(ENDED):
        return ""
    if told.startswith("handed out"):
        return f"it was {told}, and has not ended"
    return f"it {told}" if told.startswith("waits ") else f"it is {told}"


def wait_for_result(client: Client, task_id: str, wait_s: float) -> StoredResult | None:
    """Return the result once it is final; None: not within ``wait_s`` seconds."""
    try:
        for _, stored in client.wait([task_id], wait_s):
            return stored
    except TimeoutError:
        pass
    return None


def show_result(task_id: str, stored: StoredResult, *, traceback: bool) -> None:
    """Print a value on standard output; anything else on standard error, and end with 1."""
    reply = stored.reply
    if stored.state == SUCCESS:
        tell(reply.get("value"))
        return
    if traceback and reply.get("traceback"):
        click.echo("\n".join(map(printable, str(reply["traceback"]).splitlines())), err=True)
    if stored.state not in FINAL_STATES:
        about = "" if reply.get("value") is None else f" {one_line(reply['value'])}"
        raise click.ClickException(f"{task_id} is not done: {printable(stored.state + about)}")
    raise click.ClickException(f"{task_id} ended as {stored.state}: {_reason(reply)}")


def _reason(reply: dict[str, Any]) -> str:
    error = reply.get("error")
    if not isinstance(error, dict):
        return printable(str(reply.get("value")))
    return printable(f"{error.get('type')}: {error.get('message')}")
