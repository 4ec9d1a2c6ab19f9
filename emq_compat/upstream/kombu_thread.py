"""The thread that has a kombu upstream's connection: it connects, listens, settles, and connects again.

    connect → declare → listen → turns: what is to be said, what has come, what is due → … → lost → again

Everything of kombu's is touched by this thread only. The job manager's side says what it wants by ``do``.
"""

from __future__ import annotations

import logging
import os
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from emq_compat.celery_message import delivery_of
from emq_compat.errors import MessageError
from emq_compat.ids import new_id
from emq_compat.message import REJECTED, REQUEUED, RETURNED, Delivery, Reply
from emq_compat.upstream.base import Asked, Connected, Delivered, Disconnected, UpstreamEvent
from emq_compat.upstream.kombu_connection import Broker
from emq_compat.upstream.kombu_control import ControlNode
from emq_compat.upstream.kombu_ledger import Held, Ledger, epilogue_of, identity_of
from emq_compat.upstream.kombu_pipe import Pipe
from emq_compat.upstream.kombu_publish import Publisher
from emq_compat.upstream.kombu_tap import Arrival, KombuSettings, Saying, Tap

if TYPE_CHECKING:
    from kombu.asynchronous.hub import Hub

__all__ = ["Worker"]

logger = logging.getLogger("emq_compat.upstream.kombu")

_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 3.0
#: A connection that was lost sooner counts as a failure: the next attempt waits longer.
_STANDING_S: Final = 5.0
#: Between two log lines about the same standing trouble.
_COMPLAINT_S: Final = 60.0
#: A follow-up that could not be published is tried again after so long.
_PUBLISH_AGAIN_S: Final = 1.0
_BEAT_S: Final = 1.0
#: So often an end that its task had no word in is given to a child.
_EPILOGUES: Final = 3
#: What came beyond the credit goes back after so long.
_SURPLUS_S: Final = 1.5


