"""PersistentScheduler: last runs outlive the beat, in the broker, or in a file where that can't keep them."""

from __future__ import annotations

import heapq
import os
import shelve
import time
from collections.abc import Mapping
from typing import Any

from emq_compat.errors import BrokerRefused, LocalProtocolError, OperationalError
from emq_compat.leading.leader import Deposed, Leader
from emq_compat.shim.beat.clock import standing_at
from emq_compat.shim.beat.file import ScheduleFile
from emq_compat.shim.beat.kept import Kept, Run, kept_as
from emq_compat.shim.beat.led import LedKept, ledger_of, needs_leader
from emq_compat.shim.beat.scheduler import Scheduler, event_t, logger
from emq_compat.shim.pipeline import collecting
from emq_compat.words import amount

__all__ = ["PersistentScheduler"]

#: The first and the longest pause, in seconds, before a broker that doesn't answer is asked again.
_PAUSE_S = 0.5
_PAUSE_MAX_S = 5.0
#: How often a beat that stands by looks whether it leads.
_LOOK_S = 0.5
#: When an entry that the broker refused is tried again.
_REFUSED_S = 10.0


class PersistentScheduler(Scheduler):
    """The default scheduler.

    Over ``emq://`` the broker keeps each entry under the schedule's name and its own (``kept_as``), and
    decides which of several beats sends a run. Other brokers decide nothing: there one beat leads, by a lock
    that is kept with the entries in the result backend. Where that can't keep them, and under a stock
    router, it is Celery's file.

    Args:
        schedule_filename: the file; over ``emq://`` a part of the schedule's name, unless it is the default.
    """

    persistence = shelve
    known_suffixes = ("", ".db", ".dat", ".bak", ".dir")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.schedule_filename: str = kwargs.get("schedule_filename") or ""
        self._kept: Kept | LedKept | None = None
        self._leader: Leader | None = None
        self._file: ScheduleFile | None = None
        self._begun = False
        #: Entries that the broker was told of.
        self._told: set[str] = set()
        #: Runs whose confirmation hasn't come: whether they were sent is unknown.
        self._unsure: dict[str, Run] = {}
        self._pause_s = _PAUSE_S
        super().__init__(*args, **kwargs)

    def setup_schedule(self) -> None:
        """Read the schedule, and what is known of its last runs as soon as the broker answers."""
        name = kept_as(self.app, self.schedule_filename)
        if needs_leader(self.app):
            self._kept = self._led(name)
        elif not self.app.stock:
            self._kept = Kept(self.app, name)
        if self._kept is None:
            self._file = ScheduleFile(self.schedule_filename, self.app, self.persistence, self.known_suffixes)
            self.data = self._file.entries
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        self.sync()

    def _led(self, name: str) -> LedKept | None:
        ledger = ledger_of(self.app, name)
        if ledger is None:
            logger.warning(
                "beat: run one only: a lock for a leader can be kept by redis://, db+… and emq:// as the "
                "result backend, or by redis:// as the broker, and there is none of them here"
            )
            return None
        self._leader = Leader(ledger)
        self._leader.start()
        return LedKept(self.app, self._leader)

    @property
    def leader(self) -> Leader | None:
        """Who knows whether this beat leads; None: there is no leader to be."""
        return self._leader

    def sync(self) -> None:
        """Write the file, where there is one; the broker has everything already."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Write the file, close it, let go of the connection."""
        try:
            super().close()
        finally:
            if self._file is not None:
                self._file.close()
            if self._leader is not None:
                self._leader.stop()

    @property
    def info(self) -> str:
        """Lines for the banner: where the schedule is kept."""
        name, where = kept_as(self.app, self.schedule_filename), "the broker"
        if needs_leader(self.app):
            ledger = ledger_of(self.app, name)
            where = "" if ledger is None else ledger.where
        elif self.app.stock:
            where = ""
        return f"    . schedule -> {name}, in {where}" if where else f"    . db -> {self.schedule_filename}"

    # Kept by the broker, or with a lock

    def tick(self, **celery: Any) -> float:
        """Send one entry, if one is due and no other beat has; returns how many seconds to wait."""
        if self._kept is None:
            return super().tick(**celery)
        if isinstance(self._kept, LedKept) and not self._leads(self._kept):
            return _LOOK_S
        try:
            if not self._begun:
                self._begin(self._kept)
            wait_s = super().tick(**celery)
        except Deposed:
            wait_s = 0.0
        except OperationalError as exc:
            wait_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _PAUSE_MAX_S)
            logger.error("beat: Connection error: %s. Trying again in %.1f seconds...", exc, wait_s)
        else:
            self._pause_s = _PAUSE_S
        return wait_s

    def _leads(self, kept: LedKept) -> bool:
        """Return whether this beat leads; a new term begins with what the beats before it have noted."""
        assert self._leader is not None
        term = self._leader.term
        if term != kept.term:
            kept.term = term
            self._begun, self._heap = False, None
            self._unsure.clear()
        return term > 0

    def _begin(self, kept: Kept | LedKept) -> None:
        """Tell the broker of the entries, and go on where they stand there."""
        entries = list(self.schedule.values())
        if entries and not kept.look([str(entry.name) for entry in entries]):
            self._take_over(entries)
        self._told = set(kept.begin(entries, only=True))
        self._begun = True
        count = amount(len(entries), "entry", "entries")
        logger.info("beat: the %s keeps %s of the schedule %r", kept.by, count, kept.name)

    def _take_over(self, entries: list[Any]) -> None:
        """Have entries that the broker doesn't know go on where Celery's beat has left them in its file."""
        before = last_runs(self.schedule_filename)
        for entry in entries:
            old = before.get(entry.name)
            if old is not None:
                entry.last_run_at, entry.total_run_count = old.last_run_at, old.total_run_count
        if before:
            logger.info("beat: last runs taken over from the file %s", self.schedule_filename)

    def populate_heap(self) -> None:
        """Put the entries in the order of their time, from their last runs as the broker has them."""
        if self._kept is not None:
            self._look_at_all(self._kept)
        super().populate_heap()

    def _look_at_all(self, kept: Kept | LedKept) -> None:
        seen = kept.look([str(name) for name in self.schedule])
        # A run is unsure as long as the one before it is the last.
        self._unsure = {
            name: run for name, run in self._unsure.items() if name in seen and seen[name].token == run.was
        }
        for entry in list(self.schedule.values()):
            name = str(entry.name)
            if name in seen:
                seen[name].applied_to(entry, entry.default_now())
            elif name in self._told:
                self._remove(entry)

    def _take(self, heap: list[event_t], event: event_t) -> float:
        if self._kept is None:
            return super()._take(heap, event)
        entry = event.entry
        try:
            again_s = self._turn(self._kept, entry)
        except BrokerRefused as exc:
            logger.error("beat: %s is not sent: %s; trying again in %g s", entry.name, exc, _REFUSED_S)
            self._note(entry, sent=False)
            again_s = _REFUSED_S
        except BaseException:
            heapq.heappush(heap, event)
            raise
        if again_s is None:
            self._remove(entry)
        else:
            entry = self.schedule.get(entry.name, entry)
            heapq.heappush(heap, event_t(self._when(entry, again_s), event.priority, entry))
        return 0.0

    def _turn(self, kept: Kept | LedKept, entry: Any) -> float | None:
        """Send an entry, if it is due; returns in how many seconds to look at it again, None: it is gone.

        Raises:
            OperationalError: the broker doesn't answer, or refuses.
        """
        name = str(entry.name)
        run = self._unsure.get(name)
        if run is None:
            seen = kept.look([name]).get(name)
            if seen is None and name not in self._told:
                seen = kept.begin([entry], only=False)[name]  # it was added while we run
                self._told.add(name)
            if seen is None:
                return None
            now = entry.default_now()
            seen.applied_to(entry, now)
            with standing_at(entry.schedule, now):
                is_due, next_s = self._due(entry)
            if not is_due:
                return next_s
            with collecting() as messages:
                self.apply_entry(entry, producer=self.producer)
            run = Run(was=seen.token, at=now, next_s=next_s, messages=tuple(messages))
        return self._send(kept, entry, run)

    def _send(self, kept: Kept | LedKept, entry: Any, run: Run) -> float | None:
        name = str(entry.name)
        try:
            sent, seen = kept.send(name, run)
        except BrokerRefused:
            self._unsure.pop(name, None)
            raise
        except OperationalError:
            self._unsure[name] = run
            raise
        except LocalProtocolError as exc:
            logger.error("beat: a run of %s is left out: it can't be sent: %s", name, exc)
            self._note(entry, sent=False)
            return self._send(kept, entry, Run(was=run.was, at=run.at, next_s=run.next_s, messages=()))
        self._unsure.pop(name, None)
        if seen is None:
            return None
        if not sent:
            logger.debug("beat: another beat has sent %s", name)
            return 0.0
        if run.messages:
            super()._note(entry, sent=True)
        with standing_at(entry.schedule, run.at):
            self.reserve(entry)
        return max(0.0, run.next_s - (time.monotonic() - run.made_at))

    def _note(self, entry: Any, *, sent: bool) -> None:
        if self._kept is None or not sent:  # else it was only made, and is sent by _send
            super()._note(entry, sent=sent)

    def _remove(self, entry: Any) -> None:
        logger.warning("beat: %s is sent no more: a beat of this schedule was started without it", entry.name)
        self._told.discard(str(entry.name))
        self.schedule.pop(entry.name, None)


def last_runs(filename: str) -> Mapping[str, Any]:
    """Return the entries in a file that Celery's beat has written; empty: there is none that can be read."""
    if not any(os.path.exists(filename + suffix) for suffix in PersistentScheduler.known_suffixes):
        return {}
    try:
        with shelve.open(filename, flag="r") as file:  # noqa: S301 - the project's own, as Celery reads it
            entries = dict(file["entries"])
            return {name: entry for name, entry in entries.items() if entry.last_run_at is not None}
    except Exception as exc:  # noqa: BLE001 - dbm, pickle and what is pickled raise what they like
        logger.warning("beat: the file %s can't be read, and is left as it is: %r", filename, exc)
        return {}
