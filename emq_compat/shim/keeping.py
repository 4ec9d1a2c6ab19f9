"""Results that aren't the broker's to keep: a worker puts them into their store before its REPLY leaves.

Whatever a worker says of tasks passes here: the states of a run that isn't done, what it came to, the ends of
tasks that never begin (follow-ups that are outcomes), and, in an epilogue, the end of a task that only the
broker knew of. Chords are counted by the broker all the same, from the same REPLYs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emq_compat.errors import EmqError
from emq_compat.message import FAILURE, RETRY, REVOKED, SUCCESS, Delivery, Job, Outcome, Reply
from emq_compat.shim.exceptions import BackendError, ImproperlyConfigured
from emq_compat.shim.run_plan import run_plan_of

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.backend import Backend

__all__ = ["Keeper", "store_of"]

logger = logging.getLogger("emq_compat.task")

_STORED = frozenset({SUCCESS, FAILURE, REVOKED, RETRY})


def store_of(app: Celery, task_name: str) -> Backend | None:
    """Return where a task's results are to be put by the worker; None: the broker keeps them."""
    task = app.tasks.get(task_name)
    if task is not None:
        return run_plan_of(task, app).store
    return None if app.backend.kept_by_broker else app.backend


class Keeper:
    """Puts what is told of one delivery into its store. Called, it takes a run's states that aren't final."""

    def __init__(self, backend: Backend, delivery: Delivery) -> None:
        self._backend = backend
        self._delivery = delivery
        self._failure_kept = False

    def __call__(self, state: str, body: bytes) -> None:
        if task_id := self._delivery.headers.task_id:
            self._backend.write(task_id, json.loads(body))

    def keep_failure(self, outcome: Outcome) -> None:
        """Store a failure before its errbacks are called, which may look at it; it isn't stored again."""
        self._failure_kept = self.kept(outcome.encode()).no_result

    def kept(self, reply: Reply) -> Reply:
        """Store what the delivery came to; return its Reply, of which the broker needn't keep the result.

        Where the store can't be reached, for as long as it says, the broker keeps it, and the log tells.
        """
        backend, headers = self._backend, self._delivery.headers
        if self._failure_kept:
            return replace(reply, no_result=True)
        try:
            # Whoever sees that a task has failed finds that what would have come later has ended, too.
            for message in reply.follow_ups:
                if message.headers.settled and not message.headers.no_result:
                    backend.write(message.headers.task_id, json.loads(message.payload))
            if headers.concludes:
                _conclude(backend, self._delivery)
            elif reply.state in _STORED and not reply.no_result and headers.task_id:
                backend.write(headers.task_id, json.loads(reply.body))
        except (EmqError, ImproperlyConfigured, BackendError) as exc:
            which = headers.task_id or self._delivery.msgid
            logger.error("the result of %s stays with the broker: %s", which, exc)
            return reply
        return replace(reply, no_result=True)


def _conclude(backend: Backend, delivery: Delivery) -> None:
    _, options, reply = json.loads(delivery.payload)
    celery = Job.from_options(options).celery
    if celery.get("id") and not celery.get("ignore_result"):
        told: Mapping[str, Any] = {"state": FAILURE, **reply}
        backend.write(str(celery["id"]), told)


