"""A schedule that the broker keeps: what a beat asks of it (docs/protocol.md, the entries of beats)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from emq_compat.message import Publish, new_id
from emq_compat.shim.schedules.interval import schedule
from emq_compat.shim.surface.times import maybe_make_aware, timezone

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Kept", "Run", "Seen", "kept_as"]

#: The default of beat_schedule_filename: it names no schedule of its own.
_DEFAULT_NAME = "celerybeat-schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An entry as the broker has it.

    Attributes:
        last_run_at: unix seconds, by the clock of the beat that sent it.
        total: how often it was sent.
        token: names the last run; empty: none yet.
        age_s: seconds of real time since the last run, or since it was added.
        heard_at: when (monotonic) the broker has said so.
    """

    last_run_at: float
    total: int
    token: str
    age_s: float
    heard_at: float = field(default_factory=time.monotonic)

    def applied_to(self, entry: Any, now: datetime) -> None:
        """Have an entry go on from there; ``now`` is what its clock shows.

        An interval counts in real time: a change of the clock makes it neither longer nor shorter. Any other
        schedule names times that the clock shows.
        """
        if counts_real_time(entry.schedule):
            passed_s = self.age_s + (time.monotonic() - self.heard_at)
            entry.last_run_at = maybe_make_aware(now) - timedelta(seconds=passed_s)
        else:
            entry.last_run_at = datetime.fromtimestamp(self.last_run_at, timezone.utc)
        entry.total_run_count = self.total


def counts_real_time(given: Any) -> bool:
    """Return whether a schedule is a plain interval."""
    return type(given) is schedule and not given.relative


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of an entry that is to be sent; said again it is the same run.

    Attributes:
        was: the token of the run before it.
        at: when it is, by the entry's clock.
        next_s: seconds from then until the entry is to be looked at again.
        made_at: monotonic seconds.
    """

    was: str
    at: datetime
    next_s: float
    messages: tuple[Publish, ...]
    token: str = field(default_factory=new_id)
    made_at: float = field(default_factory=time.monotonic)


class Kept:
    """The entries of one schedule in the broker of an app."""

    by = "broker"

    def __init__(self, app: Celery, name: str) -> None:
        self._app = app
        self.name = name

    def begin(self, entries: Iterable[Any], *, only: bool) -> dict[str, Seen]:
        """Add entries that are new there; returns what is known of them.

        ``only``: the schedule's others are forgotten.

        Raises:
            OperationalError: the broker doesn't answer, or refuses.
            LocalProtocolError: they are too many for one message.
        """
        return self._ask("periodic_begin", entries=[_row(entry) for entry in entries], only=only)

    def look(self, names: Sequence[str]) -> dict[str, Seen]:
        """Return what is known of these entries; those that are gone are missing. Raises as ``begin``."""
        return self._ask("periodic_look", names=list(names))

    def send(self, name: str, run: Run) -> tuple[bool, Seen | None]:
        """Publish a run, unless another beat has; returns whether it was, and the entry as it is then.

        Raises:
            BrokerRefused: it can't be published.
            OperationalError: no answer: whether it was published is unknown. The same run can be sent again.
        """
        answer = self._app.client.ask(
            "periodic_send",
            schedule=self.name,
            name=name,
            was=run.was,
            token=run.token,
            last_run_at=maybe_make_aware(run.at).timestamp(),
            next_at=time.time() + run.next_s - (time.monotonic() - run.made_at),
            messages=[
                {
                    "msgid": message.msgid,
                    "queue": message.queue,
                    "headers": message.headers.encode(),
                    "payload": message.payload.decode(),
                }
                for message in run.messages
            ],
        )
        row = answer["entry"]
        return answer["sent"], None if row is None else Seen(**row)

    def _ask(self, verb: str, **arguments: Any) -> dict[str, Seen]:
        rows: Mapping[str, Any] = self._app.client.ask(verb, schedule=self.name, **arguments)
        return {name: Seen(**row) for name, row in rows.items()}


def _row(entry: Any) -> dict[str, Any]:
    return {
        "name": str(entry.name),
        "task": str(entry.task),
        "shown": str(entry.schedule)[:200],
        "last_run_at": maybe_make_aware(entry.last_run_at).timestamp(),
        "total": entry.total_run_count,
        "next_at": _next_at(entry),
    }


def _next_at(entry: Any) -> float | None:
    """Return when a new entry is due, unix seconds, for those who look; None: its schedule doesn't tell."""
    try:
        is_due, next_s = entry.is_due()
    except Exception:  # noqa: BLE001 - a schedule of the project's: the scheduler logs it when it is its turn
        return None
    if is_due:
        return time.time()
    return None if next_s is None else time.time() + float(next_s)


def kept_as(app: Celery, given: str | None) -> str:
    """Return the name of an app's schedule in the broker: the app's, and what ``-s`` says, if anything.

    Projects that share a broker have apps of different names, as they have queues of different names. Of a
    file's path its last part counts: one schedule may be a file in another folder on each machine.
    """
    own = app.main or app.conf.task_default_queue
    name = PurePath(given or "").name
    return own if name in ("", _DEFAULT_NAME) else f"{own}:{name}"
