"""``emq-compat status`` of a broker that kombu reaches: its workers, and what waits in their queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from emq_compat.cli.remote import namesakes_told
from emq_compat.table import names, table, whole
from emq_compat.words import amount

__all__ = ["found", "text"]

_QUESTIONS = ("stats", "active", "reserved", "active_queues")


def found(app: Any, destination: Sequence[str] | None, timeout_s: float) -> dict[str, Any]:
    """Return the broker's address, ``workers`` as the status of our broker has them, and ``queues``.

    Raises:
        OperationalError: kombu's: the broker can't be reached.
    """

    def ask(question: str) -> dict[str, Any]:
        inspection = app.control.inspect(destination=destination, timeout=timeout_s)
        return dict(getattr(inspection, question)() or {})

    with namesakes_told(), ThreadPoolExecutor(len(_QUESTIONS)) as threads:
        stats, active, reserved, queues = threads.map(ask, _QUESTIONS)
    workers = [
        {
            "name": node,
            "pid": told.get("pid"),
            "slots": (told.get("pool") or {}).get("max-concurrency"),
            "queues": [queue["name"] for queue in queues.get(node) or ()],
            "active": active.get(node),
            "reserved": reserved.get(node),
        }
        for node, told in sorted(stats.items())
    ]
    names = {name: None for worker in workers for name in worker["queues"]}
    names.setdefault(str(app.conf.task_default_queue))
    with app.connection_for_read() as connection:
        waiting = [{"name": name, "waiting": _waiting(connection, name)} for name in names]
        broker = connection.as_uri()
    return {"broker": broker, "workers": workers, "queues": waiting}


def _waiting(connection: Any, queue: str) -> int:
    """Return how many messages wait in a queue, which may not be there yet."""
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).message_count)
    except connection.channel_errors:
        return 0


def text(status: Mapping[str, Any]) -> str:
    """Return it for people."""
    waiting = sum(queue["waiting"] for queue in status["queues"])
    parts = [f"Broker {status['broker']}: {amount(waiting, 'message')} waiting."]
    if status["workers"]:
        rows = [
            (
                worker["name"],
                worker["pid"] or "-",
                f"{len(worker['active'] or ())} of {worker['slots'] or '?'}",
                len(worker["reserved"] or ()),
                ", ".join(worker["queues"]),
            )
            for worker in status["workers"]
        ]
        parts.append(table((names("worker"), whole("pid"), whole("runs"), "holds", "queues"), rows))
    else:
        parts.append("No worker answers.")
    parts.append(
        table((names("queue"), "waiting"), [(queue["name"], queue["waiting"]) for queue in status["queues"]])
    )
    return "\n\n".join(parts)
