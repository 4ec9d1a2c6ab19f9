"""``emq-compat logtool``: sums a worker's log up (of the level info, in the usual formats)."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

import click

from emq_compat.cli.as_json import json_option, tell
from emq_compat.table import names, table

__all__ = ["Audit", "logtool"]

#: The beginning of a record: Celery's formats begin with the time, in square brackets.
_RECORD = re.compile(r"\[\d{4}-\d\d-\d\d[ T]")
_RECEIVED = re.compile(
    r"\] (?:Task (?P<name>[^\s\[]+)\[(?P<id>[^\]]+)\] received|Received task: (?P<old>\S+))"
)
_ENDED = re.compile(r"\] Task (?P<name>[^\s\[]+)\[(?P<id>[^\]]+)\]:? (?P<told>.+)")
_OLD_ID = re.compile(r"(?P<name>[^\s\[]+)\[(?P<id>[^\]]+)\]")
#: What is said of a task that has not ended: it comes again.
_NOT_ENDED = ("retry", "received", "accepted")


class Audit:
    """What the lines of a log say of tasks.

    Attributes:
        received: id → name of each task that was taken in.
        ended: id → what was said of its end.
        types: name → how many were taken in.
        failures: the lines that tell of an end without success.
        traces: lines that belong to a record before them, each group with that record.
        rest: records that tell of no task.
    """

    def __init__(self) -> None:
        self.received: dict[str, str] = {}
        self.ended: dict[str, str] = {}
        self.types: Counter[str] = Counter()
        self.failures: list[str] = []
        self.traces: list[str] = []
        self.rest: list[str] = []

    def read(self, lines: Iterable[str]) -> Audit:
        """Take in lines; returns itself."""
        record, more = "", []
        for line in lines:
            text = line.rstrip("\n")
            if not _RECORD.match(text):
                more.append(text)
                continue
            self._flush(record, more)
            record, more = text, []
            self._take_in(text)
        self._flush(record, more)
        return self

    def _flush(self, record: str, more: list[str]) -> None:
        if any(line.strip() for line in more):
            self.traces.append("\n".join([record, *more] if record else more))

    def _take_in(self, line: str) -> None:
        received = _RECEIVED.search(line)
        if received is not None:
            if received["old"]:
                received = _OLD_ID.match(received["old"])
            if received is not None:
                self.received[received["id"]] = received["name"]
                self.types[received["name"]] += 1
            return
        ended = _ENDED.search(line)
        if ended is None:
            self.rest.append(line)
        elif not ended["told"].lower().startswith(_NOT_ENDED):
            self.ended[ended["id"]] = ended["told"]
            if not ended["told"].startswith("succeeded"):
                self.failures.append(line)

    @property
    def incomplete(self) -> list[str]:
        """The ids of tasks that were taken in and have not ended."""
        return [one for one in self.received if one not in self.ended]


@click.group()
def logtool() -> None:
    """Sum up what a worker has logged (with -l info); without files standard input is read."""


def _audit(files: tuple[TextIO, ...]) -> Audit:
    return Audit().read(_lines(files))


def _lines(files: tuple[TextIO, ...]) -> Iterator[str]:
    for file in files or (sys.stdin,):
        yield from file


_files = click.argument("files", nargs=-1, type=click.File(errors="replace"))


@logtool.command()
@_files
@json_option("Print them as one JSON object.")
def stats(files: tuple[TextIO, ...], as_json: bool) -> None:
    """Count the tasks: taken in, ended, failed; and by name."""
    audit = _audit(files)
    counts = {
        "total": len(audit.received),
        "errors": len(audit.failures),
        "success": len(audit.ended) - len(audit.failures),
        "completed": len(audit.ended),
    }
    if as_json:
        tell({**counts, "received": dict(audit.types.most_common())})
        return
    sums = "\n".join(f"Task {what}: {count}" for what, count in counts.items())
    click.echo(f"\nReport\n======\n{sums}\n\nTasks\n=====")
    click.echo(table((names("task"), "received"), audit.types.most_common()))


@logtool.command()
@_files
@json_option("Print them as one JSON array.")
def traces(files: tuple[TextIO, ...], as_json: bool) -> None:
    """Print the tracebacks, each behind the line that it belongs to."""
    _print(_audit(files).traces, as_json=as_json)


@logtool.command()
@_files
@json_option("Print them as one JSON array.")
def errors(files: tuple[TextIO, ...], as_json: bool) -> None:
    """Print the lines that tell of tasks that did not succeed."""
    _print(_audit(files).failures, as_json=as_json)


@logtool.command()
@_files
@json_option("Print the ids as one JSON array.")
def incomplete(files: tuple[TextIO, ...], as_json: bool) -> None:
    """Print the ids of tasks that were taken in and have not ended."""
    _print(_audit(files).incomplete, "Did not complete: ", as_json=as_json)


@logtool.command()
@_files
@json_option("Print them as one JSON array.")
def debug(files: tuple[TextIO, ...], as_json: bool) -> None:
    """Print the lines that tell of no task."""
    _print(_audit(files).rest, as_json=as_json)


def _print(found: Sequence[str], before: str = "", *, as_json: bool) -> None:
    if as_json:
        tell(found)
        return
    for one in found:
        click.echo(before + one)
