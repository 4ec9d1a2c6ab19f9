"""All that a monitor shows, in one answer that costs little: the verb ``overview``, asked once a second.

Counts are read where the engine keeps them, nothing is decoded, and the journal is hardly touched. What could
be very many (queues, workers, what one of them runs) is cut; the totals are of all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.failing import Failed
from emq_compat.broker.queue import MessageQueue
from emq_compat.broker.records import InFlight, Moment, ScheduleRow, queue_of
from emq_compat.broker.workers import Worker
from emq_compat.errors import MessageError
from emq_compat.message import Headers, Job

__all__ = ["OVERVIEW"]

Arguments = dict[str, Any]

#: Queues, workers, and tasks of one worker that are listed; those that hold most, and the oldest tasks.
_QUEUES = 500
_WORKERS = 500
_RUNNING = 64


def _overview(engine: Engine, arguments: Arguments, now: Moment) -> dict[str, Any]:
    after, schedules = arguments.get("failures_after", 0), arguments.get("schedules", False)
    if type(after) is not int or type(schedules) is not bool:
        raise MessageError("overview takes 'failures_after', a number, and 'schedules', true or false")
    flights, consumers = engine.flights.by_queue(), engine.fleet.by_queue()
    workers = [worker for worker in engine.fleet.workers.values() if not worker.consumer]
    queues = list(engine.queues.by_name.values())
    told: dict[str, Any] = {
        "at": now.wall,
        "broker": engine.desk.about.get("broker"),
        "version": engine.desk.about.get("version"),
        "uptime_s": round(now.mono - engine.started.mono, 3),
        "counters": {**engine.desk.counters, "failed": engine.failing.total},
        "dead": engine.count_dead(),
        "chords": len(engine.chords.by_id),
        "waiting": sum(queue.waiting for queue in queues),
        "delayed": sum(queue.delayed for queue in queues),
        "held": sum(queue.held + queue.parked for queue in queues),
        "in_flight": len(engine.flights.by_msgid),
        "queues_total": len(queues),
        "workers_total": sum(worker.present for worker in workers),
        "queues": [
            _queue(engine, queue, flights[queue.id], consumers[queue.id], now)
            for queue in _most(_QUEUES, queues, lambda queue: queue.total + flights[queue.id])
        ],
        "workers": [
            _worker(engine, worker, now)
            for worker in _most(_WORKERS, workers, lambda worker: len(worker.in_flight))
        ],
        "failed_by_task": engine.failing.by_task,
        "failures": [_failure(failed) for failed in engine.failing.since(after)],
    }
    if schedules:
        told["schedules"] = [_schedule(row) for row in engine.schedules.rows()]
        told["periodic"] = [
            {
                "schedule": row.schedule,
                "name": row.name,
                "task": row.task,
                "shown": row.shown,
                "last": row.last_run_at if row.total else None,
                "next": engine.periodic.next_at(row),
                "total": row.total,
            }
            for row in engine.periodic.rows()
        ]
    return told


def _most(count: int, found: list[Any], size: Callable[[Any], int]) -> list[Any]:
    return found if len(found) <= count else heapq.nlargest(count, found, key=size)


def _queue(engine: Engine, queue: MessageQueue, in_flight: int, workers: int, now: Moment) -> dict[str, Any]:
    oldest_s = engine.oldest_s(queue, now)
    return {
        "name": queue.name,
        "waiting": queue.waiting,
        "delayed": queue.delayed,
        "held": queue.held,
        "parked": queue.parked,
        "aside": queue.aside,
        "in_flight": in_flight,
        "handed_out": queue.handed_out,
        "workers": workers,
        "paused": queue.paused,
        "oldest_s": None if oldest_s is None else round(oldest_s, 1),
    }


def _worker(engine: Engine, worker: Worker, now: Moment) -> dict[str, Any]:
    begun = [flight for flight in worker.in_flight.values() if flight.msgid not in worker.not_begun]
    # Until its next heartbeat says so, what is handed out beyond its slots has not begun.
    slots = worker.slots or len(begun)
    running = heapq.nsmallest(min(slots, _RUNNING), begun, key=lambda flight: flight.since)
    return {
        "name": worker.name,
        "node": worker.node,
        "hostname": worker.hostname,
        "pid": worker.pid,
        "slots": worker.slots,
        "held": len(worker.in_flight),
        "busy": min(slots, len(begun)),
        "finished": worker.finished,
        "queues": [queue.name for queue in worker.queues],
        "silent_s": round(now.mono - worker.heard, 1),
        "stock": worker.stock,
        "present": worker.present and worker.gone is None,
        "leaving": worker.leaving,
        "running": [_running(engine, flight, now) for flight in running],
    }


def _running(engine: Engine, flight: InFlight, now: Moment) -> dict[str, Any]:
    return {
        "task": flight.headers.task,
        "task_id": flight.headers.task_id or flight.msgid,
        "queue": engine.queues.by_id[queue_of(flight.key)].name,
        "for_s": round(now.mono - flight.since, 1),
        "attempt": flight.attempt,
    }


def _failure(failed: Failed) -> dict[str, Any]:
    return {
        "number": failed.number,
        "at": round(failed.at, 3),
        "task": failed.task,
        "task_id": failed.task_id,
        "retries": failed.retries,
        # As text: what a worker has written needn't be JSON.
        "reply": None if failed.body is None else failed.body.decode("utf-8", "replace"),
    }


def _schedule(row: ScheduleRow) -> dict[str, Any]:
    name = Headers.decode(row.header_text).task
    if not name:
        job = Job.decode(row.payload)
        name = f"{job.path}.{job.callable}"
    shown = row.cron or f"every {row.interval_s} s"
    return {"key": row.key, "task": name, "queue": row.queue, "shown": shown, "next": row.next_at}


OVERVIEW: dict[str, Callable[[Engine, Arguments, Moment], Any]] = {"overview": _overview}
