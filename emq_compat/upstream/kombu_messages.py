"""The messages that a kombu upstream holds: from their arrival to their end, in the thread of its connection.

    arrives → (waits for its eta) → waits for credit → given to the job manager → begins → ends → is settled
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from emq_compat.celery_message import delivery_of
from emq_compat.errors import MessageError
from emq_compat.message import REJECTED, REQUEUED, RETURNED, Reply
from emq_compat.upstream.base import Delivered, UpstreamEvent
from emq_compat.upstream.kombu_ahead import Ahead
from emq_compat.upstream.kombu_connection import Broker
from emq_compat.upstream.kombu_ledger import Held, Ledger, epilogue_of, identity_of
from emq_compat.upstream.kombu_publish import Publisher
from emq_compat.upstream.kombu_tap import Arrival, KombuSettings, Saying, Tap

if TYPE_CHECKING:
    from kombu.asynchronous.hub import Hub

__all__ = ["Messages"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: A follow-up that could not be published is tried again after so long.
_PUBLISH_AGAIN_S: Final = 1.0
#: So often an end that its task had no word in is given to a child.
_EPILOGUES: Final = 3
#: What came beyond the credit, and beyond what may be held, goes back after so long.
_SURPLUS_S: Final = 1.5


class Messages:
    """What is held, and what becomes of it.

    Args:
        settings: of the broker and the app.
        broker: makes connections.
        tell: gives the job manager an event, and the number of the connection that it is of.

    Attributes:
        survives: what is held outlives a connection.
        unanswered: replies that were given and whose messages are not settled.
        unreadable: messages that were no task's.
        copies: copies of what was here.
    """

    def __init__(
        self, settings: KombuSettings, broker: Broker, tell: Callable[[int, UpstreamEvent], None]
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._tell = tell
        self._ledger = Ledger()
        #: To be given to the job manager when it has credit.
        self._waiting: deque[Held] = deque()
        self._waiting_since = 0.0
        self._ahead = Ahead(settings.ahead)
        self._rest_ends = False
        #: What was to be said of tags while there was no connection.
        self._unsaid: list[Saying] = []
        self._eta_timer: float | None = None
        #: Ended, and not settled yet: their follow-ups are to be published first.
        self._ending: deque[tuple[Held, Reply]] = deque()
        self._publish_at = 0.0
        self._publisher = Publisher(broker, settings)
        self._credit = 0
        #: Of the connection.
        self._number = 0
        self._tap: Tap | None = None
        self._hub: Hub | None = None
        self._leaving = False
        self.survives = broker.survives
        self.unanswered = 0
        self.unreadable = 0
        self.copies = 0

    # What the job manager says of them.

    def _do_ready(self, connection: int, count: int) -> None:
        if connection == self._number:
            self._credit += count
            self._ahead.rest(time.monotonic())

    def _do_recall(self, connection: int) -> None:
        if connection == self._number:
            self._credit = 0

    def _do_resize(self, slots: int) -> None:
        self._ahead.resize(slots)

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
            if held.concludes is None and (not held.tags or (self._leaving and not held.stays)):
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

    def _room(self, now: float) -> int:
        """Return how many may wait here without credit."""
        return self._ahead.room(now) if self._tap is not None and self._tap.reads_ahead else 0

    def _end_of_rest(self) -> None:
        self._rest_ends = False

    def _let_go(self, now: float) -> None:
        """Let others have what there is no credit for: what is too much, and all of it when they want it."""
        tap, ahead, room = self._tap, self._ahead, self._room(now)
        assert tap is not None
        if room and (
            ahead.is_too_long(now, self._waiting_since)
            or (
                ahead.has_to_look(now)
                and tap.is_wanted_elsewhere({held.delivery.queue for held in self._waiting if not held.stays})
            )
        ):
            tap.cancel()  # or some of it comes back at once
            ahead.pause(now)
            self._give_back_beyond(0)
        elif len(self._waiting) > room and not ahead.rests(now) and now - self._waiting_since > _SURPLUS_S:
            self._give_back_beyond(room)

    def _give_back_beyond(self, room: int) -> None:
        waiting = list(self._waiting)
        self._waiting = deque(waiting[:room])
        for held in waiting[room:]:
            if held.stays:
                self._waiting.append(held)
            else:
                self._back(held)
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
            if held.stays and held.tags:
                held.given = held.began = False
                self._put(held)
            else:
                self._back(held, began=state == REQUEUED)
        elif state == REJECTED and not held.acked:
            for tag in self._ledger.settle(held):
                self._say("reject", tag)
            self._ledger.remove(held, ended=True)
        elif reply.unattended and (epilogue := epilogue_of(held.delivery, reply.body)) is not None:
            end = Held(replace(epilogue, msgid=self._ledger.free_name(epilogue.msgid)))
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
