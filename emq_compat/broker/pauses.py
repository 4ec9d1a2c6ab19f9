"""Queues that hand nothing out for a while, because an operator says so: a part of the table of verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.queues import DEFAULT_QUEUE
from emq_compat.broker.records import Moment
from emq_compat.errors import MessageError

__all__ = ["PAUSES"]

Arguments = dict[str, Any]


def _pause(engine: Engine, arguments: Arguments, now: Moment) -> bool:
    return _set(engine, arguments, paused=True)


def _resume(engine: Engine, arguments: Arguments, now: Moment) -> bool:
    return _set(engine, arguments, paused=False)


def _set(engine: Engine, arguments: Arguments, *, paused: bool) -> bool:
    name = arguments.get("queue")
    if not isinstance(name, str):
        raise MessageError("'queue' is the name of a queue")
    queue = engine.queues.by_name.get(name or DEFAULT_QUEUE)
    if queue is None:
        raise MessageError(f"there is no queue {name!r}")
    if not engine.declared.pause(queue, paused=paused):
        return False
    engine.desk.note("info", f"queue {queue.name}: {'paused' if paused else 'resumed'}")
    return True


#: Verb → what answers it: whether that changed anything.
PAUSES: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {
    "pause_queue": _pause,
    "resume_queue": _resume,
}
