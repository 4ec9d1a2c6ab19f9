"""The thread that has a kombu upstream's connection: it connects, listens, settles, and connects again.

    connect → declare → listen → turns: what is to be said, what has come, what is due → … → lost → again

Everything of kombu's is touched by this thread only. The job manager's side says what it wants by ``do``.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from emq_compat.ids import new_id
from emq_compat.message import Delivery
from emq_compat.readable import readable
from emq_compat.upstream.base import Asked, Connected, Disconnected, UpstreamEvent
from emq_compat.upstream.kombu_ahead import REST_S
from emq_compat.upstream.kombu_connection import Broker
from emq_compat.upstream.kombu_control import ControlNode
from emq_compat.upstream.kombu_messages import Messages
from emq_compat.upstream.kombu_pipe import Pipe
from emq_compat.upstream.kombu_tap import KombuSettings
from emq_compat.words import amount

__all__ = ["Worker"]

logger = logging.getLogger("emq_compat.upstream.kombu")

_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 3.0
#: A connection that was lost sooner counts as a failure: the next attempt waits longer.
_STANDING_S: Final = 5.0
#: Between two log lines about the same standing trouble.
_COMPLAINT_S: Final = 60.0
_BEAT_S: Final = 1.0


class Worker(Messages, threading.Thread):
    """One connection's thread.

    Args:
        name: the worker's.
        queues: listened on.
        settings: of the broker and the app.
        tell: gives the job manager an event, and the number of the connection that it is of.

    Attributes:
        connected: there is a connection.
    """

    def __init__(
        self,
        name: str,
        queues: Sequence[str],
        settings: KombuSettings,
        tell: Callable[[int, UpstreamEvent], None],
    ) -> None:
        threading.Thread.__init__(self, name=f"kombu-{name}", daemon=True)
        Messages.__init__(self, settings, Broker(f"{name}/{os.getpid()}.{new_id()[:8]}", settings), tell)
        self._queues = tuple(queues)
        self._commands: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._pipe = Pipe()
        self._control: ControlNode | None = None
        if settings.control is not None:
            self._control = ControlNode(name, settings.control, self._asked)
        self._stop_at: float | None = None
        self._failures = 0
        self._connected_at = 0.0
        self._complain_at = 0.0
        #: The log tells of trouble, and not yet of its end.
        self._in_trouble = False
        self.connected = False

    # From the other side.

    def start(self) -> None:
        """Start the thread: nothing is forked any more."""
        self._pipe.open()
        super().start()

    def do(self, what: str, *arguments: Any) -> None:
        """Have the thread do one of ``_do_…``."""
        self._commands.append((what, arguments))
        self._pipe.wake()

    def ended(self, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` seconds for the thread's end; returns whether it has come."""
        self.join(timeout_s)
        if self.is_alive():
            return False
        self._pipe.close()  # not by the thread itself: this side may be about to write to it
        return True

    def scheduled(self) -> list[Delivery]:
        """Return what waits for its eta, the first due first."""
        return [held.delivery for held in self._ledger.later()]

    @property
    def has_business(self) -> bool:
        """Whether there is a connection, or something to be said once there is one again."""
        owes = self.unanswered or self._ledger.unsettled or self._ending or self._unsaid
        return self.connected or bool(owes)

    def stats(self) -> dict[str, Any]:
        """Return figures of it for people."""
        return {
            "broker": self._broker.shown,
            "connected": self.connected,
            "unacked": self._ledger.unsettled,
            "held": len(self._ledger),
            "waiting_for_eta": self._ledger.waiting_for_eta,
            "waiting": len(self._waiting),
            "unanswered": self.unanswered,
            "unreadable": self.unreadable,
            "copies": self.copies,
        }

    # The thread.

    def run(self) -> None:
        """Connect and listen until it is stopped."""
        while not self._is_done():
            try:
                self._connect()
                while not self._is_done():
                    self._turn()
            except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
                try:
                    self._lost(exc)
                except Exception:
                    logger.exception("what is left of a lost connection can't be put away")
                self._pause()
        self._close()

    def _is_done(self) -> bool:
        """Return whether the end has come: it is to stop, and all is settled or the time is up."""
        if self._stop_at is None:
            return False
        if time.monotonic() >= self._stop_at:
            return True
        return not (self._commands or self._ending or self._unsaid or self._ledger.unsettled)

    def _connect(self) -> None:
        from kombu.asynchronous.hub import Hub  # noqa: PLC0415 - heavy

        broker = self._broker
        hub = self._hub = Hub()
        hub.add_reader(self._pipe.fileno(), self._woken)
        hub.call_repeatedly(min(_BEAT_S, self._settings.dead_after_s / 4), self._woken)
        self._eta_timer = None
        self._rest_ends = False
        connection = broker.connect()
        tap = broker.tap(connection, hub, self._take)
        hub.propagate_errors = connection.connection_errors + connection.channel_errors
        tap.keep(list(self._ledger.tags()))
        unsaid, self._unsaid = self._unsaid, []
        for what, tag, how in unsaid:
            getattr(tap, what)(tag, **how)
        if not self._leaving and self._stop_at is None:
            tap.open([self._settings.queue(name) for name in self._queues])
        if self._control is not None:
            self._control.start(connection, hub.call_later)
        for begin in tuple(hub.on_tick):
            begin()  # Redis: only what a subscriber is told after this reaches this one's
        self._tap = tap
        self._number += 1
        self._credit = 0
        self.connected = True
        self._connected_at = time.monotonic()
        if not self._failures:
            self._complain_at = 0.0
        # Whoever was shown the trouble is shown its end.
        level = logging.WARNING if self._in_trouble else logging.INFO
        again = "again " if self._in_trouble and self._number > 1 else ""
        logger.log(level, "connected %sto %s", again, broker.shown)
        self._in_trouble = False
        if not self._leaving:
            self._tell(self._number, Connected(address=broker.shown))

    def _woken(self) -> None:
        self._pipe.drain()

    def _turn(self) -> None:
        tap, hub = self._tap, self._hub
        assert tap is not None
        assert hub is not None
        self._pipe.drain()
        self._take_commands()
        now = time.monotonic()
        self._take_due()
        self._give()
        self._end(now)
        tap.beat()
        if not self._leaving:
            credit = self._credit + self._room(now) - len(self._waiting)
            if self._ledger.waiting_for_eta >= self._settings.eta_limit:
                credit = 0
                self._tell_of_limit(now)
            if tap.reads_ahead and not self._rest_ends and self._ahead.rests(now):
                self._rest_ends = True
                hub.call_later(REST_S, self._end_of_rest)
            tap.want(max(0, credit), self._ledger.unsettled)
            self._give()
            if self._waiting:
                self._let_go(now)
        tap.flush()
        if not self._is_done() and not self._commands:
            tap.step()

    def _tell_of_limit(self, now: float) -> None:
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAINT_S
            logger.warning(
                "waiting here for their eta: %s; no more are taken from %s before one is due",
                amount(self._ledger.waiting_for_eta, "message"),
                self._broker.shown,
            )

    def _lost(self, exc: Exception) -> None:
        was, self.connected = self.connected, False
        tap, self._tap = self._tap, None
        if tap is not None and self.survives:
            self._unsaid = tap.unsaid()
        if self._control is not None:
            self._control.stop()
        self._publisher.close()
        self._broker.drop()
        if self._hub is not None:
            try:
                self._hub.close()
            except Exception as error:  # noqa: BLE001 - descriptors that are gone
                logger.debug("the loop of a lost connection can't be closed: %r", error)
            self._hub = None
        if not self.survives:
            for held in self._ledger.void():
                if held in self._waiting:
                    self._waiting.remove(held)
        why = f"{type(exc).__name__}: {exc}" if str(exc) else repr(exc)
        now = time.monotonic()
        self._failures = 0 if was and now - self._connected_at > _STANDING_S else self._failures + 1
        complains = self._failures < 2 or now >= self._complain_at
        if complains:
            self._complain_at = now + _COMPLAINT_S
            self._in_trouble = True
        level = logging.ERROR if complains else logging.DEBUG
        if was:
            self._tell(self._number, Disconnected(reason=why))
            level = min(level, logging.WARNING)
            logger.log(level, "lost %s: %s; trying again", self._broker.shown, why)
            if not isinstance(exc, (OSError, *self._broker.errors)):
                logger.error("that was no error of the broker's", exc_info=exc)
        else:
            logger.log(
                level, "no broker at %s: %s; trying again until one is there", self._broker.shown, why
            )

    def _pause(self) -> None:
        """Wait before the next attempt, and do meanwhile what is to be done."""
        delay = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2 ** min(self._failures, 16))
        end = time.monotonic() + delay * random.uniform(0.5, 1.0)
        while (left := end - time.monotonic()) > 0 and not self._is_done():
            readable(self._pipe.fileno(), left)
            self._pipe.drain()
            self._take_commands()

    def _close(self) -> None:
        tap = self._tap
        try:
            if tap is not None:
                for held in self._ledger:
                    self._back(held)
                tap.flush()
                tap.close()
                if self._control is not None:
                    self._control.stop()
            self._publisher.close()
            self._broker.close()
        except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
            logger.warning("%s was lost at the end: %r", self._broker.shown, exc)
            self._broker.drop()
        if self._hub is not None:
            self._hub.close()
        self.connected = False

    # What the job manager says.

    def _take_commands(self) -> None:
        commands = self._commands
        while commands:
            what, arguments = commands.popleft()
            try:
                getattr(self, f"_do_{what}")(*arguments)
            except Exception:
                if self.connected:
                    raise
                logger.exception("%s can't be done", what)

    def _do_answer(self, asked: str, body: bytes) -> None:
        if self._control is not None and self.connected:
            self._control.answer(asked, body)

    def _do_announce(self, topic: str, payload: bytes) -> None:
        if self._control is not None and self.connected:
            self._control.announce(topic, payload)

    def _do_listen(self, queues: Sequence[str]) -> None:
        self._queues = tuple(queues)
        if self._tap is not None and not self._leaving:
            self._tap.listen([self._settings.queue(name) for name in queues])

    def _do_leave(self) -> None:
        self._leaving = True
        self._credit = 0
        if self._tap is not None:
            self._tap.cancel()
        waiting = (*self._waiting, *self._ledger.held_for_eta())
        self._waiting.clear()
        for held in waiting:
            if held.stays:
                self._waiting.append(held)
            else:
                self._back(held)

    def _do_epilogues(self, found: list[Delivery], done: threading.Event) -> None:
        try:
            self._end(time.monotonic())
        finally:
            for held in self._waiting:
                held.given = True
                found.append(held.delivery)
            self._waiting.clear()
            done.set()

    def _do_stop(self, end: float) -> None:
        self._stop_at = end
        if not self._leaving:
            self._do_leave()
        answered = {held for held, _ in self._ending}
        answered |= {held.concludes for held in answered if held.concludes is not None}
        for held in self._ledger:
            if held not in answered:
                self._back(held)  # nobody is left to answer it

    def _asked(self, asked: Asked) -> None:
        self._tell(self._number, asked)
