"""Commands of remote control that kombu clients publish to ``….pidbox``: the broker asks its workers.

Celery's own workers have queues at that exchange and answer for themselves. For ours the broker does what it
knows better than they (revokes, what waits for its time), has them do the rest, and publishes what they
answer to where the asker waits for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from emq_compat.broker.engine import Engine
from emq_compat.broker.records import Moment
from emq_compat.broker.workers import Worker
from emq_compat.celery_message import CeleryMessage
from emq_compat.control_shapes import (
    command_named,
    listed,
    scheduled_shape,
    signal_name,
    told_of_revoke,
    told_of_stamps,
)
from emq_compat.errors import MessageError
from emq_compat.kombu_message import unwrapped
from emq_compat.message import new_id
from emq_compat.pidbox import COMMAND, Command, answered, asked_in
from emq_compat.protocol.commands import Answer, Ask
from emq_compat.stamps import stamps_in, tags_of

__all__ = ["Commands"]

#: An answer that comes later than this is dropped.
_WAITED_S: Final = 60.0
#: Messages that wait for their time, in one answer.
_SCHEDULED: Final = 1000


class Commands:
    """Those whose answers are awaited."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        engine.intake.commanded = self.published
        #: msgid of the ASK to a worker → the command, the worker's node, until when its answer counts, and
        #: what is published whatever it answers.
        self._open: dict[str, tuple[Command, str, float, Any]] = {}

    def published(self, namespace: str, payload: bytes, now: Moment) -> None:
        """Take a message that was published to the exchange of a namespace; what is no command is noted."""
        try:
            message = unwrapped(payload)
            if message.content_type != "application/json" or message.headers.get("compression"):
                raise MessageError(f"it is {message.content_type}, and only plain JSON is read")
            try:
                document = json.loads(message.body)
            except (ValueError, RecursionError) as exc:
                raise MessageError(f"it is no JSON: {exc}") from exc
            command = asked_in(document)
            self._do(command, self._concerned(namespace, command), now)
        except (MessageError, ValueError, TypeError) as exc:
            self._engine.desk.note("warning", f"passed over a command of remote control: {exc}")

    def _concerned(self, namespace: str, command: Command) -> list[tuple[str, Worker]]:
        """Return (node, worker) of our workers that are meant, by name."""
        found = [
            (worker.node, worker)
            for worker in self._engine.fleet.workers.values()
            if worker.present and not worker.stock and worker.namespace == namespace
        ]
        return sorted((one for one in found if command.concerns(one[0])), key=lambda one: one[0])

    def _do(self, command: Command, workers: list[tuple[str, Worker]], now: Moment) -> None:
        method = command_named(command.method)
        told = _BROKER_DOES.get(method)
        everybody = not command.destination and not command.pattern
        if method in _REVOKES and everybody:
            self._revoke(command, workers, now)
            return
        if told is not None and (everybody or told not in _ONLY_FOR_ALL):
            for node, answer in told(self._engine, command, [node for node, _ in workers], now):
                self._reply(command, {node: answer}, now)
            return
        if command.method == "election":
            workers = _elected(str(command.arguments.get("id")), workers)
        for node, worker in workers:
            self._ask(command, node, worker, now, command.method, command.arguments)

    def _revoke(self, command: Command, workers: list[tuple[str, Worker]], now: Moment) -> None:
        """Revoke. Of what nothing is known here the workers tell their result backends before they answer."""
        given = command.arguments
        ids, terminate = listed(given.get("task_id")), bool(given.get("terminate"))
        terminate = terminate or command.method == "terminate"
        signal = signal_name(given.get("signal"))
        revoke = self._engine.withdrawals.revoke
        ended = {one: revoke(one, now, terminate=terminate, signal=signal) for one in ids}
        told = told_of_revoke(ids, ended, terminate=terminate)
        noted = [task_id for task_id, what in ended.items() if what == "noted"]
        for node, worker in workers:
            if noted:
                self._ask(command, node, worker, now, "note_revoked", {"task_id": noted}, told)
            else:
                self._reply(command, {node: told}, now)

    def _ask(
        self,
        command: Command,
        node: str,
        worker: Worker,
        now: Moment,
        method: str,
        arguments: Mapping[str, Any],
        told: Any = None,
    ) -> None:
        """Have a worker run a command; it is answered by what that answers, or by ``told``."""
        ask = Ask(msgid=new_id(), verb=COMMAND, arguments={"method": method, "arguments": dict(arguments)})
        if command.wants_reply:
            self._open[ask.msgid] = (command, node, now.mono + _WAITED_S, told)
        self._engine.desk.to_worker(worker.identity, ask)

    def answered(self, answer: Answer, now: Moment) -> bool:
        """Publish a worker's answer; False: it answers nothing of these."""
        opened = self._open.pop(answer.asked, None)
        if opened is None:
            return False
        command, node, _, told = opened
        self._reply(command, answered(node, answer.body) if told is None else {node: told}, now)
        return True

    def _reply(self, command: Command, reply: Mapping[str, Any], now: Moment) -> None:
        if command.wants_reply:
            message = CeleryMessage(
                body=json.dumps(reply, default=repr).encode(),
                content_type="application/json",
                content_encoding="utf-8",
                headers={"ticket": command.ticket, "clock": int(now.wall)},
                properties={"delivery_mode": 1},
            )
            self._engine.intake.send(command.reply_exchange, command.reply_key, message, now)

    def tick(self, now: Moment) -> None:
        """Forget those that nobody waits for any more."""
        if self._open and next(iter(self._open.values()))[2] <= now.mono:
            self._open = {msgid: one for msgid, one in self._open.items() if one[2] > now.mono}


