"""What the key of a connection lets it say: commands and verbs against its permit, as tables.

How to read them. A command or verb names the least role that may say it, and which queues it concerns; each
of these must be open to the key. A verb that stands in no table is an administrator's. A connection without
keys has the permit FULL, and never comes here. Nothing is answered here: a broken rule is returned in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.queues import DEFAULT_QUEUE
from emq_compat.broker.records import queue_of
from emq_compat.errors import MessageError, NotDeclared
from emq_compat.message import Headers, Publish
from emq_compat.permits import ADMIN, CLIENT, WORKER, Permit
from emq_compat.pidbox import namespace_of
from emq_compat.protocol.commands import (
    Ask,
    Command,
    Inform,
    PublishTopic,
    Reply,
    Request,
    Schedule,
    Unschedule,
    Update,
)

__all__ = ["Broken", "Guard"]

Arguments = Mapping[str, Any]

#: Topics under which questions are passed on to nodes that are no workers.
_QUESTIONS = "ask."


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A rule that was broken: what was said (a kind, for the log) and why it may not be."""

    kind: str
    text: str


class Guard:
    """Checks what is said to one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Worker → the permit with which it may listen where it does.
        self._listening: dict[bytes, Permit] = {}

    # Clients

    def client_says(self, permit: Permit, command: Command) -> Broken | None:
        """Return the rule that a client's command breaks; None: it may be said."""
        if permit.role == ADMIN:
            return None
        if isinstance(command, Request):
            return self._publishes(permit, command.queue, command.headers)
        if isinstance(command, Ask):
            return self._asks(permit, command)
        if isinstance(command, PublishTopic):
            return self._announces(permit, command)
        if isinstance(command, Schedule | Unschedule):
            headers = _headers(command.headers)
            return _sends(permit, [command.queue]) or self._publishes(permit, command.queue, headers)
        return None

    def narrowed(self, permit: Permit, command: Ask) -> Ask:
        """Return an ASK that tells no more than the key opens."""
        if command.verb != "queues" or not permit.limited:
            return command
        names = [name for name in self._engine.queues.by_name if permit.may_use(name)]
        return replace(command, arguments={**command.arguments, "names": names})

    def _publishes(self, permit: Permit, queue: str, headers: Headers) -> Broken | None:
        if headers.settled and not permit.is_at_least(WORKER):
            return _needs(permit, "settled", "to end a task (header settled)", WORKER)
        if headers.settled and headers.route is None:
            return None  # it goes into no queue
        if headers.route is None:
            return _sends(permit, [queue])
        return self._sends_through(permit, *headers.route)

    def _sends_through(self, permit: Permit, exchange: str, key: str) -> Broken | None:
        if not exchange:
            return _sends(permit, [key])
        if namespace_of(exchange) is not None:
            return _controls(permit, f"the exchange {exchange!r}")
        if not permit.limited:
            return None
        try:
            queues = self._engine.exchanges.route(exchange, key)
        except NotDeclared:
            return None
        return _sends(permit, [queue.name for queue in queues])

    def _announces(self, permit: Permit, command: PublishTopic) -> Broken | None:
        topic = command.topic
        if topic.startswith(_QUESTIONS) or any(
            namespace_of(exchange.name) is not None for exchange, _ in self._engine.exchanges.of_topic(topic)
        ):
            return _controls(permit, f"the topic {topic!r}")
        if permit.limited:
            for exchange, key in self._engine.exchanges.of_topic(topic):
                if (broken := self._sends_through(permit, exchange.name, key)) is not None:
                    return broken
        return None

    def _asks(self, permit: Permit, command: Ask) -> Broken | None:
        rule = _VERBS.get(command.verb, _ADMINS)
        if not permit.is_at_least(rule.role):
            return _needs(permit, command.verb, f"the verb {command.verb!r}", rule.role)
        arguments = command.arguments
        if rule.take is not None and (broken := _takes(permit, command.verb, rule.take(arguments))):
            return broken
        return rule.more(self, permit, arguments) if rule.more is not None else None

    def _declares(self, permit: Permit, arguments: Arguments) -> Broken | None:
        """What lets messages vanish is not to be declared anew of a queue by who may not take from it."""
        name = _queue(arguments)
        vanishing = any(arguments.get(term) for term in ("auto_delete", "exclusive"))
        vanishing = vanishing or any(arguments.get(term) is not None for term in ("expires_s", "ttl_s"))
        if not vanishing or arguments.get("passive") or name not in self._engine.queues.by_name:
            return None if permit.may_use(name) else _sends(permit, [name])
        if not permit.is_at_least(WORKER):
            what = f"to declare that messages of the queue {name!r}, which is there, end by themselves,"
            return _needs(permit, "declare_queue", what, WORKER)
        return _takes(permit, "declare_queue", [name])

    def _binds(self, permit: Permit, arguments: Arguments) -> Broken | None:
        """A queue is bound to what is meant for it: by others' names it would get copies of theirs."""
        name, exchange = _queue(arguments), str(arguments.get("exchange", ""))
        key = str(arguments.get("key", ""))
        if namespace_of(name) is not None or namespace_of(exchange) is not None:
            if not permit.is_at_least(WORKER) or namespace_of(exchange) is None:
                return _controls(permit, f"the queue {name!r} bound to {exchange!r}")
            return _takes(permit, "bind", [name])
        if not permit.may_use(name):
            return _sends(permit, [name])
        found = self._engine.exchanges.by_name.get(exchange)
        if not permit.limited or found is None or (key, name) in found.bindings:
            return None
        if permit.may_use(exchange) or (found.kind == "direct" and permit.may_use(key)):
            return None
        text = (
            f"the key {permit.name!r} opens some queues only: it may bind them to an exchange that has the "
            f"name of one, or to a direct one by such a name, and not to {exchange!r} by {key!r}"
        )
        return Broken(kind="bind", text=text)

    def _moves(self, permit: Permit, arguments: Arguments) -> Broken | None:
        return _sends(permit, [str(arguments.get("to", ""))])

    def _beats(self, permit: Permit, arguments: Arguments) -> Broken | None:
        messages = arguments.get("messages")
        for message in messages if isinstance(messages, list) else ():
            if not isinstance(message, dict):
                continue
            queue, headers = str(message.get("queue", "")), _headers(str(message.get("headers", "")))
            broken = _sends(permit, [queue]) if queue else self._publishes(permit, queue, headers)
            if broken is not None:
                return broken
        return None

    def _revokes(self, permit: Permit, arguments: Arguments) -> Broken | None:
        if arguments.get("tags"):
            return _needs(permit, "revoke", "to revoke by stamps, without knowing the ids,", ADMIN)
        return None

    def _subscribes(self, permit: Permit, arguments: Arguments) -> Broken | None:
        topics = arguments.get("topics")
        if isinstance(topics, list) and all(str(topic).startswith(_QUESTIONS) for topic in topics):
            return None
        return _needs(permit, "subscribe", "to hear events", ADMIN)

    # Workers

    def worker_says(self, permit: Permit, identity: bytes, command: Command) -> Broken | None:
        """Return the rule that a worker's command breaks; None: it may be said."""
        if permit.role == ADMIN:
            return None
        if not permit.is_at_least(WORKER):
            return _needs(permit, "worker", "to take and run tasks", WORKER)
        if isinstance(command, Inform):
            consumer = command.capabilities is not None and command.capabilities.consumer
            names = [name for _, name in command.queues] or ([] if consumer else [DEFAULT_QUEUE])
            if (broken := _takes(permit, "worker", names)) is None:
                self._listening[identity] = permit
            return broken
        if permit.limited:
            if (broken := self._listens(permit, identity)) is not None:
                return broken
            if isinstance(command, Reply | Update):
                return self._answers(permit, command)
        return self._announces(permit, command) if isinstance(command, PublishTopic) else None

    def _listens(self, permit: Permit, identity: bytes) -> Broken | None:
        """Look whether a worker may still listen where it does: its permit may be another than before."""
        if self._listening.get(identity) == permit:
            return None
        worker = self._engine.fleet.workers.get(identity)
        names = [queue.name for queue in worker.queues] if worker is not None else []
        if (broken := _takes(permit, "worker", names)) is None:
            self._listening[identity] = permit
        return broken

    def _answers(self, permit: Permit, command: Reply | Update) -> Broken | None:
        flight = self._engine.flights.by_msgid.get(command.request_msgid)
        if flight is None:
            return None
        queue = self._engine.queues.by_id[queue_of(flight.key)]
        return _takes(permit, "reply", [queue.name])

    def follow_ups(self, permit: Permit, command: Reply) -> tuple[Reply, list[tuple[Publish, Broken]]]:
        """Return a REPLY without the follow-ups that may not be published, and those, with the rule."""
        kept: list[Publish] = []
        broken: list[tuple[Publish, Broken]] = []
        for message in command.follow_ups:
            route = None if message.queue else message.headers.route
            why = _sends(permit, [message.queue]) if route is None else self._sends_through(permit, *route)
            if why is None or permit.role == ADMIN:
                kept.append(message)
            else:
                broken.append((message, why))
        return (replace(command, follow_ups=tuple(kept)) if broken else command), broken

    def gone(self, identity: bytes) -> None:
        """Forget a worker's connection."""
        self._listening.pop(identity, None)


