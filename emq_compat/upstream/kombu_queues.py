"""Queues as kombu declares them, of what an app's settings say: by Celery's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, Final

__all__ = ["Queues"]

#: Options of a queue that kombu's Queue takes as they are.
_OPTIONS: Final = (
    "durable", "exclusive", "auto_delete", "expires", "message_ttl", "max_length", "max_length_bytes",
    "no_ack", "consumer_arguments", "binding_arguments", "bindings",
)  # fmt: skip


class Queues:
    """The kombu Queues of an app, made when they are first asked for.

    Args:
        find: returns an app's queue by its name: a kombu Queue, or what has its attributes.
        declared: the names of the queues that settings declare.
        conf: the app's settings, under Celery's names.
    """

    def __init__(
        self, find: Callable[[str], Any], declared: Callable[[], Any], conf: Mapping[str, Any]
    ) -> None:
        self._find = find
        self._conf = conf
        self._declared = frozenset(declared())
        self._known: dict[str, Any] = {}

    def __call__(self, name: str) -> Any:
        """Return the queue of this name."""
        queue = self._known.get(name)
        if queue is None:
            queue = self._known[name] = self._made(name)
        return queue

    @property
    def quorum(self) -> bool:
        """Whether one of the declared ones is a quorum queue."""
        return any(_is_quorum(self(name)) for name in self._declared)

    def _made(self, name: str) -> Any:
        from kombu.entity import Queue  # noqa: PLC0415 - heavy

        conf, found = self._conf, self._find(name)
        queue: Any = copy(found) if isinstance(found, Queue) else self._of_the_like(name, found)
        if not queue.exchange or not queue.exchange.name:
            queue.exchange = self._default_exchange()
        if not queue.routing_key:
            queue.routing_key = conf["task_default_routing_key"] or conf["task_default_queue"]
        arguments = dict(queue.queue_arguments or {})
        kind = None
        if name not in self._declared:
            kind = conf.get("task_create_missing_queue_type")
        elif not conf["task_queues"]:
            kind = conf.get("task_default_queue_type")
        if kind == "quorum":
            arguments.setdefault("x-queue-type", kind)
        if conf["task_queue_max_priority"] is not None and arguments.get("x-queue-type") != "quorum":
            arguments.setdefault("x-max-priority", int(conf["task_queue_max_priority"]))
        queue.queue_arguments = arguments or None
        return queue

    def _default_exchange(self) -> Any:
        from kombu.entity import Exchange  # noqa: PLC0415 - heavy

        conf = self._conf
        name = conf["task_default_exchange"] or conf["task_default_queue"]
        return Exchange(name, type=conf["task_default_exchange_type"] or "direct")

    def _of_the_like(self, name: str, found: Any) -> Any:
        from kombu.entity import Exchange, Queue  # noqa: PLC0415 - heavy

        told: Any = getattr(found, "exchange", None)
        exchange = self._default_exchange()
        if getattr(told, "name", ""):
            exchange = Exchange(told.name, type=getattr(told, "type", None) or "direct")
        given = getattr(found, "options", None) or {}
        return Queue(
            name,
            exchange=exchange,
            routing_key=getattr(found, "routing_key", None) or name,
            queue_arguments=getattr(found, "queue_arguments", None),
            max_priority=getattr(found, "max_priority", None),
            **{option: given[option] for option in _OPTIONS if option in given},
        )


def _is_quorum(queue: Any) -> bool:
    return (queue.queue_arguments or {}).get("x-queue-type") == "quorum"
