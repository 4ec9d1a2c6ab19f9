"""Job managers that run stock eventmq 0.3.13: how one is known, what it may be given, how long it may take.

What a stock job manager can't read ends its loop: it starts its session anew and forgets what it was given.
"""

from __future__ import annotations

import json
import re

from emq_compat.broker.records import InFlight
from emq_compat.errors import MessageError
from emq_compat.message import Headers, Job

__all__ = ["SILENCE_S", "has_stock_name", "overdue_at", "reply_body", "stock_headers", "unfit"]

#: It beats every 3 s, whatever the broker's own workers are asked for.
SILENCE_S = 10.0
#: Deeper nesting could exceed the recursion limit of its JSON and pickle, which is not this process's.
_DEPTH = 200

# Its identity is a uuid and nothing else; ours always end in an incarnation.
_UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def has_stock_name(identity: bytes) -> bool:
    """Tell whether a worker that has not said INFORM here is a stock one."""
    return _UUID(identity) is not None


def stock_headers(headers: Headers) -> str:
    """Return the headers for a stock worker, which must answer: its REPLY is how we learn of the end."""
    parts = ["reply-requested"]
    if headers.retry_count:
        parts.append(f"retry-count:{headers.retry_count}")
    limit = _limit_s(headers)
    if limit:
        parts.append(f"timeout:{max(1, int(limit + 0.999))}")
    return ",".join(parts)


def unfit(payload: bytes) -> str | None:
    """Return why a stock worker can't be given this payload; None: it can."""
    try:
        payload.decode()
        Job.decode(payload)
    except UnicodeDecodeError:
        return "the payload is not UTF-8"
    except MessageError as exc:
        return str(exc)
    if payload.count(b"[") + payload.count(b"{") > _DEPTH and _depth(json.loads(payload)) > _DEPTH:
        return f"the payload is nested more than {_DEPTH} deep"
    return None


def reply_body(body: bytes) -> bytes:
    """Return a stock worker's reply as what is stored: a JSON object, whatever it sent."""
    try:
        if isinstance(json.loads(body.decode()), dict):
            return body
    except (ValueError, RecursionError):
        pass
    return json.dumps({"value": body.decode("utf-8", "backslashreplace")}).encode()


def overdue_at(flight: InFlight, stock_timeout_s: float) -> float:
    """Return the monotonic time from which no REPLY of a living stock worker is expected any more.

    For what a killed child ran there never is one.
    """
    return flight.since + stock_timeout_s + (_limit_s(flight.headers) or 0)


def _limit_s(headers: Headers) -> float | None:
    """Return the time limit; None or 0: the job manager's GLOBAL_TIMEOUT."""
    return headers.timeout if headers.timeout is not None else headers.limit_s


def _depth(document: object) -> int:
    depth, level = 0, [document]
    while level:
        depth += 1
        level = [
            item
            for container in level
            if isinstance(container, list | dict)
            for item in (container.values() if isinstance(container, dict) else container)
        ]
    return depth
