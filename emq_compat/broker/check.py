"""What must be true of a journal, beyond SQLite's own: each row can be read, and all belong together."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from croniter import croniter

from emq_compat.broker.records import SEQUENCE_MASK, queue_of
from emq_compat.broker.schema import SCHEMA_VERSION
from emq_compat.errors import MessageError
from emq_compat.message import Headers
from emq_compat.words import amount

__all__ = ["TABLES", "Checked", "Problem", "Progress", "check", "tables_of", "wrong_headers"]

#: Tables with the columns that name a row.
TABLES = {
    "meta": ("name",),
    "queues": ("id",),
    "messages": ("key",),
    "in_flight": ("key",),
    "chords": ("number",),
    "parts": ("chord", "place"),
    "results": ("task_id",),
    "revoked": ("task_id",),
    "dead": ("key",),
    "schedules": ("key",),
    "periodic": ("schedule", "name"),
    "locks": ("key",),
    "paces": ("gate",),
    "shares": ("task",),
    "exchanges": ("name",),
    "bindings": ("exchange", "key", "queue"),
    "finished_0": ("msgid",),
    "finished_1": ("msgid",),
}

#: Told of each table that is looked into, and of how many rows of it: (table, rows).
Progress: TypeAlias = Callable[[str, int], None]

#: Problems that are kept; the others are counted.
_KEPT = 1000
#: Rows between two words on the progress.
_STEP = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is wrong.

    Attributes:
        table, row: where; empty: in the file as a whole.
        minor: a broker works all the same: a count is wrong.
    """

    what: str
    table: str = ""
    row: str = ""
    minor: bool = False

    def __str__(self) -> str:
        where = f"{self.table} {self.row}".strip()
        return f"{where}: {self.what}" if where else self.what


@dataclass(slots=True, kw_only=True)
class Checked:
    """What a check has found; ``counts``: rows by table."""

    schema: int
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    further: int = 0

    def add(self, problem: Problem) -> None:
        """Note a problem."""
        if len(self.problems) < _KEPT:
            self.problems.append(problem)
        else:
            self.further += 1


def check(db: sqlite3.Connection, progress: Progress | None = None) -> Checked:
    """Look for whatever is wrong with a journal; nothing is changed, and nothing raised for what is found.

    Args:
        db: a connection, in a transaction of its own.
    """
    tell = progress or (lambda table, rows: None)
    try:
        checked = Checked(schema=db.execute("PRAGMA user_version").fetchone()[0])
        tell("pages", 0)
        for (text,) in db.execute(f"PRAGMA integrity_check({_KEPT})"):
            if text != "ok":
                checked.add(Problem(what=str(text)))
        there = tables_of(db)
    except sqlite3.DatabaseError as exc:
        return Checked(schema=0, problems=[Problem(what=str(exc))])
    for table in there:
        tell(table, 0)
        try:
            checked.counts[table] = db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        except sqlite3.DatabaseError as exc:
            checked.add(Problem(table=table, what=f"its rows can't be counted: {exc}"))
    if checked.schema > SCHEMA_VERSION:
        checked.add(Problem(what=f"written by a newer emq-compat (schema {checked.schema})"))
    if checked.schema != SCHEMA_VERSION:
        return checked
    for missing in TABLES.keys() - set(there):
        checked.add(Problem(table=missing, what="the table is missing"))
    for look in (_messages, _in_flight, _chords, _results, _dead, _schedules, _declared):
        try:
            for problem in look(db, tell):
                checked.add(problem)
        except (sqlite3.DatabaseError, ValueError, TypeError) as exc:
            checked.add(Problem(table=look.__name__[1:], what=f"not all of it can be read: {exc}"))
    return checked


def tables_of(db: sqlite3.Connection) -> list[str]:
    """Return which tables of a journal there are."""
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in TABLES if table in names]


def _counted(rows: Iterator[Any] | sqlite3.Cursor, table: str, tell: Progress) -> Iterator[Any]:
    for n, row in enumerate(rows):
        if n % _STEP == 0:
            tell(table, n)
        yield row


_OF_MESSAGES = """
SELECT m.key, m.msgid, m.headers, typeof(m.payload), m.due_ms, m.home, m.gate,
    f.key IS NOT NULL, c.number IS NOT NULL FROM messages m LEFT JOIN in_flight f ON f.key = m.key
    LEFT JOIN (SELECT body, min(number) AS number FROM chords GROUP BY body) c ON c.body = m.key
"""