def _elected(election: str, workers: list[tuple[str, Worker]]) -> list[tuple[str, Worker]]:
    """Return the one that wins an election: the same for one id while the workers are the same."""
    return sorted(workers, key=lambda one: hashlib.sha256(f"{election}\0{one[0]}".encode()).digest())[:1]


# What the broker does, or knows, by itself: (node, answer) of each node.

Told = Iterable[tuple[str, Any]]


def _revoke_stamped(engine: Engine, command: Command, nodes: list[str], now: Moment) -> Told:
    given = command.arguments
    stamps, terminate = stamps_in(given.get("headers")), bool(given.get("terminate"))
    signal = signal_name(given.get("signal"))
    ended = engine.withdrawals.revoke_tagged(tags_of(stamps), now, terminate=terminate, signal=signal)
    told = {"ok": told_of_stamps(stamps, terminate=terminate, ended=ended)}
    return [(node, told) for node in nodes]


def _revoked(engine: Engine, command: Command, nodes: list[str], now: Moment) -> Told:
    ids = sorted(engine.withdrawals.revoked)
    return [(node, ids) for node in nodes]


def _hello(engine: Engine, command: Command, nodes: list[str], now: Moment) -> Told:
    for task_id in listed(command.arguments.get("revoked") or ()):
        engine.withdrawals.revoke(task_id, now, terminate=False, signal="SIGTERM")
    told = {"revoked": sorted(engine.withdrawals.revoked), "clock": int(now.wall)}
    asking = command.arguments.get("from_node")
    return [(node, None if node == asking else told) for node in nodes]


def _scheduled(engine: Engine, command: Command, nodes: list[str], now: Moment) -> Told:
    """Tell each message that waits for its time once: under the first node, by name, of its queue."""
    workers = [worker for worker in engine.fleet.workers.values() if worker.present and worker.namespace]
    told: dict[str, list[Any]] = {node: [] for node in nodes}
    seen: set[int] = set()
    for worker in sorted(workers, key=lambda worker: worker.node):
        for queue in worker.queues:
            if queue.id in seen:
                continue
            seen.add(queue.id)
            if worker.node not in told:
                continue
            for row in engine.desk.journal.delayed_in(queue.id, _SCHEDULED):
                payload = row.payload.decode("utf-8", "replace")
                shown = {"queue": queue.name, "msgid": row.msgid, "headers": row.header_text}
                told[worker.node].append(scheduled_shape({**shown, "payload": payload}, worker.node))
    return told.items()


_BROKER_DOES: Final[dict[str, Callable[[Engine, Command, list[str], Moment], Told]]] = {
    "hello": _hello,
    "revoke_by_stamped_headers": _revoke_stamped,
    "revoked": _revoked,
    "scheduled": _scheduled,
}
#: What is the named workers' alone where some are named.
_ONLY_FOR_ALL: Final = (_revoke_stamped,)
_REVOKES: Final = ("revoke", "terminate")