# The rules


def _needs(permit: Permit, kind: str, what: str, role: str) -> Broken:
    article = "an" if role == ADMIN else "a"
    text = f"{what} needs {article} {role}'s key, and {permit.name!r} is a {permit.role}'s"
    return Broken(kind=kind, text=text)


def _controls(permit: Permit, what: str) -> Broken:
    return _needs(permit, "control", f"remote control ({what})", ADMIN)


def _sends(permit: Permit, queues: Iterable[str]) -> Broken | None:
    """Return the rule broken where one of these queues may not be published to."""
    for queue in queues:
        name = queue or DEFAULT_QUEUE
        if not permit.may_publish(name):
            opened = ", ".join((*permit.publish, *permit.take))
            return Broken(kind="publish", text=_CLOSED.format("publish to", name, permit.name, opened))
        if namespace_of(name) is not None and permit.role != ADMIN:
            return _controls(permit, f"the queue {name!r}")
    return None


def _takes(permit: Permit, kind: str, queues: Iterable[str]) -> Broken | None:
    """Return the rule broken where one of these queues may not be taken from; only of a worker's key."""
    for queue in queues:
        name = queue or DEFAULT_QUEUE
        if not permit.may_take(name):
            opened = ", ".join(permit.take)
            return Broken(kind=kind, text=_CLOSED.format("take from", name, permit.name, opened))
    return None


