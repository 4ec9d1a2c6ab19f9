"""Celery's remote control as it travels: the messages of kombu's ``pidbox``, without kombu and without I/O.

Who asks publishes a command to the fanout exchange ``NAMESPACE.pidbox`` (the setting control_exchange). Every
worker has a queue there; those that are meant do it and, where the asker wants to know, publish ``{node:
answer}`` to the direct exchange that the command names, under its routing key, with its ticket.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from emq_compat.errors import MessageError
from emq_compat.node_patterns import matches

__all__ = ["COMMAND", "Command", "answered", "asked_in", "exchange_of", "namespace_of"]

#: The verb by which a worker is asked to run a command of Celery's (docs/protocol.md): method, arguments.
COMMAND: Final = "command"
_SUFFIX: Final = ".pidbox"
_REPLIES: Final = "reply."


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to workers.

    Attributes:
        method: its name; ``arguments``: its keyword arguments.
        destination: the nodes that are meant; None: all, or those that match ``pattern``.
        pattern, matcher: both, or none of them; the matcher is ``glob`` or ``pcre``.
        reply_exchange, reply_key, ticket: where an answer goes; empty: none is wanted.
    """

    method: str
    arguments: Mapping[str, Any]
    destination: frozenset[str] | None = None
    pattern: str = ""
    matcher: str = ""
    reply_exchange: str = ""
    reply_key: str = ""
    ticket: str = ""

    @property
    def wants_reply(self) -> bool:
        """Whether the asker waits for answers."""
        return bool(self.reply_key)

    def concerns(self, node: str) -> bool:
        """Tell whether a node is meant.

        Raises:
            MessageError: there is no such matcher, or the pattern can't be used.
        """
        if self.destination:
            return node in self.destination
        if not (self.pattern and self.matcher):
            return True
        return matches(node, self.pattern, self.matcher)


def exchange_of(namespace: str) -> str:
    """Return the exchange of the commands of a namespace."""
    return namespace + _SUFFIX


def namespace_of(exchange: str) -> str | None:
    """Return the namespace whose commands an exchange has; None: it has none."""
    if not exchange.endswith(_SUFFIX) or exchange.startswith(_REPLIES):
        return None
    return exchange.removesuffix(_SUFFIX)


def asked_in(body: object) -> Command:
    """Return the command that a decoded message is.

    Raises:
        MessageError: it is none; the text names what is wrong.
    """
    if not isinstance(body, Mapping):
        raise MessageError(f"a command of remote control is an object, not {type(body).__name__}")
    method = body.get("method")
    if not isinstance(method, str) or not method:
        raise MessageError("a command of remote control has no 'method'")
    arguments = body.get("arguments") or {}
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise MessageError(f"the arguments of {method!r} are no object")
    destination = body.get("destination")
    if destination is not None and not (
        isinstance(destination, (list, tuple)) and all(isinstance(node, str) for node in destination)
    ):
        raise MessageError(f"the destination of {method!r} is no list of node names")
    pattern, matcher = body.get("pattern") or "", body.get("matcher") or ""
    if not isinstance(pattern, str) or not isinstance(matcher, str):
        raise MessageError(f"the pattern and matcher of {method!r} are no texts")
    reply_to = body.get("reply_to") or {}
    if not isinstance(reply_to, Mapping):
        raise MessageError(f"{method!r} says in no readable way where its answer goes")
    return Command(
        method=method,
        arguments=dict(arguments),
        destination=frozenset(destination) if destination else None,
        pattern=pattern,
        matcher=matcher,
        reply_exchange=str(reply_to.get("exchange") or ""),
        reply_key=str(reply_to.get("routing_key") or ""),
        ticket=str(body.get("ticket") or ""),
    )


def answered(node: str, document: bytes) -> dict[str, Any]:
    """Return what a node's answer to COMMAND, a JSON document, is to those who speak pidbox.

    An error is shown as the ``repr`` of an exception, as Celery's workers show theirs.
    """
    told = json.loads(document)
    if "error" not in told:
        return {node: told.get("ok")}
    error = told["error"]
    return {node: {"error": f"{error.get('type')}({error.get('message')!r})"}}