def _messages(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """Messages: headers that can be read, a queue that there is, a number that is reserved; their counts."""
    queues = {row[0]: row[1:] for row in db.execute("SELECT id, name, waiting, delayed FROM queues")}
    reserved = db.execute("SELECT value FROM meta WHERE name = 'sequence'").fetchone()
    last = int(reserved[0]) if reserved else 0
    waiting: Counter[int] = Counter()
    delayed: Counter[int] = Counter()
    rows = _counted(db.execute(_OF_MESSAGES), "messages", tell)
    for key, msgid, headers, payload, due_ms, home, gate, flies, awaited in rows:
        queue = queue_of(key if home is None else home)
        wrong = wrong_headers(headers)
        if queue not in queues:
            wrong = f"it is of queue {queue}, which isn't there"
        elif payload != "blob" or not isinstance(msgid, str):
            wrong = "its payload or msgid is of the wrong type"
        elif key & SEQUENCE_MASK > last:
            wrong = f"its number {key & SEQUENCE_MASK} is beyond those that are reserved ({last})"
        elif home is None and (due_ms is not None or gate is not None):
            wrong = "it waits in its queue and for something else"
        elif home is not None and flies:
            wrong = "it is handed out and waits for something"
        elif home is not None and due_ms is None and gate is None and not awaited:
            wrong = "it is held for a chord that isn't there"
        elif home is None and not flies:
            waiting[queue] += 1
        elif due_ms is not None:
            delayed[queue] += 1
        if wrong:
            yield Problem(table="messages", row=f"{key} ({msgid})", what=wrong)
    for queue, (name, kept_waiting, kept_delayed) in queues.items():
        for what, kept, found in (
            ("waiting", kept_waiting, waiting[queue]),
            ("delayed", kept_delayed, delayed[queue]),
        ):
            if kept != found:
                said = f"counted as {what}: {amount(kept, 'message')}, there are {found}"
                yield Problem(table="queues", row=f"{queue} ({name})", what=said, minor=True)


def wrong_headers(text: Any) -> str:
    """Return what is wrong with a row's headers; nothing: they can be read."""
    if not isinstance(text, str):
        return "its headers are no text"
    try:
        Headers.decode(text)
    except MessageError as exc:
        return f"its headers can't be read: {exc}"
    return ""


def _in_flight(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """Hand-outs: of a message that is there, and was not handed out so often before."""
    tell("in_flight", 0)
    query = """SELECT f.key, f.attempt, f.worker, m.key, m.attempt
        FROM in_flight f LEFT JOIN messages m ON m.key = f.key"""
    for key, attempt, worker, message, before in db.execute(query):
        row = str(key)
        if message is None:
            yield Problem(table="in_flight", row=row, what="the message that was handed out isn't there")
        elif not isinstance(attempt, int) or attempt <= before or not isinstance(worker, bytes):
            yield Problem(
                table="in_flight", row=row, what=f"hand-out {attempt!r} to {worker!r}, after {before}"
            )


def _chords(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """Chords: a body that is held, and counts that fit the parts."""
    tell("chords", 0)
    query = """SELECT c.number, c.id, c.size, c.arrived, c.failure, c.body, m.key, m.home,
        (SELECT count(*) FROM parts p WHERE p.chord = c.number AND p.value IS NOT NULL)
        FROM chords c LEFT JOIN messages m ON m.key = c.body"""
    for number, chord, size, arrived, failure, body, message, home, values in db.execute(query):
        wrong = ""
        if body is not None and (message is None or home is None):
            wrong = "the body that it holds isn't there"
        elif failure is None and values > arrived:
            wrong = f"parts counted: {arrived}, with a value: {values}"
        elif failure is not None and values:
            wrong = f"it has failed, and keeps {amount(values, 'value')}"
        elif size < -1 or arrived < 0:
            wrong = f"size {size}, arrived {arrived}"
        if wrong:
            yield Problem(table="chords", row=f"{number} ({chord})", what=wrong)
    for number, place in db.execute(
        "SELECT chord, min(place) FROM parts WHERE chord NOT IN (SELECT number FROM chords) GROUP BY chord"
    ):
        yield Problem(table="parts", row=f"{number} {place}", what="of a chord that isn't there", minor=True)
    for number, place, value in db.execute("SELECT chord, place, value FROM parts WHERE value IS NOT NULL"):
        if (wrong := _wrong_json(value)) or not str(place).replace(".", "").isdigit():
            what = f"its value can't be read: {wrong}" if wrong else "its place can't be read"
            yield Problem(table="parts", row=f"{number} {place}", what=what)


def _wrong_json(value: Any) -> str:
    try:
        json.loads(value)
    except (ValueError, RecursionError, TypeError) as exc:
        return str(exc)
    return ""


def _results(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """Results: a reply's JSON."""
    rows = db.execute("SELECT task_id, state, body FROM results")
    for task_id, state, body in _counted(rows, "results", tell):
        if not isinstance(state, str) or (wrong := _wrong_json(body)):
            what = f"the result can't be read: {wrong if isinstance(state, str) else 'no state'}"
            yield Problem(table="results", row=str(task_id), what=what, minor=True)


def _dead(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """Dead letters: headers that can be read."""
    for key, msgid, headers in _counted(db.execute("SELECT key, msgid, headers FROM dead"), "dead", tell):
        if wrong := wrong_headers(headers):
            yield Problem(table="dead", row=f"{key} ({msgid})", what=wrong)


def _schedules(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """Schedules: headers and times that can be read."""
    tell("schedules", 0)
    for key, headers, interval_s, cron in db.execute("SELECT key, headers, interval_s, cron FROM schedules"):
        if wrong := wrong_headers(headers):
            yield Problem(table="schedules", row=str(key), what=wrong)
        elif (cron and not croniter.is_valid(cron)) or (not cron and interval_s < 1):
            yield Problem(table="schedules", row=str(key), what=f"cron {cron!r}, every {interval_s!r} s")


def _declared(db: sqlite3.Connection, tell: Progress) -> Iterator[Problem]:
    """What is declared of queues and exchanges: JSON."""
    tell("queues", 0)
    for table, named in (("queues", "name"), ("exchanges", "name")):
        query = f"SELECT {named}, options FROM {table} WHERE options IS NOT NULL"
        for name, options in db.execute(query):
            if wrong := _wrong_json(options):
                yield Problem(table=table, row=str(name), what=f"what is declared can't be read: {wrong}")
