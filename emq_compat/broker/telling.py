"""Telling a worker of a task that ended before any worker had it, for the signals that its program sends."""

from __future__ import annotations

import json
from collections.abc import Iterable

from emq_compat.broker.desk import Desk
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.workers import Worker
from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Ask

__all__ = ["tell_end"]

#: A larger message isn't told of.
_LIMIT_BYTES = 1 << 18


def tell_end(
    desk: Desk,
    workers: Iterable[Worker],
    queue: MessageQueue,
    *,
    msgid: str,
    headers: Headers,
    payload: bytes,
    body: bytes,
) -> None:
    """Tell the first of these workers that wants to know it; ``body`` is the reply JSON."""
    if headers.concludes or len(payload) > _LIMIT_BYTES:
        return
    for worker in workers:
        if worker.present and worker.hears_ends(headers.task) and queue in worker.queues:
            arguments = {
                "msgid": msgid,
                "queue": queue.name,
                "headers": headers.encode(),
                "payload": payload.decode("utf-8", "replace"),
                "reply": json.loads(body),
            }
            desk.to_worker(worker.identity, Ask(msgid=new_id(), verb="ended", arguments=arguments))
            return
