"""Exchanges and bindings: to which queues a message goes that names an exchange and a routing key.

As AMQP has them: ``direct`` compares the key, ``topic`` its words (``*`` is one word, ``#`` any number of
them), ``fanout`` takes every binding. The exchange without a name gives a message to the queue of that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from emq_compat.broker.desk import Desk
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.queues import QueueSet
from emq_compat.errors import NotDeclared, NotEquivalent

__all__ = ["KINDS", "Exchange", "Exchanges"]

KINDS = ("direct", "topic", "fanout")
#: Exchanges that are there without being declared.
_BUILT_IN = {f"amq.{kind}": kind for kind in KINDS}
#: Routing keys whose queues an exchange keeps in mind.
_KEPT_KEYS = 4096


class Exchange:
    """One exchange with its bindings, (routing key, queue's name)."""

    __slots__ = ("_kept", "_patterns", "auto_delete", "bindings", "durable", "kind", "name")

    def __init__(self, name: str, kind: str, *, durable: bool, auto_delete: bool) -> None:
        self.name = name
        self.kind = kind
        self.durable = durable
        self.auto_delete = auto_delete
        self.bindings: dict[tuple[str, str], None] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        self._kept: dict[str, tuple[str, ...]] = {}

    def bind(self, key: str, queue: str) -> bool:
        """Add a binding; False: it is there already."""
        if (key, queue) in self.bindings:
            return False
        self.bindings[key, queue] = None
        self._patterns.append((_pattern(key), queue))
        self._kept.clear()
        return True

    def unbind(self, key: str, queue: str) -> bool:
        """Remove a binding; False: there was none."""
        if (key, queue) not in self.bindings:
            return False
        del self.bindings[key, queue]
        self._patterns = [(_pattern(known), name) for known, name in self.bindings]
        self._kept.clear()
        return True

    def queues(self, key: str) -> tuple[str, ...]:
        """Return the names of the queues that a message with this routing key goes to, each once."""
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _KEPT_KEYS:
                self._kept.clear()
            kept = self._kept[key] = tuple(dict.fromkeys(self._found(key)))
        return kept

    def _found(self, key: str) -> Iterable[str]:
        if self.kind == "fanout":
            return (queue for _, queue in self.bindings)
        if self.kind == "direct":
            return (queue for bound, queue in self.bindings if bound == key)
        words = f".{key}"
        return (queue for pattern, queue in self._patterns if pattern.fullmatch(words))


class Exchanges:
    """All exchanges: the durable ones, and since this broker's start the others.

    Attributes:
        by_name: those that were declared, and the built-in ones.
    """

    def __init__(self, desk: Desk, queues: QueueSet) -> None:
        self._journal = desk.journal
        self._broker = str(desk.about.get("broker", ""))
        self._queues = queues
        self.by_name: dict[str, Exchange] = {}
        self._load()

    def _load(self) -> None:
        for name, kind in _BUILT_IN.items():
            self.by_name[name] = Exchange(name, kind, durable=True, auto_delete=False)
        for name, kind, options in self._journal.exchanges():
            told = json.loads(options)
            durable = bool(told.get("durable"))
            if not durable and told.get("broker") != self._broker:
                self._journal.drop_exchange(name)
                continue
            auto_delete = bool(told.get("auto_delete"))
            self.by_name[name] = Exchange(name, kind, durable=durable, auto_delete=auto_delete)
        for name, key, queue in self._journal.bindings():
            exchange = self.by_name.get(name)
            if exchange is None or queue not in self._queues.by_name:
                self._journal.drop_binding(name, key, queue)
            else:
                exchange.bind(key, queue)

    def declare(self, name: str, kind: str, *, durable: bool, auto_delete: bool) -> None:
        """Make an exchange, unless it is there.

        Raises:
            NotEquivalent: it is there, and is another one.
            NotDeclared: there are no exchanges of this kind.
        """
        if kind not in KINDS:
            raise NotDeclared(f"there are no exchanges of the type {kind!r}: {', '.join(KINDS)}")
        known = self.by_name.get(name)
        if known is None:
            self.by_name[name] = Exchange(name, kind, durable=durable, auto_delete=auto_delete)
            options = {"durable": durable, "auto_delete": auto_delete, "broker": self._broker}
            self._journal.put_exchange(name, kind, json.dumps(options))
        elif (known.kind, known.durable, known.auto_delete) != (kind, durable, auto_delete):
            raise NotEquivalent(
                f"the exchange {name!r} is there already, and is {known.kind}, durable={known.durable}, "
                f"auto_delete={known.auto_delete}: it can't be declared anew as {kind}, durable={durable}, "
                f"auto_delete={auto_delete}"
            )

    def find(self, name: str) -> Exchange:
        """Return an exchange; raises NotDeclared where there is none of this name."""
        exchange = self.by_name.get(name)
        if exchange is None:
            raise NotDeclared(f"there is no exchange {name!r}")
        return exchange

    def delete(self, name: str, *, if_unused: bool) -> bool:
        """Delete an exchange with its bindings; False: there is none, or it is in use."""
        exchange = self.by_name.get(name)
        if exchange is None or name in _BUILT_IN or (if_unused and exchange.bindings):
            return False
        del self.by_name[name]
        self._journal.drop_exchange(name)
        return True

    def bind(self, name: str, key: str, queue: str) -> bool:
        """Have an exchange give messages to a queue; raises NotDeclared where there is no such exchange."""
        if not self.find(name).bind(key, queue):
            return False
        self._journal.put_binding(name, key, queue)
        return True

    def unbind(self, name: str, key: str, queue: str) -> bool:
        """Remove a binding; returns whether there was one."""
        exchange = self.by_name.get(name)
        if exchange is None or not exchange.unbind(key, queue):
            return False
        self._journal.drop_binding(name, key, queue)
        if exchange.auto_delete and not exchange.bindings:
            self.delete(name, if_unused=True)
        return True

    def forget_queue(self, queue: str) -> None:
        """Remove all bindings of a queue."""
        for exchange in list(self.by_name.values()):
            for key, bound in list(exchange.bindings):
                if bound == queue:
                    self.unbind(exchange.name, key, bound)

    def route(self, name: str, key: str) -> list[MessageQueue]:
        """Return the queues that a message goes to; raises NotDeclared where there is no such exchange."""
        by_name = self._queues.by_name
        if not name:
            queue = by_name.get(key)
            return [] if queue is None else [queue]
        return [by_name[queue] for queue in self.find(name).queues(key) if queue in by_name]

    def topic(self, name: str, key: str) -> str:
        """Return the topic under which subscribers hear what goes through an exchange; empty: under none."""
        exchange = self.by_name.get(name)
        if exchange is None or exchange.kind == "direct":
            return ""
        return f"{name}.{key}" if key else name

    def of_topic(self, topic: str) -> list[tuple[Exchange, str]]:
        """Return (exchange, routing key) of what is announced under a topic, of those with bindings."""
        return [
            (exchange, topic[len(exchange.name) + 1 :])
            for exchange in self.by_name.values()
            if exchange.bindings
            and exchange.kind != "direct"
            and (topic == exchange.name or topic.startswith(f"{exchange.name}."))
        ]


def _pattern(key: str) -> re.Pattern[str]:
    """Return what a routing key matches, with a dot in front of each of its words."""
    parts: list[str] = []
    for word in key.split("."):
        if word == "#":
            if parts[-1:] != [_ANY]:
                parts.append(_ANY)
        else:
            parts.append(r"\.[^.]*" if word == "*" else r"\." + re.escape(word))
    return re.compile("".join(parts), re.DOTALL)


_ANY = r"(?:\.[^.]*)*"
