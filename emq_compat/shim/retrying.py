"""The message that a retry publishes: the running task's own, changed."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from emq_compat.message import Publish
from emq_compat.shim.build import unix_time
from emq_compat.shim.codec import dumps
from emq_compat.shim.current import Frame
from emq_compat.shim.exceptions import EncodeError
from emq_compat.shim.options import PROPERTIES, check_names, limit_of, priority_of, queue_name
from emq_compat.shim.packing import is_plain, pack, serializer_of

if TYPE_CHECKING:
    from emq_compat.shim.request import Context

__all__ = ["rebound", "retry_message"]


def rebound(
    run: Callable[..., Any],
    request: Context,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
) -> tuple[Sequence[Any] | None, Mapping[str, Any] | None]:
    """Return the arguments that a retry changes, where one kind is given: the other's don't name them twice.

    Given ``args`` stand in for keyword arguments of the running task that they cover; given ``kwargs`` take
    the place of its positional ones of the same names. None: as the running task has them.
    """
    if args is not None and kwargs is None and request.kwargs:
        covered = {name for name in _positional(run)[: len(args)] if name}
        if not covered.isdisjoint(request.kwargs):
            kwargs = {name: value for name, value in request.kwargs.items() if name not in covered}
    elif kwargs is not None and args is None and request.args:
        names = _positional(run)[: len(request.args)]
        if any(name in kwargs for name in names):
            given = dict(kwargs)
            args = list(request.args)
            for place, name in enumerate(names):
                if name in given:
                    args[place] = given.pop(name)
            kwargs = given
    return args, kwargs


def _positional(run: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that positional arguments go to; empty: not by its name."""
    try:
        parameters = inspect.signature(run).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name if p.kind is kinds[1] else "" for p in parameters if p.kind in kinds]


def _eta(eta: datetime | float | str | None, countdown: float | None, now: float) -> float:
    if eta is not None:
        return unix_time(eta, now, name="eta")
    return unix_time(0 if countdown is None or countdown <= 0 else countdown, now, name="countdown")


def retry_message(
    frame: Frame,
    *,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    eta: datetime | float | str | None,
    countdown: float | None,
    options: Mapping[str, Any],
) -> Publish:
    """Return the message that tries the running task again: the same task id, queue, headers and expiry.

    ``options`` may change queue, priority, expires, headers and the time limits.

    Raises:
        EncodeError: a changed argument can't be carried.
        TypeError, ValueError, ImproperlyConfigured: there is no such option, or its value can't be.
    """
    check_names(options)
    delivery = frame.delivery
    assert delivery is not None
    now = time.time()
    headers = delivery.headers
    changed: dict[str, Any] = {
        "attempt": 0,
        "redelivered": False,
        # The chord that it awaited is complete, and one that grew by it has grown.
        "awaits": "",
        "chord": headers.chord.rstrip("+"),
        "retries": (frame.request.retries or 0) + 1,
        "eta": _eta(eta, countdown, now),
    }
    if options.get("priority") is not None:
        changed["priority"] = priority_of(options["priority"])
    if options.get("expires") is not None:
        changed["expires"] = unix_time(options["expires"], now, name="expires")
    if options.get("time_limit") is not None:
        changed["limit_s"] = limit_of("time_limit", options["time_limit"])
    if options.get("soft_time_limit") is not None:
        changed["soft_limit_s"] = limit_of("soft_time_limit", options["soft_time_limit"])
    if options.get("ignore_result") is not None:
        changed["no_result"] = bool(options["ignore_result"])
    queue = options.get("routing_key") if options.get("queue") is None else options["queue"]
    return Publish(
        queue=delivery.queue if queue is None else queue_name(queue),
        headers=replace(headers, **changed),
        payload=_changed_payload(frame, delivery.payload, args, kwargs, options),
    )


#: Options of ``retry`` that change the Job's Celery part → its member.
_MEMBERS = {
    "headers": "headers",
    "link": "callbacks",
    "link_error": "errbacks",
    "link_exhausted": "exhausted",
    "reply_to": "reply_to",
    "shadow": "shadow",
}


def _changed_payload(
    frame: Frame,
    payload: bytes,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> bytes:
    """Return the payload with other arguments and options; as it is, byte for byte, where there are none."""
    members = {member: options[name] for name, member in _MEMBERS.items() if options.get(name)}
    if not PROPERTIES.isdisjoint(options):
        given = {name: options[name] for name in sorted(PROPERTIES & options.keys())}
        members["properties"] = {**(frame.request._properties or {}), **given}
    repacked = options.get("serializer") is not None or options.get("compression") is not None
    # What a message of Celery's said is no longer what it would say: its retries, its eta.
    from_celery = b'"wire":' in payload
    if args is None and kwargs is None and not members and not repacked and not from_celery:
        return payload
    document = json.loads(payload)
    job = document[1]
    celery = job.setdefault("celery", {})
    celery.pop("wire", None)
    for name in ("callbacks", "errbacks", "exhausted"):
        if name in members and not isinstance(members[name], (list, tuple)):
            members[name] = [members[name]]
    celery.update(members)
    packed = celery.pop("packed", None)
    serializer, compression = options.get("serializer"), options.get("compression")
    if packed is not None:
        serializer = serializer or serializer_of(packed)
        compression = packed.get("compression") if compression is None else compression
    if args is not None or kwargs is not None or packed is not None or repacked:
        request = frame.request
        job["args"] = list((request.args or ()) if args is None else args)
        job["kwargs"] = dict((request.kwargs or {}) if kwargs is None else kwargs)
    try:
        if not is_plain(serializer, compression):
            celery["packed"] = pack([job["args"], job["kwargs"]], serializer, compression)
            job["args"], job["kwargs"] = [], {}
        return dumps(document).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise EncodeError(f"{frame.task.name}: retry's arguments can't be carried: {exc}") from exc
