"""The events of tasks whose worker is lost: nobody else could tell of them (docs/monitoring.md)."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from emq_compat.broker.records import InFlight, Moment
from emq_compat.broker.workers import Worker
from emq_compat.message import new_id
from emq_compat.protocol.commands import PublishTopic

__all__ = ["events_of_loss"]

#: Events in one message.
_TOGETHER = 200


def events_of_loss(
    worker: Worker, held: Sequence[InFlight], waiting: Container[str], how: str, now: Moment
) -> Iterator[PublishTopic]:
    """Yield what is to be published of the tasks that a lost worker held.

    Args:
        held: those whose events it has sent.
        waiting: msgids of those that were handed out again, or will be.
        how: completes the sentence of the error.
    """
    events = list(_events(worker, held, waiting, how, now))
    for start in range(0, len(events), _TOGETHER):
        payload = json.dumps(events[start : start + _TOGETHER], separators=(",", ":")).encode()
        yield PublishTopic(msgid=new_id(), topic="celeryev.task.multi", payload=payload)


def _events(
    worker: Worker, held: Iterable[InFlight], waiting: Container[str], how: str, now: Moment
) -> Iterator[dict[str, Any]]:
    error = f"WorkerLostError({f'the worker {worker.name} {how}'!r})"
    for number, flight in enumerate(held):
        if flight.msgid not in waiting:
            told: dict[str, Any] = {"type": "task-failed", "exception": error, "traceback": ""}
        elif flight.msgid in worker.not_begun:
            continue
        else:
            told = {"type": "task-rejected", "requeue": True}
        yield {
            **told,
            "uuid": flight.headers.task_id or flight.msgid,
            "hostname": worker.name.rpartition(".")[0] or worker.name,
            "pid": worker.pid,
            "timestamp": now.wall,
            "utcoffset": -time.localtime(now.wall).tm_gmtoff // 3600,
            "clock": int(now.wall * 1_000_000) + number,
        }
