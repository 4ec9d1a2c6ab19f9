"""What awaits a chord and is more than one task.

The broker holds one message until a chord's parts have succeeded. Where what follows is a group, a chord, or
a task whose countdown counts from then, that message is one of the builtin task ``emq_compat.launch``, which
applies the signature to the values; the rest (ids, chain, callbacks) travels inside the signature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from emq_compat.shim.canvas.regen import as_list

__all__ = ["LAUNCH", "failing", "hold", "leaves", "must_be_launched"]

LAUNCH: Final = "emq_compat.launch"

#: Options that belong to the message, or count from when the task is sent.
_OF_THE_MESSAGE = ("awaits", "add_to_parent", "producer", "publisher", "connection", "retry", "retry_policy")


def must_be_launched(options: Mapping[str, Any]) -> bool:
    """Return whether a task that awaits a chord has options that count from the chord's end."""
    return bool(options.get("countdown")) or isinstance(options.get("expires"), (int, float))


def hold(sig: Any, awaits: Any, options: Mapping[str, Any]) -> None:
    """Publish the launcher of ``sig``, a signature with all its ids, with these options of apply_async."""
    held = sig.clone()
    held["options"] = {
        **held["options"],
        **{name: value for name, value in options.items() if name not in _OF_THE_MESSAGE},
    }
    first = next(leaves(held), held)
    own = {
        name: held["options"][name]
        for name in ("root_id", "parent_id", "priority")
        if held["options"].get(name) is not None
    }
    queue = first["options"].get("queue")
    if queue is None:
        task = sig.app.tasks.get(first["task"])
        queue = None if task is None else task.queue
    if queue is not None:
        own["queue"] = queue
    sig.app.send_task(
        LAUNCH,
        (held,),
        awaits=awaits,
        epilogue=True,
        ignore_result=True,
        route_name=first["task"],
        add_to_parent=False,
        **own,
    )


def leaves(sig: Any) -> Iterator[Mapping[str, Any]]:
    """Iterate over the single tasks of a signature, or of its dict, in the order in which they begin."""
    kind, kwargs = sig.get("subtask_type"), sig.get("kwargs") or {}
    if kind in ("chain", "group"):
        for task in kwargs.get("tasks") or ():
            yield from leaves(task)
    elif kind == "chord":
        header = kwargs.get("header") or ()
        for task in [header] if isinstance(header, dict) else header:
            yield from leaves(task)
        if kwargs.get("body") is not None:
            yield from leaves(kwargs["body"])
    else:
        yield sig


def failing(sig: Any) -> Iterator[tuple[Mapping[str, Any], list[Any]]]:
    """Iterate over the tasks of ``sig``, or its dict, that fail when it can't begin, with their errbacks.

    A chain fails in its first step, a chord in its body; each member of a group for itself.
    """
    kind, kwargs = sig.get("subtask_type"), sig.get("kwargs") or {}
    own = as_list((sig.get("options") or {}).get("link_error"))
    inner: list[Any] = []
    if kind == "group":
        inner = list(kwargs.get("tasks") or ())
    elif kind == "chain":
        inner = list(kwargs.get("tasks") or ())[:1]
    elif kind == "chord":
        inner = [kwargs["body"]] if kwargs.get("body") is not None else []
    else:
        yield sig, own
    for task in inner:
        for leaf, errbacks in failing(task):
            yield leaf, errbacks + [errback for errback in own if errback not in errbacks]
