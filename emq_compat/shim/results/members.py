"""What a result tells beside its value: when it was done, its children, and what result_extended adds."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from emq_compat.shim.codec import jsonable
from emq_compat.shim.exceptions import EncodeError
from emq_compat.shim.run_plan import run_plan_of

if TYPE_CHECKING:
    from emq_compat.shim.request import Context
    from emq_compat.shim.task import Task

__all__ = ["done_now", "members_of", "told_of"]


def done_now() -> str:
    """Return the time now as ``date_done`` has it: ISO 8601, with microseconds, in UTC."""
    global _second
    seconds, us = divmod(time.time_ns() // 1000, 1_000_000)
    known, text = _second
    if known != seconds:
        text = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        _second = (seconds, text)
    return f"{text}.{us:06d}+00:00"


#: The last second that was asked for, and its text: a worker ends many tasks in one.
_second = (-1, "")


def told_of(task: Task[..., Any], request: Context, *, final: bool = True) -> dict[str, Any]:
    """Return what a worker says of a run beside its value; ``final``: it won't be tried again."""
    plan = run_plan_of(task, task.app)
    members: dict[str, Any] = {"date_done": done_now()} if final else {}
    if plan.related or request._children:
        members.update(members_of(request, extended=plan.extended, related=plan.related))
    return members


def members_of(request: Context, *, extended: bool, related: bool = False) -> dict[str, Any]:
    """Return members of the reply's JSON object that tell of a task's run; none where there are none.

    ``extended``: with name, args, kwargs, worker, retries, queue and stamps (result_extended). ``related``:
    with the ids of its group and of the task that published it, which extended has, too.
    """
    members: dict[str, Any] = {}
    if request._children:
        members["children"] = [jsonable(child.as_tuple()) for child in request._children]
    if not extended and not related:
        return members
    if request.group:
        members["group_id"] = request.group
    if request.parent_id:
        members["parent_id"] = request.parent_id
    if extended:
        delivery = request.delivery_info or {}
        members.update(
            name=request.task,
            args=_shown(list(request.args or ())),
            kwargs=_shown(dict(request.kwargs or {})),
            worker=request.hostname,
            retries=request.retries,
            queue=delivery.get("routing_key"),
        )
        if request.stamps:
            members["stamped_headers"] = list(request.stamped_headers or request.stamps)
            members["stamps"] = _shown(request.stamps)
    return members


def _shown(value: Any) -> Any:
    """Return what is JSON as it is, and anything else as its repr: telling of a task never fails it."""
    try:
        return jsonable(value)
    except EncodeError:
        return repr(value)
