"""Leader: keeps a beat's lock in a thread, and knows whether it leads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from emq_compat.errors import OperationalError
from emq_compat.leading.base import Held, LastRun, Ledger

__all__ = ["Deposed", "Leader"]

logger = logging.getLogger("celery.beat")

T = TypeVar("T")

#: A leader says so that often within the life of its lock.
_WORDS = 3
#: The pause before a store that didn't answer is asked again, in seconds.
_AGAIN_S = 0.5


class Deposed(BaseException):
    """Another beat leads. No Exception, so that no scheduler takes it for a failed send."""


class Leader:
    """Takes the lock of a ledger when it is free, and keeps it until ``stop``.

    A *term* is a time without interruption in which this beat leads; they are counted from 1. Between two
    terms another beat may have sent everything, so whatever was known in the old one is to be read anew.

    Args:
        ledger: one thread at a time uses it.
        clock: monotonic seconds.

    Attributes:
        trouble: why nobody can say who leads; empty: the store has answered when it was asked last.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger = ledger
        self._clock = clock
        self._mutex = threading.Lock()
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._terms = 0
        self._until = 0.0
        self._holds = False
        self.trouble = ""
        self._told_of_other = False
        self._thread = threading.Thread(target=self._keep, name="BeatLeader", daemon=True)

    @property
    def term(self) -> int:
        """The number of the term, 0 where this beat doesn't lead (or can't know: its lock's life is over)."""
        return self._terms if self._holds and self._clock() < self._until else 0

    def start(self) -> None:
        """Begin to ask for the lock."""
        self.ask()
        self._thread.start()

    def stop(self) -> None:
        """Free the lock, so that another beat takes over at once."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(self.ledger.life_s)
            if self._thread.is_alive():
                return  # it waits for a store that doesn't answer
        with self._mutex:
            self._holds = False
            try:
                self.ledger.resign()
                self.ledger.close()
            except OperationalError as exc:
                logger.warning("beat: the lock can't be freed, it ends by itself: %s", exc)

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or as soon as a term begins."""
        with self._changed:
            self._changed.wait_for(lambda: self.term > 0 or self._over.is_set(), seconds)

    def ask(self) -> None:
        """Ask for the lock once; without an answer a leader is one until its lock's life is over."""
        with self._mutex:
            if self._over.is_set():
                return
            try:
                self._ask()
            except OperationalError as exc:
                before, self.trouble = self.trouble, f"nobody can say who leads: {exc}"
                if not before:
                    logger.error("beat: %s", self.trouble)
            else:
                self.trouble = ""
        with self._changed:
            self._changed.notify_all()

    def _ask(self) -> None:
        began = self._clock()  # the lock's life may have begun at any time after this
        self._hear(self.ledger.lead(), began)

    def _hear(self, held: Held, began: float) -> None:
        led = self._holds
        if held is Held.NO:
            self._holds = False
            if led or not self._told_of_other:
                logger.warning("beat: another beat of %r leads, standing by", self.ledger.schedule)
            self._told_of_other = True
            return
        if held is Held.TAKEN or not led:
            self._terms += 1
            logger.warning("beat: leads %r from now on (%s)", self.ledger.schedule, self.ledger.where)
        self._holds, self._until = True, began + self.ledger.life_s

    def confirm(self, term: int) -> None:
        """Return once the store has said that this is still the term: what is sent next, the leader sends.

        Raises:
            Deposed: it isn't, or the store said nothing before the lock's end.
        """
        self._told(term, self._ask)

    def runs(self, term: int, names: Collection[str]) -> dict[str, LastRun]:
        """Return what is known of these entries. Raises as ``confirm``."""
        return self._told(term, lambda: self.ledger.runs(names))

    def begin(self, term: int, entries: Mapping[str, LastRun], *, only: bool) -> None:
        """Add entries that aren't known yet; ``only``: forget the others. Raises as ``confirm``."""
        self._told(term, lambda: self.ledger.begin(entries, only=only))

    def note(self, term: int, name: str, run: LastRun) -> None:
        """Note that an entry was sent. Raises as ``confirm``; whether it was noted is unknown then."""

        def note() -> None:
            began = self._clock()
            if self.ledger.note(name, run):
                self._until = max(self._until, began + self.ledger.life_s)
            else:
                self._hear(Held.NO, began)

        self._told(term, note)

    def _told(self, term: int, ask: Callable[[], T]) -> T:
        while self.term == term:
            try:
                with self._mutex:
                    answer = ask()
            except OperationalError as exc:
                logger.warning("beat: asking again: %s", exc)
                self._over.wait(_AGAIN_S)
                continue
            if self.term == term:
                return answer
        raise Deposed

    def _keep(self) -> None:
        while not self._over.wait(self.ledger.life_s / _WORDS):
            self.ask()
