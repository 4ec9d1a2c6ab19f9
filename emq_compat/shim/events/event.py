"""An event: a dict with a type, and where it goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu.entity import Exchange

__all__ = ["EVENT_EXCHANGE_NAME", "Event", "get_exchange", "group_from", "matches", "routing_key_of"]

#: With which the topics of events begin, unless event_exchange says something else.
EVENT_EXCHANGE_NAME = "celeryev"


def Event(  # noqa: N802 - Celery's name
    type: str,  # noqa: A002 - Celery's name
    _fields: Mapping[str, Any] | None = None,
    __dict__: Callable[..., dict[str, Any]] = dict,
    __now__: Callable[[], float] = time.time,
    **fields: Any,
) -> dict[str, Any]:
    """Return an event of a type; ``timestamp`` is now unless the fields have one."""
    event = __dict__(_fields or {}, **fields)
    event.setdefault("timestamp", __now__())
    event["type"] = type
    return event


def group_from(type: str) -> str:  # noqa: A002 - Celery's name
    """Return the group of an event's type: ``task`` of ``task-sent``."""
    return type.partition("-")[0]


def routing_key_of(type: str) -> str:  # noqa: A002 - Celery's name
    """Return an event's routing key: ``task.sent`` of ``task-sent``."""
    return type.replace("-", ".")


def matches(pattern: str, routing_key: str) -> bool:
    """Tell whether a routing key is meant by a pattern: ``*`` stands for one word, ``#`` for any number."""
    return _match(pattern.split("."), routing_key.split("."))


def _match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(_match(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and _match(rest, words[1:])


def get_exchange(conn: Any = None, name: str = EVENT_EXCHANGE_NAME) -> Exchange:
    """Return the exchange of events as kombu's object: only its name means something to our broker.

    ``conn`` may be a genuine connection: some of kombu's transports need another type.
    """
    from kombu.entity import Exchange  # noqa: PLC0415 - heavy

    kind = getattr(getattr(conn, "transport", None), "driver_type", "")
    return Exchange(name, type="fanout" if kind in ("redis", "gcpubsub") else "topic")


def __getattr__(name: str) -> Any:
    if name != "event_exchange":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, get_exchange())
