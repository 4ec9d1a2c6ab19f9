"""Results: stored as the worker wrote them, pushed to whoever waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from emq_compat.broker.desk import Desk
from emq_compat.broker.records import Moment, StoredResult
from emq_compat.errors import MessageError
from emq_compat.message import FINAL_STATES, SUCCESS, Failure, Outcome, ReplyHeaders, new_id
from emq_compat.protocol.commands import Reply

__all__ = ["Results", "failure_body"]

#: A wait that isn't renewed is forgotten after so long; clients renew well before.
WAIT_S = 150.0
#: Between two looks for waits that nobody renews, for each result waited for, and in all.
_LOOK_S = 0.0003
_LOOK_MOST_S = 60.0
#: Results that are waited for, counted once for each client.
MOST_WAITS = 1_000_000
#: Bodies that are read from the journal at once.
_TOGETHER_BYTES = 1 << 20


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
        #: task id → clients among those that want to be told only if it doesn't succeed.
        self._spared: dict[str, set[bytes]] = {}
        #: client → results that are final and wait, stored, until it has read what is under way to it.
        self._postponed: dict[bytes, dict[str, None]] = {}
        self._count = 0
        #: monotonic time at which waits that nobody renews are looked for.
        self._look_at = 0.0
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
            spared = self._spared.pop(task_id, None) if self._spared else None
            self._count -= len(waiting)
            for client in waiting:
                if spared is not None and state == SUCCESS and client in spared:
                    continue
                if keep:
                    self._push_or_postpone(client, task_id, state, body)
                else:
                    self._push(client, task_id, state, body)

    def wait(
        self,
        client: bytes,
        task_ids: Iterable[str],
        now: Moment,
        *,
        every: bool = False,
        failures: bool = False,
    ) -> None:
        """Push each of these results to the client, now or when it is final.

        To a client that doesn't read what it was sent before they are pushed when it has. ``every``: push
        each state on the way, too. ``failures``: don't push what succeeds.

        Raises:
            MessageError: too many results are waited for; some of these aren't.
        """
        ids = list(task_ids)
        known = self._journal.result_sizes(ids) if len(ids) > 1 else {}
        final = dict.fromkeys(one for one in ids if one in known and known[one][0] in FINAL_STATES)
        wanted = [one for one in final if known[one][0] != SUCCESS] if failures else list(final)
        self._give(client, wanted)
        others = [task_id for task_id in ids if task_id not in final]
        on_the_way = self._journal.results(others) if every or len(ids) == 1 else {}
        for task_id in others:
            result = on_the_way.get(task_id)
            if result is not None and result.state in FINAL_STATES:
                if not failures or result.state != SUCCESS:
                    self._push_or_postpone(client, task_id, result.state, result.body)
                continue
            if client not in self._waits.get(task_id, ()):
                if self._count >= MOST_WAITS:
                    raise MessageError(f"{MOST_WAITS:,} results are waited for, and no more can be")
                self._count += 1
            clients = self._waits.setdefault(task_id, {})
            clients[client] = now.mono + WAIT_S
            if failures:
                self._spared.setdefault(task_id, set()).add(client)
            elif (spared := self._spared.get(task_id)) is not None:
                spared.discard(client)
            if every:
                watching = self._watched.setdefault(task_id, set())
                if result is not None and client not in watching:
                    self._push(client, task_id, result.state, result.body)
                watching.add(client)

    def _give(self, client: bytes, task_ids: Sequence[str]) -> None:
        """Push results that are stored, and postpone those that are too much for the client now."""
        given = 0
        for some in self._together(task_ids):
            if self._desk.unread.full(client):
                break
            for task_id, result in self._journal.results(some).items():
                self._push(client, task_id, result.state, result.body)
            given += len(some)
        if given < len(task_ids):
            self._postpone(client, task_ids[given:])

    def _together(self, task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Return the ids in parts whose results aren't large together."""
        if len(task_ids) < 2:
            if task_ids:
                yield task_ids
            return
        sizes = self._journal.result_sizes(task_ids)
        size = first = 0
        for i, task_id in enumerate(task_ids, 1):
            size += sizes[task_id][1] if task_id in sizes else 0
            if size >= _TOGETHER_BYTES:
                yield task_ids[first:i]
                size, first = 0, i
        yield task_ids[first:]

    def _postpone(self, client: bytes, task_ids: Iterable[str]) -> None:
        self._postponed.setdefault(client, {}).update(dict.fromkeys(task_ids))

    def _push_or_postpone(self, client: bytes, task_id: str, state: str, body: bytes) -> None:
        if self._desk.unread.full(client):
            self._postpone(client, (task_id,))
        else:
            self._push(client, task_id, state, body)

    @property
    def postponed(self) -> bool:
        """Whether results wait until a client has read what is under way to it."""
        return bool(self._postponed)

    def resume(self, client: bytes) -> None:
        """Push what was postponed: the client reads."""
        if (waiting := self._postponed.pop(client, None)) is not None:
            self._give(client, list(waiting))

    def client_gone(self, client: bytes) -> None:
        """Forget what was postponed: it asks again over its next connection."""
        self._postponed.pop(client, None)

    def unwait(self, client: bytes, task_ids: Iterable[str]) -> None:
        """Forget a client's waits."""
        for task_id in task_ids:
            if (waiting := self._waits.get(task_id)) is not None and client in waiting:
                del waiting[client]
                self._count -= 1
                self._keep_waits(task_id, waiting)
            if (postponed := self._postponed.get(client)) is not None:
                postponed.pop(task_id, None)

    def _keep_waits(self, task_id: str, waiting: dict[bytes, float]) -> None:
        """Have these clients, and no others, wait for a result."""
        for chosen in (self._watched, self._spared):
            clients = chosen.get(task_id)
            if clients is not None:
                clients.intersection_update(waiting)
                if not clients:
                    del chosen[task_id]
        if waiting:
            self._waits[task_id] = waiting
        else:
            del self._waits[task_id]

    def get(self, task_ids: Sequence[str]) -> dict[str, StoredResult]:
        """Return those that are stored.

        Raises:
            MessageError: together they are larger than a message may be.
        """
        if len(task_ids) > 1:
            size = sum(size for _, size in self._journal.result_sizes(task_ids).values())
            if size > (most := self._desk.options.max_message_bytes):
                raise MessageError(
                    f"these results have {size:,} bytes and an answer may have {most:,}: ask for fewer"
                )
        return self._journal.results(task_ids)

    def forget(self, task_ids: Sequence[str]) -> int:
        """Delete results."""
        return self._journal.forget(task_ids)

    def expire(self, now: Moment) -> bool:
        """Delete a bounded number of expired results and waits; returns whether there may be more."""
        if now.mono >= self._look_at:
            self._expire_waits(now)
            self._look_at = now.mono + min(_LOOK_MOST_S, len(self._waits) * _LOOK_S)
        return self._journal.expire_results(now.wall, 1000) == 1000

    def _expire_waits(self, now: Moment) -> None:
        for task_id in [t for t, clients in self._waits.items() if min(clients.values()) <= now.mono]:
            clients = {c: until for c, until in self._waits[task_id].items() if until > now.mono}
            self._count -= len(self._waits[task_id]) - len(clients)
            self._keep_waits(task_id, clients)

    @property
    def waiting(self) -> int:
        """How many results are waited for."""
        return len(self._waits)

    def _push(self, client: bytes, task_id: str, state: str, body: bytes) -> None:
        reply = Reply(msgid=new_id(), body=body, request_msgid=task_id, headers=ReplyHeaders(state=state))
        self._desk.unread.add(client, len(body))
        self._desk.to_client(client, reply)
