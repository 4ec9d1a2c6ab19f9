"""What comes over connections with keys: the guard lets it through to the engine, or it is refused.

A refusal is answered where the protocol has an answer, counted, and logged once for each key and kind. A
worker that may not listen where it wants to is told by a HELLO, and counts as gone.
"""

from __future__ import annotations

from emq_compat.broker.asks import Asks
from emq_compat.broker.engine import Engine
from emq_compat.broker.guard import Broken, Guard
from emq_compat.broker.records import Moment, queue_of
from emq_compat.broker.results import failure_body
from emq_compat.errors import NotPermitted
from emq_compat.message import FAILURE, new_id
from emq_compat.permits import ADMIN, Permit
from emq_compat.protocol.commands import (
    Ask,
    Command,
    Hello,
    Inform,
    PublishTopic,
    Reply,
    Request,
    Schedule,
    Unschedule,
)

__all__ = ["Keyed"]

_REMOVED = "the key of this connection was removed"
#: Kinds of refusals that were logged; beyond, they are only counted.
_LOGGED = 10_000


class Keyed:
    """The peers of one engine that have keys. A permit of None: the key was removed since."""

    def __init__(self, engine: Engine, asks: Asks) -> None:
        self._engine = engine
        self._asks = asks
        self._guard = Guard(engine)
        self._logged: set[tuple[str, str]] = set()

    def from_client(self, identity: bytes, command: Command, permit: Permit | None, now: Moment) -> None:
        """Take a client's command."""
        broken = _removed() if permit is None else self._guard.client_says(permit, command)
        if broken is not None:
            self._note(permit, broken)
            if permit is None:
                self._engine.client_gone(identity, now)
            self._tell_client(identity, command, broken.text)
            return
        if permit is not None and isinstance(command, Ask):
            command = self._guard.narrowed(permit, command)
        self._engine.from_client(identity, command, now)

    def from_worker(self, identity: bytes, command: Command, permit: Permit | None, now: Moment) -> None:
        """Take a worker's command."""
        broken = _removed() if permit is None else self._guard.worker_says(permit, identity, command)
        if broken is not None:
            self._note(permit, broken)
            if broken.kind == "worker":
                self._turn_away(identity, command, broken.text, now)
            return
        if permit is not None and isinstance(command, Reply) and command.follow_ups:
            self._outcome(identity, command, permit, now)
        else:
            self._engine.from_worker(identity, command, now)

    def _turn_away(self, identity: bytes, command: Command, text: str, now: Moment) -> None:
        """Tell a worker that it is none, once; what it holds is lost unless it may be one again in time."""
        engine = self._engine
        worker = engine.fleet.workers.get(identity)
        if not isinstance(command, Inform) and (worker is None or worker.gone is not None):
            return
        engine.desk.to_worker(identity, Hello(msgid=new_id(), about={**engine.desk.about, "refused": text}))
        engine.connection_gone(identity, now)

    def from_administrator(self, permit: Permit | None) -> bool:
        """Tell whether a key may administer; refused if not."""
        if permit is not None and permit.role == ADMIN:
            return True
        self._note(
            permit, Broken(kind="administration", text="the administrator's address is for admins' keys")
        )
        return False

    def announced(self, command: PublishTopic, permit: Permit | None, now: Moment) -> None:
        """Take what was published under a topic at an address of its own."""
        broken = _removed() if permit is None else self._guard.client_says(permit, command)
        if broken is not None:
            self._note(permit, broken)
        else:
            self._engine.topics.publish(command, now)

    def gone(self, identity: bytes) -> None:
        """Forget a worker's connection."""
        self._guard.gone(identity)

    def _outcome(self, identity: bytes, command: Reply, permit: Permit, now: Moment) -> None:
        """Take an outcome without the follow-ups that may not be published: these end as failures.

        Their epilogues (errbacks) go to the queue of the task: not where the key may send nothing.
        """
        engine = self._engine
        flight = engine.flights.by_msgid.get(command.request_msgid)
        kept, broken = self._guard.follow_ups(permit, command)
        stale = engine.desk.counters["stale"]
        engine.from_worker(identity, kept, now)
        if flight is None or stale != engine.desk.counters["stale"]:
            return
        queue = engine.queues.by_id[queue_of(flight.key)]
        for message, why in broken:
            self._note(permit, why)
            body = failure_body(NotPermitted.__name__, why.text, module=NotPermitted.__module__)
            engine.desk.journal.remember(message.msgid)
            engine.endings.unattended(
                message.msgid, message.headers, queue, message.payload, FAILURE, body, now
            )

    # Refusals

    def _note(self, permit: Permit | None, broken: Broken) -> None:
        name = permit.name if permit is not None else ""
        self._engine.desk.counters["forbidden"] += 1
        if (name, broken.kind) not in self._logged and len(self._logged) < _LOGGED:
            self._logged.add((name, broken.kind))
            text = f"refused, and from now on only counted ({broken.kind}, key {name!r}): {broken.text}"
            self._engine.desk.note("warning", text)

    def _tell_client(self, identity: bytes, command: Command, text: str) -> None:
        if isinstance(command, Ask):
            self._asks.refuse(identity, command, NotPermitted(text))
        elif isinstance(command, Request | Schedule | Unschedule):
            self._engine.receipts.refuse(identity, command.msgid, NotPermitted.__name__, text)


def _removed() -> Broken:
    return Broken(kind="worker", text=_REMOVED)
