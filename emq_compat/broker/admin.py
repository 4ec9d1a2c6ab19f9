"""The administration address: what stock ``emq-cli`` asks, answered from the engine."""

from __future__ import annotations

import json

from emq_compat.broker.engine import Engine
from emq_compat.broker.records import Moment, queue_of
from emq_compat.message import new_id
from emq_compat.protocol.commands import Ack, Command, Disconnect, Show, Shown

__all__ = ["answer"]


def answer(engine: Engine, command: Command, now: Moment) -> Command | None:
    """Return what ``emq-cli`` is answered; None: nothing. The caller acts on a DISCONNECT itself."""
    if isinstance(command, Disconnect):
        return Ack(msgid=new_id(), acked=(command.msgid,))
    if not isinstance(command, Show):
        return None
    document = _SHOWN[command.what](engine, now)
    return Shown(msgid=new_id(), body=json.dumps(document).encode())


def _status(engine: Engine, now: Moment) -> dict[str, object]:
    ages: dict[str, list[float]] = {}
    queues = {queue.id: queue.name for queue in engine.queues.by_id.values()}
    for flight in engine.flights.by_msgid.values():
        ages.setdefault(queues[queue_of(flight.key)], []).append(now.mono - flight.since)
    return {
        "inflight_messages_by_queue": {name: len(found) for name, found in ages.items()},
        "latency_messages_by_queue": {
            name: int(sum(found) / len(found) * 1000) for name, found in ages.items()
        },
        "max_latency_messages_by_queue": {name: int(max(found) * 1000) for name, found in ages.items()},
        "waiting_messages_by_queue": {queue.name: queue.waiting for queue in engine.queues.by_id.values()},
        "processed_messages_by_queue": {
            queue.name: queue.handed_out for queue in engine.queues.by_id.values()
        },
        "processed_messages_by_worker": {
            worker.name: worker.finished for worker in engine.fleet.workers.values()
        },
    }


def _workers(engine: Engine, now: Moment) -> dict[str, object]:
    workers = {
        worker.name: {
            "queues": [[weight, queue.name] for weight, queue in worker.weighted],
            "available_slots": worker.credit,
            "hb": worker.heard,
        }
        for worker in engine.fleet.workers.values()
    }
    queues: dict[str, list[list[object]]] = {}
    for worker in engine.fleet.workers.values():
        for weight, queue in worker.weighted:
            queues.setdefault(queue.name, []).append([weight, worker.name])
    return {"connected_workers": workers, "connected_queues": queues}


def _schedulers(engine: Engine, now: Moment) -> dict[str, object]:
    schedulers = {
        name.decode("utf-8", "replace"): {"hb": heard} for name, heard in engine.fleet.schedulers.items()
    }
    return {"connected_schedulers": schedulers}


_SHOWN = {"STATUS": _status, "ROUTER_SHOW_WORKERS": _workers, "ROUTER_SHOW_SCHEDULERS": _schedulers}
