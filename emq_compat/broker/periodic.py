"""What beats send: the entries of each schedule, when each was last sent, which of several beats sends it.

A beat decides when an entry is due. It sends by ``send``: the entry's messages are published, and its last
run is moved on, if that is still the one the beat has seen; both, or neither, in the turn's one transaction.
So of several beats one sends a run, and a beat that comes back goes on where the last one stopped.

What a beat has seen of an entry is its ``token``, the id of the last change. A change that arrives twice (its
confirmation was lost) is known by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emq_compat.beat_lock import is_lock
from emq_compat.broker.desk import Desk
from emq_compat.broker.records import Moment, PeriodicRow
from emq_compat.errors import MessageError
from emq_compat.message import Publish
from emq_compat.words import amount

__all__ = ["AHEAD_S", "NewEntry", "Periodic"]

#: How far the clock of a beat, or a last run, may be ahead of the broker's clock, in seconds. A clock that
#: was put back by less repeats no run; one that was wrong by more is corrected, and its runs start anew.
AHEAD_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry as a beat has it.

    Attributes:
        task, shown: its task's name and its schedule in words, for those who look.
        last_run_at: unix seconds from which its first run counts.
        total: how often it was sent before.
        next_at: unix seconds at which the beat means to send it first; None: it doesn't say.
    """

    name: str
    task: str
    shown: str
    last_run_at: float
    total: int = 0
    next_at: float | None = None


class Periodic:
    """All entries, on disk and in memory.

    Args:
        publish: called with each message to be sent.
    """

    def __init__(self, desk: Desk, publish: Callable[[Publish, Moment], None], now: Moment) -> None:
        self._desk = desk
        self._publish = publish
        self._rows = {(row.schedule, row.name): row for row in desk.journal.periodic()}
        #: When each was sent, in monotonic seconds: intervals are of real time, whatever the clock does.
        self._sent = {key: now.mono - max(0.0, now.wall - row.sent_at) for key, row in self._rows.items()}

        #: What beats say of their next runs; not kept over a restart.
        self._next: dict[tuple[str, str], float] = {}

    def next_at(self, row: PeriodicRow) -> float | None:
        """Return when an entry's beat means to send it next, unix seconds; None: it has not said so."""
        return self._next.get((row.schedule, row.name))

    def rows(self) -> list[PeriodicRow]:
        """Return every entry of every schedule, in order, without the locks of beats that choose a leader."""
        rows = [row for _, row in sorted(self._rows.items())]
        return [row for row in rows if not is_lock(row.schedule, row.name, row.task, row.shown)]

    def age_s(self, row: PeriodicRow, now: Moment) -> float:
        """Return how many seconds ago, in real time, an entry was sent (or added)."""
        return max(0.0, now.mono - self._sent[row.schedule, row.name])

    def begin(
        self, schedule: str, entries: Sequence[NewEntry], now: Moment, *, only: bool
    ) -> list[PeriodicRow]:
        """Add those entries that are not known yet; returns all that were named.

        ``only``: the schedule has no others; those that it had are forgotten.

        Raises:
            MessageError: the beat's clock is more than AHEAD_S ahead of this one.
        """
        for entry in entries:
            self._check_clock(entry.last_run_at, now)
        if only:
            named = {entry.name for entry in entries}
            gone = [row for row in self._rows.values() if row.schedule == schedule and row.name not in named]
            for row in gone:
                self._drop(row)
            if gone:
                names = ", ".join(row.name for row in gone[:10])
                removed = amount(len(gone), "entry", "entries")
                self._desk.note("info", f"schedule {schedule!r}: {removed} removed: {names}")
        for entry in entries:
            known = self._rows.get((schedule, entry.name))
            if known is None:
                row = PeriodicRow(
                    schedule=schedule,
                    name=entry.name,
                    last_run_at=entry.last_run_at,
                    sent_at=min(entry.last_run_at, now.wall),
                    total=entry.total,
                    token="",
                    task=entry.task,
                    shown=entry.shown,
                )
                self._sent[schedule, entry.name] = now.mono - (now.wall - row.sent_at)
                self._put(row)
                self._expect(schedule, entry.name, entry.next_at)
            elif (known.task, known.shown) != (entry.task, entry.shown):
                self._put(known._replace(task=entry.task, shown=entry.shown))
        return self.look(schedule, [entry.name for entry in entries], now)

    def look(self, schedule: str, names: Sequence[str], now: Moment) -> list[PeriodicRow]:
        """Return what is known of these entries; those that are gone are missing."""
        found = []
        for name in names:
            row = self._rows.get((schedule, name))
            if row is None:
                continue
            if row.last_run_at > now.wall + AHEAD_S:
                ahead_s = row.last_run_at - now.wall
                self._desk.note(
                    "warning",
                    f"schedule {schedule!r}: the last run of {name!r} is {ahead_s:.0f} s in the future: "
                    "the clock was wrong; it counts from now on",
                )
                row = row._replace(last_run_at=now.wall)
                self._put(row)
            found.append(row)
        return found

    def send(
        self,
        schedule: str,
        name: str,
        *,
        was: str,
        token: str,
        last_run_at: float,
        messages: Sequence[Publish],
        now: Moment,
        next_at: float | None = None,
    ) -> tuple[bool, PeriodicRow | None]:
        """Publish a run of an entry, if the entry is still as it ``was``.

        Args:
            was: the token that the beat has seen.
            token: names this very run; the same one again is the same run.
            last_run_at: when it is, unix seconds by the beat's clock.
            next_at: when the one after it is; None: the beat doesn't say.

        Returns:
            Whether it was sent (now, or by the same token before), and the entry as it is; None: it is gone.

        Raises:
            MessageError: the beat's clock is more than AHEAD_S ahead of this one.
        """
        row = self._rows.get((schedule, name))
        if row is None:
            return False, None
        if row.token == token:
            return True, row
        if row.token != was:
            return False, row
        self._check_clock(last_run_at, now)
        for message in messages:
            self._publish(message, now)
        self._sent[schedule, name] = now.mono
        row = row._replace(last_run_at=last_run_at, sent_at=now.wall, total=row.total + 1, token=token)
        self._put(row)
        self._expect(schedule, name, next_at)
        return True, row

    def forget(self, schedule: str) -> int:
        """Forget a schedule; returns how many entries it had."""
        rows = [row for row in self._rows.values() if row.schedule == schedule]
        for row in rows:
            self._drop(row)
        return len(rows)

    @staticmethod
    def _check_clock(at: float, now: Moment) -> None:
        if at > now.wall + AHEAD_S:
            raise MessageError(
                f"the beat's clock is {at - now.wall:.0f} s ahead of the broker's: nothing was sent"
            )

    def _put(self, row: PeriodicRow) -> None:
        self._rows[row.schedule, row.name] = row
        self._desk.journal.put_periodic(row)

    def _expect(self, schedule: str, name: str, next_at: float | None) -> None:
        if next_at is None:
            self._next.pop((schedule, name), None)
        else:
            self._next[schedule, name] = next_at

    def _drop(self, row: PeriodicRow) -> None:
        self._next.pop((row.schedule, row.name), None)
        del self._rows[row.schedule, row.name], self._sent[row.schedule, row.name]
        self._desk.journal.drop_periodic(row.schedule, row.name)
