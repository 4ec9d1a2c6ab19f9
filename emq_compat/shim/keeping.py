"""Results that aren't the broker's to keep: a worker puts them into their store before its REPLY leaves.

Whatever a worker says of tasks passes here: the states of a run that isn't done, what it came to, the ends of
tasks that never begin (follow-ups that are outcomes), and, in an epilogue, the end of a task that only the
broker knew of. Chords that our broker started are counted by it all the same, from the same REPLYs; the
others, Celery's and those of apps on a broker of kombu's, are counted here (chord_parts.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emq_compat.errors import EmqError
from emq_compat.message import FAILURE, RETRY, REVOKED, SUCCESS, Delivery, Job, Outcome, Publish, Reply
from emq_compat.shim.chord_parts import ended, part_of, settle
from emq_compat.shim.exceptions import BackendError, ImproperlyConfigured
from emq_compat.shim.request import Context, request_without_arguments
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
    """Puts what is told of one delivery into its store. Called, it takes a run's states that aren't final.

    Attributes:
        request: the run's; None: it didn't come to one.
    """

    def __init__(self, backend: Backend, delivery: Delivery) -> None:
        self._backend = backend
        self._delivery = delivery
        self._failure_kept = False
        #: What follows from the ends of chords.
        self._further: list[Publish] = []
        self.request: Context | None = None

    def heard(self, request: Context) -> None:
        """Note the run's request."""
        self.request = request

    def __call__(self, state: str, body: bytes) -> None:
        if task_id := self._delivery.headers.task_id:
            self._backend.write(task_id, json.loads(body), self._reply_to)

    def keep_failure(self, outcome: Outcome) -> None:
        """Store a failure before its errbacks are called, which may look at it; it isn't stored again."""
        self._failure_kept = self.kept(outcome.encode()).no_result

    def kept(self, reply: Reply) -> Reply:
        """Store what the delivery came to; return its Reply, of which the broker needn't keep the result.

        Where the store can't be reached, for as long as it says, the broker keeps it, and the log tells.
        """
        if not self._failure_kept:
            try:
                self._store(reply)
            except (EmqError, ImproperlyConfigured, BackendError) as exc:
                which = self._delivery.headers.task_id or self._delivery.msgid
                where = "is lost" if self._backend.app.over_kombu else "stays with the broker"
                logger.error("the result of %s %s: %s", which, where, exc)
                return replace(reply, follow_ups=(*reply.follow_ups, *self._further))
        return replace(reply, no_result=True, follow_ups=(*reply.follow_ups, *self._further))

    def _store(self, reply: Reply) -> None:
        backend, headers = self._backend, self._delivery.headers
        # Whoever sees that a task has failed finds that what would have come later has ended, too.
        ends = [message for message in reply.follow_ups if message.headers.settled]
        own = [end for end in ends if end.headers.task_id == headers.task_id]
        self._further += settle(backend, ends, self._reply_to)
        for end in own:
            self._count(end.headers.settled, json.loads(end.payload))
        if headers.concludes:
            state, told = _conclude(backend, self._delivery, self._reply_to)
            self._count(state, told)
        elif reply.state in _STORED:
            told = json.loads(reply.body) if headers.task_id else {}
            if headers.task_id and not reply.no_result:
                backend.write(headers.task_id, told, self._reply_to)
            if reply.state != RETRY:
                self._count(reply.state, told)

    @property
    def _reply_to(self) -> str:
        """Where results go that go where the message says; empty: they don't, or it doesn't."""
        if not self._backend.store.addressed:
            return ""
        document = json.loads(self._delivery.payload)
        return str((document[1].get("celery") or {}).get("reply_to") or "")

    def _count(self, state: str, told: Mapping[str, Any]) -> None:
        """Count the end of this delivery's task, if it is a part of a chord that the backend counts."""
        if self._backend.store.chords is None or b'"chord":' not in self._delivery.payload:
            return
        request = self.request
        if request is None and not self._delivery.headers.concludes:
            job = Job.decode(self._delivery.payload)
            request = request_without_arguments("", job, self._delivery, "")
        part = None if request is None else part_of(request)
        if part is not None:
            self._further += ended(self._backend, part, state, told)


def _conclude(
    backend: Backend, delivery: Delivery, reply_to: str
) -> tuple[str, Mapping[str, Any]]:
    """Store the end that an epilogue tells of; returns its state and its reply."""
    _, options, reply = json.loads(delivery.payload)
    celery = Job.from_options(options).celery
    told: Mapping[str, Any] = {"state": FAILURE, **reply}
    if celery.get("id") and not celery.get("ignore_result"):
        backend.write(str(celery["id"]), told, reply_to)
    return str(told["state"]), told
