"""Queues as settings declare them: names, and the exchanges and keys by which Celery would find them.

Here are only queues. An exchange and a routing key lead to the one queue that is bound so; what else a kombu
Queue or Exchange says (arguments, durability …) means nothing. kombu is never imported: its objects are read
by their attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from emq_compat.shim.checks import queue_name
from emq_compat.shim.exceptions import ImproperlyConfigured, QueueNotFound

__all__ = ["Exchange", "Queue", "Queues", "queue_name"]


class Exchange:
    """The name and type of an exchange."""

    def __init__(self, name: str = "", type: str = "direct") -> None:  # noqa: A002 - kombu's name
        self.name = name
        self.type = type

    def __repr__(self) -> str:
        return f"<Exchange {self.name}({self.type})>"


class Queue:
    """A queue that a setting declares without kombu; the attributes are those of kombu's Queue."""

    def __init__(
        self,
        name: str,
        exchange: Any = None,
        routing_key: str | None = None,
        exchange_type: str | None = None,
        alias: str | None = None,
        queue_arguments: Mapping[str, Any] | None = None,
        max_priority: int | None = None,
        **options: Any,
    ) -> None:
        self.name = queue_name(name)
        if not hasattr(exchange, "name"):
            exchange = Exchange(exchange or name, exchange_type or "direct")
        self.exchange = exchange
        self.routing_key = routing_key or options.pop("binding_key", None) or name
        self.alias = alias
        self.queue_arguments = queue_arguments
        self.max_priority = max_priority
        self.options = options

    def __repr__(self) -> str:
        return f"<Queue {self.name} -> {self.exchange!r} -> {self.routing_key}>"


class Queues(dict[str, Any]):
    """The queues of an app by name; those to listen on are ``consume_from``.

    Args:
        queues: kombu Queues, names, or a mapping of names to options of a Queue.
        create_missing: a name that isn't there is added when it is asked for; else that is QueueNotFound.
        default_exchange: of queues that have none.

    Raises:
        ImproperlyConfigured: a name can't be one, or it isn't a queue.
    """

    def __init__(
        self,
        queues: Any = None,
        default_exchange: Any = None,
        create_missing: bool = True,
        default_routing_key: str | None = None,
        **kombu: Any,
    ) -> None:
        super().__init__()
        self.aliases: dict[str, Any] = {}
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self._consume_from: dict[str, Any] | None = None
        if isinstance(queues, Mapping):
            for name, options in queues.items():
                self.add(options if hasattr(options, "exchange") else name, **_options(options))
        else:
            for queue in [queues] if isinstance(queues, str) else queues or ():
                self.add(queue)
        self._default_consume_from = dict(self)

    def __missing__(self, name: str) -> Any:
        if name in self.aliases:
            return self.aliases[name]
        if not self.create_missing:
            raise QueueNotFound(f"Queue {name!r} missing from task_queues")
        return self.add(name)

    def add(self, queue: Any, **options: Any) -> Any:
        """Add a queue: a kombu Queue, or a name with options of one; returns it."""
        if isinstance(queue, str):
            queue = Queue(queue, **options)
        elif not hasattr(queue, "name"):
            why = f"{queue!r} is no queue; a name or a kombu Queue is expected"
            raise ImproperlyConfigured(f"task_queues: {why}")
        name = queue_name(queue)
        self[name] = queue
        alias = getattr(queue, "alias", None)
        if alias:
            self.aliases[alias] = queue
        return queue

    add_compat = add

    def select_add(self, queue: Any, **options: Any) -> Any:
        """Add a queue and listen on it, whatever was selected."""
        added = self.add(queue, **options)
        self.consume_from[added.name] = added
        return added

    def select(self, include: Iterable[str] | str | None) -> None:
        """Listen on these only; raises QueueNotFound for one that there isn't."""
        if include:
            names = [include] if isinstance(include, str) else list(include)
            self._consume_from = {queue.name: queue for queue in map(self.__getitem__, names)}

    def deselect(self, exclude: Iterable[str] | str | None) -> None:
        """Don't listen on these."""
        for name in [exclude] if isinstance(exclude, str) else exclude or ():
            self.consume_from.pop(name, None)

    @property
    def consume_from(self) -> dict[str, Any]:
        """The queues that a worker listens on, by name."""
        return self._default_consume_from if self._consume_from is None else self._consume_from

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """Return a line for each queue that is listened on."""
        lines = [f".> {name:<16} {_binding(queue)}" for name, queue in sorted(self.consume_from.items())]
        text = ("\n" + " " * indent).join(lines)
        return " " * indent + text if indent_first else text

    def bound(self, exchange: str, routing_key: str) -> list[str]:
        """Return the names of the queues that a message to this exchange with this key would reach."""
        return [name for name, queue in self.items() if self._reaches(queue, exchange, routing_key)]

    def _reaches(self, queue: Any, exchange: str, key: str) -> bool:
        bindings = getattr(queue, "bindings", None) or (queue,)
        for binding in bindings:
            its_exchange = getattr(binding, "exchange", None)
            if not getattr(its_exchange, "name", ""):
                its_exchange = self.default_exchange
            if getattr(its_exchange, "name", its_exchange) != exchange:
                continue
            its_key = getattr(binding, "routing_key", None) or self.default_routing_key or queue.name
            if getattr(its_exchange, "type", "direct") == "topic":
                if _topic(its_key).fullmatch(key):
                    return True
            elif its_key == key or getattr(its_exchange, "type", "direct") == "fanout":
                return True
        return False


def _options(options: Any) -> dict[str, Any]:
    return dict(options) if isinstance(options, Mapping) else {}


def _binding(queue: Any) -> str:
    exchange = getattr(queue, "exchange", None)
    name, kind = getattr(exchange, "name", ""), getattr(exchange, "type", "direct")
    return f"exchange={name}({kind}) key={getattr(queue, 'routing_key', '')}"


def _topic(pattern: str) -> re.Pattern[str]:
    """Return AMQP's topic pattern as a regular one: ``*`` is one word, ``#`` none, one or several."""
    words = []
    for word in pattern.split("."):
        words.append(r"[^.]+" if word == "*" else ".*" if word == "#" else re.escape(word))
    text = r"\.".join(words)
    return re.compile(text.replace(r"\..*", r"(?:\..*)?").replace(r".*\.", r"(?:.*\.)?"))
