"""Large values that are durable in the redo log and not in the database yet.

A message of a megabyte is mostly handed out, run and gone within a second, and its result read and forgotten:
that is written once, in the redo log, and read from here. What is still there when the database commits is
brought into it then. Until then its row has an empty value, so whatever statement would see that value, or
give the row another key, comes after ``Database.whole``.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["ASIDE_BYTES", "AWARE", "FILLS", "Aside"]

#: From this size on a value is kept aside; pickle passes it on without a copy then, too.
ASIDE_BYTES: Final = 1 << 16

#: The writes that bring a value into its row.
FILLS: Final = ("fill_message", "fill_result")

#: The statements that neither see a value nor change a row's key; or whoever calls them looks here, too.
AWARE: Final = frozenset(
    [
        *("known", "read_messages", "read_message", "in_flight", "waiting_as", "next_due_ms", "due"),
        *("results", "result_sizes", "expire_results", "count_results", "count_dead"),
        *("set_meta", "queues", "add_queue", "queue_options", "exchanges", "bindings", "shares"),
        *("locks", "expire_locks", "count_locks", "paces", "drop_paces", "parked_counts"),
        *("revoked", "drop_old_revokes", "chords", "expect_part", "parts", "schedules", "periodic"),
    ]
)


class Aside:
    """The values, by their rows.

    Attributes:
        payloads: of messages, by key; changed by the methods only, as are the others.
        bodies: of results, by task id.
        live_bytes: what they have.
        fresh_bytes: what stands in no record of the redo log yet, gone meanwhile or not.
    """

    __slots__ = ("bodies", "fresh_bytes", "live_bytes", "payloads")

    def __init__(self) -> None:
        self.payloads: dict[int, bytes] = {}
        self.bodies: dict[str, bytes] = {}
        self.live_bytes = self.fresh_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.payloads or self.bodies)

    def put_payload(self, key: int, payload: bytes) -> None:
        """Keep a message's."""
        self.payloads[key] = payload
        self.live_bytes += len(payload)
        self.fresh_bytes += len(payload)

    def put_body(self, task_id: str, body: bytes) -> None:
        """Keep a result's, of which none is kept."""
        self.bodies[task_id] = body
        self.live_bytes += len(body)
        self.fresh_bytes += len(body)

    def drop_payload(self, key: int) -> None:
        """Forget a message's, if it is kept."""
        self.live_bytes -= len(self.payloads.pop(key, b""))

    def drop_body(self, task_id: str) -> None:
        """Forget a result's, if it is kept."""
        self.live_bytes -= len(self.bodies.pop(task_id, b""))

    def clear(self) -> None:
        """Forget all: it is in the database, or undone."""
        self.payloads.clear()
        self.bodies.clear()
        self.live_bytes = self.fresh_bytes = 0

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return what brings the values into the database: the rows of FILLS."""
        messages = [(payload, key) for key, payload in self.payloads.items()]
        results = [(body, task_id) for task_id, body in self.bodies.items()]
        return dict(zip(FILLS, (messages, results), strict=True))
