"""``celery.worker.state``: what Celery's worker remembers in its process.

Here the broker remembers revokes, and the job manager its tasks (``app.control.inspect()`` shows both): these
are there to be imported, and stay empty unless somebody fills them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = [
    "active_requests",
    "all_total_count",
    "requests",
    "reserved_requests",
    "revoked",
    "revoked_stamps",
    "successful_requests",
    "total_count",
]


class _Set(set[Any]):
    __unsupported__ = True


class _Dict(dict[str, Any]):
    __unsupported__ = True


class _Counter(Counter[str]):
    __unsupported__ = True


active_requests = _Set()
reserved_requests = _Set()
revoked = _Set()
successful_requests = _Set()
requests = _Dict()
revoked_stamps = _Dict()
total_count = _Counter()
all_total_count = [0]
