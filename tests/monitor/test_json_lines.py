"""Logs in JSON: the formatter by itself, and real processes."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

import pytest

from emq_compat.json_lines import JsonLines, in_json

unit = pytest.mark.unit


def _record(message: Any = "said", *args: Any, **more: Any) -> logging.LogRecord:
    record = logging.getLogger("some.logger").makeRecord(
        "some.logger", logging.WARNING, __file__, 1, message, args, more.pop("exc_info", None), extra=more
    )
    record.created = datetime(2026, 11, 26, 9, 30, 1, 250000, tzinfo=timezone.utc).timestamp()
    return record


def _line(record: logging.LogRecord, **running: Any) -> dict[str, Any]:
    line = JsonLines(lambda: running).format(record)
    assert "\n" not in line
    assert line.isascii()
    document = json.loads(line)
    assert isinstance(document, dict)
    return document


@unit
def test_a_line_is_an_object() -> None:
    """A line tells when, how grave, by whom and what, and which task runs."""
    line = _line(_record("two\nlines and %s", "é"), task_id="t1", task_name="shop.mail")
    assert "2026-11-26T09:30:01.250Z" == line.pop("timestamp")
    assert {"WARNING", "some.logger", "two\nlines and é", "t1", "shop.mail"} <= set(map(str, line.values()))
    assert {"level", "logger", "process", "pid", "message", "task_id", "task_name"} == set(line)


class Mute:
    """Can't be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")


@unit
def test_no_line_is_lost() -> None:
    """A value whose own method fails is told of as far as it goes; the stack that was asked for is there."""
    record = _record("said", data={"id": "t1", "name": Mute(), "description": Mute(), "traceback": Mute()})
    record.stack_info = "Stack (most recent call last): …"
    line = _line(record)
    assert "t1" == line["task_id"]
    assert "Mute" in line["task_name"]
    assert "Stack (most recent call last): …" == line["stack"]


@unit
def test_facts_of_a_task_are_members() -> None:
    """What a record says of a task is told, but its arguments and value; a traceback is apart."""
    data = {"id": "t1", "name": "shop.mail", "queue": "mails", "state": "FAILURE", "runtime": 0.5}
    told = _line(
        _record("it failed: %s\n%s", "why", "Traceback …", data={**data, "traceback": "Traceback …"})
    )
    assert ("it failed: why", "Traceback …") == (told["message"], told["exception"])
    assert ["t1", "shop.mail", "mails", "FAILURE", 0.5] == [
        told[name] for name in ("task_id", "task_name", "queue", "state", "runtime_s")
    ]
    celerys = {
        "id": "t1",
        "name": "shop.mail",
        "return_value": "'secret'",
        "args": "('secret',)",
        "runtime": 1,
    }
    told = _line(_record("done", data=celerys))
    assert ("SUCCESS", 1) == (told["state"], told["runtime_s"])
    assert "secret" not in json.dumps(told)


class _Sulky:
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__


class _SulkyError(Exception):
    __str__ = __repr__ = _Sulky.__str__


@unit
def test_nothing_loses_a_line() -> None:
    """What can't be formatted, printed or encoded is told in its place."""
    assert "can't be formatted" in _line(_record("%s", _Sulky()))["message"]
    assert "can't be formatted" in _line(_record("%d", "x"))["message"]
    assert "\udc80" == _line(_record("\udc80"))["message"]
    try:
        raise _SulkyError
    except _SulkyError:
        assert "_SulkyError" in _line(_record(exc_info=sys.exc_info()))["exception"]
    try:
        raise KeyError("x")
    except KeyError:
        assert _line(_record(exc_info=sys.exc_info()))["exception"].endswith("KeyError: 'x'")


@unit
def test_what_a_project_set_up_stays() -> None:
    """Only the formatters that are known to be ours are replaced."""

    class Own(logging.Formatter):
        pass

    ours, theirs, bare = (logging.StreamHandler() for _ in range(3))
    ours.setFormatter(logging.Formatter())
    theirs.setFormatter(Own())
    in_json((ours, theirs, bare), (logging.Formatter,))
    assert [JsonLines, Own, type(None)] == [type(one.formatter) for one in (ours, theirs, bare)]
