"""What an operator may do from the page: each action by its name, and what it says afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from emq_compat.errors import MessageError
from emq_compat.monitor.dashboard.broker import Broker, ask_worker
from emq_compat.words import amount

__all__ = ["ACTIONS", "do"]

Given = Mapping[str, Any]


def do(broker: Broker, action: str, given: Given) -> str:
    """Do it; returns what it came to, in words.

    Raises:
        MessageError: there is no such action, or an argument is missing.
        EmqError: the broker refused it, or didn't answer.
    """
    found = ACTIONS.get(action)
    if found is None:
        raise MessageError(f"there is no action {action!r:.80}")
    return found(broker, given)


def _text(given: Given, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise MessageError(f"{name!r} is missing")
    return value


def _revoke(broker: Broker, given: Given) -> str:
    return _revoked(broker, _text(given, "id"), terminate=False)


def _terminate(broker: Broker, given: Given) -> str:
    return _revoked(broker, _text(given, "id"), terminate=True)


_REVOKED = {
    "finished": "has ended already",
    "terminating": "is being terminated",
    "revoked": "is revoked",
    "noted": "is revoked: it ends when it would be handed out",
}


def _revoked(broker: Broker, task_id: str, *, terminate: bool) -> str:
    what = broker.ask("revoke", ids=[task_id], terminate=terminate)[task_id]
    return f"{task_id} {_REVOKED.get(what, what)}."


def _keys(given: Given) -> dict[str, Any]:
    if given.get("all") is True:
        return {"all": True}
    key = given.get("key")
    if type(key) is not int:
        raise MessageError("'key' is missing: the dead letter's number")
    return {"keys": [key]}


def _requeue(broker: Broker, given: Given) -> str:
    return f"{amount(broker.ask('dead_requeue', **_keys(given)), 'dead letter')} put back into the queue."


def _drop(broker: Broker, given: Given) -> str:
    return f"{amount(broker.ask('dead_drop', **_keys(given)), 'dead letter')} dropped."


def _purge(broker: Broker, given: Given) -> str:
    queue = _text(given, "queue")
    if given.get("confirmed") != queue:
        raise MessageError(f"nothing was dropped: to purge it, the queue's name {queue!r} must be typed")
    return f"{amount(broker.ask('purge', queue=queue), 'message')} of {queue} dropped."


def _pause(broker: Broker, given: Given) -> str:
    queue = _text(given, "queue")
    changed = broker.ask("pause_queue", queue=queue)
    return f"{queue} is paused{'' if changed else ' already'}: nothing is handed out of it."


def _resume(broker: Broker, given: Given) -> str:
    queue = _text(given, "queue")
    changed = broker.ask("resume_queue", queue=queue)
    return f"{queue} goes on." if changed else f"{queue} was not paused."


def _grow(broker: Broker, given: Given) -> str:
    return _scaled(broker, given, "pool_grow")


def _shrink(broker: Broker, given: Given) -> str:
    return _scaled(broker, given, "pool_shrink")


def _scaled(broker: Broker, given: Given, verb: str) -> str:
    worker = _text(given, "worker")
    return f"{worker} now runs {ask_worker(broker, worker, verb, {'n': 1})} at once."


ACTIONS: dict[str, Callable[[Broker, Given], str]] = {
    "revoke": _revoke,
    "terminate": _terminate,
    "requeue": _requeue,
    "drop": _drop,
    "purge": _purge,
    "pause": _pause,
    "resume": _resume,
    "grow": _grow,
    "shrink": _shrink,
}
