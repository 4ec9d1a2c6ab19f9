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
        payloads: of messages, by key.
        bodies: of results, by task id.
        fresh_bytes: what stands in no record of the redo log yet.
    """

    __slots__ = ("bodies", "fresh_bytes", "payloads")

    def __init__(self) -> None:
        self.payloads: dict[int, bytes] = {}
        self.bodies: dict[str, bytes] = {}
        self.fresh_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.payloads or self.bodies)

    def clear(self) -> None:
        """Forget all: it is in the database, or undone."""
        self.payloads.clear()
        self.bodies.clear()
        self.fresh_bytes = 0

    def size(self) -> int:
        """Return how many bytes they have."""
        return sum(map(len, self.payloads.values())) + sum(map(len, self.bodies.values()))

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return what brings the values into the database: the rows of FILLS."""
        messages = [(payload, key) for key, payload in self.payloads.items()]
        results = [(body, task_id) for task_id, body in self.bodies.items()]
        return dict(zip(FILLS, (messages, results), strict=True))
