"""Results: stored as the worker wrote them, pushed to whoever waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emq_compat.broker.desk import Desk
from emq_compat.broker.records import Moment, StoredResult
from emq_compat.message import FINAL_STATES, Failure, Outcome, ReplyHeaders, new_id
from emq_compat.protocol.commands import Reply

__all__ = ["Results", "failure_body"]

#: A wait that isn't renewed is forgotten after so long; clients renew well before.
WAIT_S = 150.0


def failure_body(
    kind: str,
    message: str,
    state: str = "FAILURE",
    *,
    module: str = "celery.exceptions",
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the reply JSON of a failure that the broker finds; ``kind``: a class of Celery's exceptions.

    ``extra``: further members.
    """
    failure = Failure(type=kind, module=module, args=(message,), message=message)
    return Outcome(state=state, failure=failure, extra=extra or {}).encode().body


class Results:
    """The results of tasks, and the clients that wait for them.

    Args:
        expires_s: seconds a result is kept; 0: for good (Celery's result_expires).
    """

    def __init__(self, desk: Desk, expires_s: float) -> None:
        self._desk = desk
        self._journal = desk.journal
        self._expires_s = expires_s
        #: task id → client → monotonic time at which the wait is forgotten.
        self._waits: dict[str, dict[bytes, float]] = {}
        #: task id → clients among those that want to be told of states on the way, too.
        self._watched: dict[str, set[bytes]] = {}
        self.next_expiry = 0.0

    def put(
        self,
        task_id: str,
        state: str,
        body: bytes,
        now: Moment,
        *,
        keep: bool = True,
        keep_s: float | None = None,
    ) -> None:
        """Store a state (unless ``keep`` is False) and tell those who wait; if it isn't final, who watches.

        ``keep_s``: seconds that it is kept, 0: for good; None: as this broker is told.
        """
        if keep:
            expires_s = self._expires_s if keep_s is None else keep_s
            expires_at = now.wall + expires_s if expires_s else None
            self._journal.put_result(task_id, state, body, expires_at)
        if state not in FINAL_STATES:
            for client in self._watched.get(task_id, ()):
                self._push(client, task_id, state, body)
        elif waiting := self._waits.pop(task_id, None):
            self._watched.pop(task_id, None)
            for client in waiting:
                self._push(client, task_id, state, body)

    def wait(self, client: bytes, task_ids: Iterable[str], now: Moment, *, every: bool = False) -> None:
        """Push each of these results to the client, now or when it is final.

        ``every``: and each state that it has on the way.
        """
        ids = list(task_ids)
        stored = self._journal.results(ids)
        for task_id in ids:
            result = stored.get(task_id)
            if result is not None and result.state in FINAL_STATES:
                self._push(client, task_id, result.state, result.body)
                continue
            self._waits.setdefault(task_id, {})[client] = now.mono + WAIT_S
            if every:
                watching = self._watched.setdefault(task_id, set())
                if result is not None and client not in watching:
                    self._push(client, task_id, result.state, result.body)
                watching.add(client)

    def unwait(self, client: bytes, task_ids: Iterable[str]) -> None:
        """Forget a client's waits."""
        for task_id in task_ids:
            if (waiting := self._waits.get(task_id)) is not None:
                waiting.pop(client, None)
                self._keep_waits(task_id, waiting)

    def _keep_waits(self, task_id: str, waiting: dict[bytes, float]) -> None:
        """Have these clients, and no others, wait for a result."""
        watching = self._watched.get(task_id)
        if watching is not None:
            watching.intersection_update(waiting)
            if not watching:
                del self._watched[task_id]
        if waiting:
            self._waits[task_id] = waiting
        else:
            del self._waits[task_id]

    def get(self, task_ids: Sequence[str]) -> dict[str, StoredResult]:
        """Return those that are stored."""
        return self._journal.results(task_ids)

    def forget(self, task_ids: Sequence[str]) -> int:
        """Delete results."""
        return self._journal.forget(task_ids)

    def expire(self, now: Moment) -> bool:
        """Delete a bounded number of expired results and waits; returns whether there may be more."""
        for task_id in [t for t, clients in self._waits.items() if min(clients.values()) <= now.mono]:
            clients = {c: until for c, until in self._waits[task_id].items() if until > now.mono}
            self._keep_waits(task_id, clients)
        return self._journal.expire_results(now.wall, 1000) == 1000

    @property
    def waiting(self) -> int:
        """How many results are waited for."""
        return len(self._waits)

    def _push(self, client: bytes, task_id: str, state: str, body: bytes) -> None:
        reply = Reply(msgid=new_id(), body=body, request_msgid=task_id, headers=ReplyHeaders(state=state))
        self._desk.to_client(client, reply)
