"""A task's message in the layout of Celery's protocol 2: what ``app.amqp.create_task_message`` returns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

__all__ = ["TaskMessage", "as_task_v2"]


class TaskMessage(NamedTuple):
    """Headers and properties of the message, its body, and the event that tells of it."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: tuple[Any, Any, dict[str, Any]]
    sent_event: dict[str, Any] | None


def as_task_v2(
    task_id: str,
    name: str,
    args: Any = None,
    kwargs: Any = None,
    *,
    now: datetime,
    countdown: float | None = None,
    eta: datetime | str | None = None,
    expires: float | datetime | str | None = None,
    argsrepr: str = "",
    kwargsrepr: str = "",
    **options: Any,
) -> TaskMessage:
    """Return the message of a call; further options are Celery's (group_id, callbacks, time_limit, …).

    Raises:
        TypeError: the arguments are no list and no mapping.
    """
    args, kwargs = args or (), kwargs or {}
    if not isinstance(args, (list, tuple)):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    get = options.get
    told = {
        "root_id": get("root_id") or task_id,
        "parent_id": get("parent_id"),
        "retries": get("retries") or 0,
        "eta": _iso(countdown if countdown else eta, now),
        "expires": _iso(expires, now),
    }
    stamped = get("stamped_headers")
    headers = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "shadow": get("shadow"),
        "group": get("group_id"),
        "group_index": get("group_index"),
        "timelimit": [get("time_limit"), get("soft_time_limit")],
        "argsrepr": argsrepr,
        "kwargsrepr": kwargsrepr,
        "origin": get("origin") or f"gen{os.getpid()}@{os.uname().nodename}",
        "ignore_result": bool(get("ignore_result")),
        "replaced_task_nesting": get("replaced_task_nesting") or 0,
        "stamped_headers": stamped,
        "stamps": {header: options[header] for header in stamped or ()},
        **told,
    }
    event = {"uuid": task_id, "name": name, "args": argsrepr, "kwargs": kwargsrepr, **told}
    embedded = {key: get(key) for key in ("callbacks", "errbacks", "chain", "chord")}
    return TaskMessage(
        headers=headers,
        properties={"correlation_id": task_id, "reply_to": get("reply_to") or ""},
        body=(args, kwargs, embedded),
        sent_event=event if get("create_sent_event") else None,
    )


def _iso(moment: float | datetime | str | None, now: datetime) -> str | None:
    if isinstance(moment, (int, float)):
        moment = now + timedelta(seconds=moment)
    return moment.isoformat() if isinstance(moment, datetime) else moment
