"""SCHEDULE and UNSCHEDULE: jobs that the broker itself publishes again and again.

A schedule is named by what it runs (path, callable, arguments), as in eventmq: scheduling the same again
replaces it. Runs missed while the broker was down are not made up for.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable
from datetime import datetime

from croniter import CroniterBadDateError, croniter

from emq_compat.broker.journal import Journal
from emq_compat.broker.records import Moment, ScheduleRow
from emq_compat.errors import MessageError
from emq_compat.message import Headers, Job, Publish
from emq_compat.protocol.commands import Schedule, Unschedule

__all__ = ["Schedules"]

#: Digits of the number of runs, which the journal keeps as a 64-bit number.
_COUNT_DIGITS = 18


def schedule_key(payload: bytes) -> str:
    """Return the name of the schedule of a ``run`` payload; raises MessageError if it is none."""
    job = Job.decode(payload)
    named = [job.path, job.callable, job.args, job.kwargs, job.class_args, job.class_kwargs]
    try:
        text = json.dumps(named, sort_keys=True)
    except RecursionError as exc:
        raise MessageError("the schedule's arguments are nested too deeply") from exc
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Schedules:
    """All schedules, on disk, and in memory a heap of what is next.

    Args:
        publish: called with each message that is due.
    """

    def __init__(self, journal: Journal, publish: Callable[[Publish, Moment], None]) -> None:
        self._journal = journal
        self._publish = publish
        self._rows = {row.key: row for row in journal.schedules()}
        self._heap = [(row.next_at, row.key) for row in self._rows.values()]
        heapq.heapify(self._heap)

    def rows(self) -> list[ScheduleRow]:
        """Return every schedule."""
        return list(self._rows.values())

    def next_at(self) -> float | None:
        """Return the unix time of the next run."""
        return self._heap[0][0] if self._heap else None

    def add(self, command: Schedule, queue: str, now: Moment) -> None:
        """Add or replace a schedule; unless its headers say ``nohaste`` it runs once at once.

        Raises:
            MessageError: no interval nor a cron string that can be read, or a payload that is no ``run``.
        """
        key = schedule_key(command.payload)
        if command.cron:
            if not croniter.is_valid(command.cron):
                raise MessageError(f"the cron string {command.cron!r} can't be read")
        elif command.interval_s < 1:
            raise MessageError(
                f"a schedule needs an interval of at least 1 s or a cron string, not {command.interval_s}"
            )
        coming = _next(command.cron, command.interval_s, now.wall, now.wall)
        if coming is None:
            raise MessageError(f"the cron string {command.cron!r} names no time that will come")
        haste = "nohaste" not in command.headers.split(",")
        row = ScheduleRow(
            key=key,
            queue=queue,
            header_text=Headers.decode(command.headers).encode(),
            payload=command.payload,
            interval_s=command.interval_s,
            cron=command.cron,
            next_at=now.wall if haste else coming,
            runs_left=_run_count(command.headers),
        )
        self._put(row)
        self.run_due(now)

    def remove(self, command: Unschedule) -> bool:
        """Remove a schedule; returns whether there was one. Raises MessageError as ``add``."""
        key = schedule_key(command.payload)
        self._rows.pop(key, None)
        return self._journal.drop_schedule(key)

    def run_due(self, now: Moment) -> None:
        """Publish what is due, each once however many times were missed."""
        while self._heap and self._heap[0][0] <= now.wall:
            next_at, key = heapq.heappop(self._heap)
            row = self._rows.get(key)
            if row is None or row.next_at != next_at:
                continue
            self._publish(
                Publish(queue=row.queue, headers=Headers.decode(row.header_text), payload=row.payload), now
            )
            left = row.runs_left - 1 if row.runs_left > 0 else row.runs_left
            coming = _next(row.cron, row.interval_s, row.next_at, now.wall)
            if left == 0 or coming is None:
                del self._rows[key]
                self._journal.drop_schedule(key)
            else:
                self._put(row._replace(next_at=coming, runs_left=left))

    def _put(self, row: ScheduleRow) -> None:
        self._rows[row.key] = row
        self._journal.put_schedule(row)
        heapq.heappush(self._heap, (row.next_at, row.key))


def _next(cron: str, interval_s: int, last: float, now: float) -> float | None:
    """Return the first time after ``now`` in the schedule's own rhythm; None: there is none (30 February)."""
    if cron:
        try:
            return float(croniter(cron, datetime.fromtimestamp(now).astimezone()).get_next(float))
        except CroniterBadDateError:
            return None
    missed = max(0, int((now - last) // interval_s))
    return last + (missed + 1) * interval_s


def _run_count(headers: str) -> int:
    for part in headers.split(","):
        name, _, value = part.strip().partition(":")
        if name == "run_count":
            if not (value.isascii() and value.isdigit() and len(value) <= _COUNT_DIGITS):
                raise MessageError(f"header 'run_count' has the value {value[:80]!r}, which is not a number")
            return int(value) or -1
    return -1