class Worker(threading.Thread):
    """One connection's thread.

    Args:
        name: the worker's.
        queues: listened on.
        settings: of the broker and the app.
        tell: gives the job manager an event, and the number of the connection that it is of.

    Attributes:
        connected: there is a connection.
        survives: what is held outlives a connection.
        unanswered: replies that were given and whose messages are not settled.
        unreadable: messages that were no task's.
        copies: copies of what was here.
    """

    def __init__(
        self,
        name: str,
        queues: Sequence[str],
        settings: KombuSettings,
        tell: Callable[[int, UpstreamEvent], None],
    ) -> None:
        super().__init__(name=f"kombu-{name}", daemon=True)
        self._settings = settings
        self._broker = Broker(f"{name}/{os.getpid()}.{new_id()[:8]}", settings)
        self._queues = tuple(queues)
        self._tell = tell
        self._commands: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._pipe = Pipe()
        self._ledger = Ledger()
        #: To be given to the job manager when it has credit.
        self._waiting: deque[Held] = deque()
        self._waiting_since = 0.0
        #: What was to be said of tags while there was no connection.
        self._unsaid: list[Saying] = []
        self._eta_timer: float | None = None
        #: Ended, and not settled yet: their follow-ups are to be published first.
        self._ending: deque[tuple[Held, Reply]] = deque()
        self._publish_at = 0.0
        self._credit = 0
        self._number = 0
        self._tap: Tap | None = None
        self._hub: Hub | None = None
        self._publisher = Publisher(self._broker, settings)
        self._control: ControlNode | None = None
        if settings.control is not None:
            self._control = ControlNode(name, settings.control, self._asked)
        self._leaving = False
        self._stop_at: float | None = None
        self._failures = 0
        self._connected_at = 0.0
        self._complain_at = 0.0
        self.connected = False
        self.survives = self._broker.survives
        self.unanswered = 0
        self.unreadable = 0
        self.copies = 0

    # From the other side.

    def do(self, what: str, *arguments: Any) -> None:
        """Have the thread do one of ``_do_…``."""
        self._commands.append((what, arguments))
        self._pipe.wake()

    def scheduled(self) -> list[Delivery]:
        """Return what waits for its eta, the first due first."""
        return [held.delivery for held in self._ledger.later()]

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
                self._lost(exc)
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
        self._tap = tap
        self._number += 1
        self._credit = 0
        self.connected = True
        self._connected_at = time.monotonic()
        if not self._failures:
            self._complain_at = 0.0
        logger.info("connected to %s", broker.shown)
        if not self._leaving:
            self._tell(self._number, Connected(address=broker.shown))

    def _woken(self) -> None:
        self._pipe.drain()

    def _turn(self) -> None:
        tap = self._tap
        assert tap is not None
        self._pipe.drain()
        self._take_commands()
        now = time.monotonic()
        self._take_due()
        self._give()
        self._end(now)
        tap.beat()
        if not self._leaving:
            credit = self._credit - len(self._waiting)
            if self._ledger.waiting_for_eta >= self._settings.eta_limit:
                credit = 0
                self._tell_of_limit(now)
            tap.want(max(0, credit), self._ledger.unsettled)
            self._give()
            if self._waiting and now - self._waiting_since > _SURPLUS_S:
                self._give_surplus_back()
        tap.flush()
        if not self._is_done() and not self._commands:
            tap.step()

    def _tell_of_limit(self, now: float) -> None:
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAINT_S
            logger.warning(
                "%d messages wait here for their eta: no more are taken from %s before one is due",
                self._ledger.waiting_for_eta,
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
            select.select([self._pipe.fileno()], [], [], left)
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

    def _do_ready(self, connection: int, count: int) -> None:
        if connection == self._number:
            self._credit += count

    def _do_recall(self, connection: int) -> None:
        if connection == self._number:
            self._credit = 0

    def _do_began(self, msgids: Sequence[str]) -> None:
        acks_late = self._settings.acks_late
        for msgid in msgids:
            held = self._ledger.get(msgid)
            if held is None or held.began:
                continue
            held.began = True
            if held.concludes is None and not acks_late(held.delivery.headers.task):
                held.acked = True
                self._ack(held)

    def _do_nack(self, msgids: Sequence[str]) -> None:
        for msgid in msgids:
            held = self._ledger.get(msgid)
            if held is None:
                continue
            held.given = False
            if held.concludes is None and (self._leaving or not held.tags):
                self._back(held)
                continue
            # There may be a slot for it soon; if not, it goes back with all that is too much.
            if not self._waiting:
                self._waiting_since = time.monotonic()
            self._waiting.appendleft(held)

    def _do_reply(self, msgid: str, reply: Reply) -> None:
        held = self._ledger.get(msgid)
        if held is None:
            self.unanswered -= 1
            return
        held.began = True
        self._ending.append((held, reply))

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
        waiting = [held for held in self._waiting if held.concludes is None]
        self._waiting = deque(held for held in self._waiting if held.concludes is not None)
        for held in (*waiting, *self._ledger.held_for_eta()):
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

    # What has come.

    def _take(self, arrival: Arrival) -> None:
        message, ledger = arrival.message, self._ledger
        try:
            msgid = arrival.identity or identity_of(message)
            known = ledger.get(msgid)
            if known is not None and arrival.redelivered:
                self.copies += 1
                logger.warning(
                    "%s was delivered again while it is still here: it isn't started twice",
                    known.delivery.headers.task_id or msgid,
                )
                ledger.join(known, arrival.tag)
                if known.acked:
                    self._ack(known)
                return
            if arrival.redelivered and ledger.has_ended(msgid):
                self.copies += 1
                logger.warning("%s was delivered again after it had ended here: it isn't run again", msgid)
                self._say("ack", arrival.tag)
                return
            if known is not None:
                msgid = ledger.free_name(msgid)
            delivery = delivery_of(
                message, queue=arrival.queue, msgid=msgid, attempt=1, redelivered=arrival.redelivered
            )
        except Exception as exc:  # noqa: BLE001 - whatever was sent must not stop the worker
            self._refuse(arrival, exc)
            return
        held = Held(delivery, arrival.tag)
        ledger.add(held)
        if self._leaving:
            self._back(held)
        elif delivery.headers.eta > time.time():
            ledger.hold(held)
        else:
            self._put(held)

    def _say(self, what: str, tag: Any, **how: Any) -> None:
        """Have the tap ``ack``, ``reject`` or ``give_back``: now, or when there is one again."""
        if self._tap is not None:
            getattr(self._tap, what)(tag, **how)
        elif self.survives:
            self._unsaid.append((what, tag, how))

    def _refuse(self, arrival: Arrival, exc: Exception) -> None:
        self.unreadable += 1
        logger.error(
            "a message in %s is refused (%d so far): %s; its body begins with %r",
            arrival.queue,
            self.unreadable,
            exc if isinstance(exc, MessageError) else repr(exc),
            arrival.message.body[:200],
        )
        self._say("reject", arrival.tag)

    def _put(self, held: Held) -> None:
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.append(held)

    def _take_due(self) -> None:
        due = self._ledger.next_eta()
        if due is None:
            return
        now = time.time()
        if due <= now:
            for held in self._ledger.due(now):
                self._put(held)
        elif self._hub is not None and (self._eta_timer is None or due < self._eta_timer):
            self._eta_timer = due
            self._hub.call_later(due - now, self._eta_has_come)

    def _eta_has_come(self) -> None:
        self._eta_timer = None

    def _give(self) -> None:
        waiting = self._waiting
        while waiting and self._credit > 0 and not self._leaving:
            held = waiting.popleft()
            held.given = True
            self._credit -= 1
            self._waiting_since = time.monotonic()
            self._tell(self._number, Delivered(delivery=held.delivery))

    def _give_surplus_back(self) -> None:
        """Let others have what there was no credit for."""
        kept = [held for held in self._waiting if held.concludes is not None]
        for held in self._waiting:
            if held.concludes is None:
                self._back(held)
        self._waiting = deque(kept)
        self._waiting_since = time.monotonic()

    # How it ended.

    def _end(self, now: float) -> None:
        """Settle what has ended: its follow-ups are published first."""
        ending = self._ending
        if not ending or now < self._publish_at:
            return
        while ending:
            held, reply = ending[0]
            publishes = [message for message in reply.follow_ups if not message.headers.settled]
            if publishes and reply.state not in (REQUEUED, RETURNED):
                try:
                    self._publisher.publish(publishes)
                except Exception as exc:  # noqa: BLE001 - whatever a transport makes of a lost connection
                    self._publish_at = now + _PUBLISH_AGAIN_S
                    self._publisher.close()
                    logger.error(
                        "what follows from %s can't be published: %r; trying again",
                        held.delivery.headers.task_id or held.delivery.msgid,
                        exc,
                    )
                    return
            ending.popleft()
            self._settle(held, reply)

    def _settle(self, held: Held, reply: Reply) -> None:
        self.unanswered -= 1
        state = reply.state
        if held.concludes is not None:
            self._settle_epilogue(held, state)
        elif state in (REQUEUED, RETURNED):
            if held.acked:
                logger.error(
                    "Task %s[%s] can't go back to its queue: it was acknowledged when it began",
                    held.delivery.headers.task,
                    held.delivery.headers.task_id,
                )
            self._back(held, began=state == REQUEUED)
        elif state == REJECTED and not held.acked:
            for tag in self._ledger.settle(held):
                self._say("reject", tag)
            self._ledger.remove(held, ended=True)
        elif reply.unattended and (epilogue := epilogue_of(held.delivery, reply.body)) is not None:
            end = Held(epilogue)
            end.concludes = held
            self._ledger.add(end)
            self._put(end)
        else:
            self._ack(held)
            self._ledger.remove(held, ended=True)

    def _settle_epilogue(self, end: Held, state: str) -> None:
        assert end.concludes is not None
        end.tries += 1
        if state in (REQUEUED, RETURNED) and end.tries < _EPILOGUES:
            end.given = end.began = False
            self._put(end)
            return
        if state in (REQUEUED, RETURNED):
            logger.error("what follows from the end of %s was lost", end.delivery.msgid)
        self._ledger.remove(end, ended=False)
        self._ack(end.concludes)
        self._ledger.remove(end.concludes, ended=True)

    def _ack(self, held: Held) -> None:
        for tag in self._ledger.settle(held):
            self._say("ack", tag)

    def _back(self, held: Held, *, began: bool = False) -> None:
        """Put a message back into its queue; copies of it are acknowledged."""
        tags = self._ledger.settle(held)
        for copy in tags[:-1]:
            self._say("ack", copy)
        if tags:
            self._say("give_back", tags[-1], began=began)
        self._ledger.remove(held, ended=False)