_CLOSED = "to {} the queue {!r} is not what the key {!r} opens: that is {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """The least role; the queues that are taken from; and what else must be."""

    role: str
    take: Callable[[Arguments], list[str]] | None = None
    more: Callable[[Guard, Permit, Arguments], Broken | None] | None = None


def _queue(arguments: Arguments) -> str:
    """Return a queue as the verbs understand it; what is no name they refuse themselves."""
    name = arguments.get("queue", "")
    return name or DEFAULT_QUEUE if isinstance(name, str) else DEFAULT_QUEUE


def _one(arguments: Arguments) -> list[str]:
    return [_queue(arguments)]


def _several(arguments: Arguments) -> list[str]:
    names = arguments.get("queues")
    return [str(name) for name in names] if isinstance(names, list) else []


def _headers(text: str) -> Headers:
    """Return headers; of those that can't be read nothing is published anyway."""
    try:
        return Headers.decode(text)
    except MessageError:
        return Headers()


_FREE = _Rule(role=CLIENT)
_ADMINS = _Rule(role=ADMIN)
_TAKES = _Rule(role=WORKER, take=_one)
_BEATS = _Rule(role=WORKER)

_VERBS: dict[str, _Rule] = {
    "wait": _FREE,
    "unwait": _FREE,
    "results": _FREE,
    "forget": _FREE,
    "stats": _FREE,
    "queues": _FREE,
    "unsubscribe": _FREE,
    "declare_exchange": _FREE,
    "revoke": _Rule(role=CLIENT, more=Guard._revokes),
    "declare_queue": _Rule(role=CLIENT, more=Guard._declares),
    "bind": _Rule(role=CLIENT, more=Guard._binds),
    "subscribe": _Rule(role=WORKER, more=Guard._subscribes),
    "answer": _BEATS,
    "settle": _BEATS,
    "periodic_begin": _BEATS,
    "periodic_look": _BEATS,
    "periodic_send": _Rule(role=WORKER, more=Guard._beats),
    "fetch": _TAKES,
    "purge": _TAKES,
    "delete_queue": _TAKES,
    "unbind": _TAKES,
    "browse": _TAKES,
    "drop": _TAKES,
    "move": _Rule(role=WORKER, take=_one, more=Guard._moves),
    "delayed": _Rule(role=WORKER, take=_several),
}
