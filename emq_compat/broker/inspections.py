"""Questions of clients that the broker passes on to workers and other nodes: who was asked, who answered.

A node that is no worker (a beat) says what it answers by subscribing: to the topic ``ask.VERB.NODE``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from emq_compat.broker.engine import Engine
from emq_compat.broker.records import Moment
from emq_compat.errors import MessageError
from emq_compat.message import new_id
from emq_compat.protocol.commands import Answer, Ask, PublishTopic

__all__ = ["Inspections"]

#: Sends a client the answer to what it has asked: client, msgid of its ASK, JSON document.
Send = Callable[[bytes, str, bytes], None]


class _Inspection:
    """An ``inspect`` under way: who was asked, and what they have answered."""

    __slots__ = ("answers", "asked", "client", "deadline", "missing")

    def __init__(self, client: bytes, asked: str, deadline: float) -> None:
        self.client = client
        self.asked = asked
        self.deadline = deadline
        self.missing: set[bytes] = set()
        self.answers: dict[bytes, bytes] = {}


class Inspections:
    """All that are under way."""

    def __init__(self, engine: Engine, send: Send) -> None:
        self._engine = engine
        self._send = send
        #: msgid of the question to a worker or node → the inspection it belongs to.
        self._asked: dict[str, _Inspection] = {}
        self._open: list[_Inspection] = []

    def begin(self, client: bytes, asked: str, arguments: dict[str, Any], now: Moment) -> bytes | None:
        """Pass a question on; returns the answer, if there is nobody to ask.

        Raises:
            MessageError: an argument is wrong.
        """
        verb, inner = arguments.get("verb"), arguments.get("arguments") or {}
        destination, timeout_s = arguments.get("destination"), arguments.get("timeout_s", 1.0)
        if not isinstance(verb, str) or not verb or not isinstance(inner, dict):
            raise MessageError("inspect needs 'verb', text, and 'arguments', an object")
        if not isinstance(timeout_s, int | float) or not 0 <= timeout_s <= 60:
            raise MessageError("'timeout_s' is a number of seconds, at most 60")
        if destination is not None and not isinstance(destination, list):
            raise MessageError("'destination' is a list of workers' names, or null for all")
        inspection = _Inspection(client, asked, now.mono + timeout_s)
        for worker in self._engine.fleet.workers.values():
            if worker.stock or worker.consumer or not worker.present:
                continue
            if destination is not None and not {worker.name, worker.name.rpartition(".")[0]} & set(
                destination
            ):
                continue
            ask = Ask(msgid=self._await(inspection, worker.identity), verb=verb, arguments=inner)
            self._engine.desk.to_worker(worker.identity, ask)
        topics = self._engine.topics
        for node in topics.asked_for(f"ask.{verb}."):
            if destination is None or node in destination:
                msgid = self._await(inspection, _beside(node))
                payload = json.dumps({"asked": msgid, "arguments": inner}).encode()
                topics.publish(PublishTopic(msgid=msgid, topic=f"ask.{verb}.{node}", payload=payload), now)
        if not inspection.missing:
            return b'{"ok":{}}'
        self._open.append(inspection)
        return None

    def _await(self, inspection: _Inspection, whom: bytes) -> str:
        msgid = new_id()
        inspection.missing.add(whom)
        self._asked[msgid] = inspection
        return msgid

    def answered(self, whom: bytes, answer: Answer, now: Moment) -> None:
        """Take an answer in."""
        inspection = self._asked.pop(answer.asked, None)
        if inspection is not None and whom in inspection.missing:
            inspection.missing.discard(whom)
            inspection.answers[whom] = answer.body
            if not inspection.missing:
                self._close(inspection)

    def node_answers(self, arguments: dict[str, Any], now: Moment) -> bool:
        """Take the answer of a node that is no worker; returns whether it was waited for.

        Raises:
            MessageError: an argument is wrong.
        """
        asked, node = arguments.get("asked"), arguments.get("node")
        if not isinstance(asked, str) or not isinstance(node, str):
            raise MessageError("answer needs 'asked', the id of the question, and 'node', a name")
        waited_for = asked in self._asked
        body = json.dumps({"ok": arguments.get("ok")}).encode()
        self.answered(_beside(node), Answer(msgid=new_id(), body=body, asked=asked), now)
        return waited_for

    def _close(self, inspection: _Inspection) -> None:
        self._open.remove(inspection)
        members = [
            json.dumps(whom.decode("utf-8", "replace")).encode() + b":" + body
            for whom, body in inspection.answers.items()
        ]
        self._send(inspection.client, inspection.asked, b'{"ok":{' + b",".join(members) + b"}}")

    def tick(self, now: Moment) -> None:
        """Answer those whose time is over with what has come."""
        for inspection in [i for i in self._open if i.deadline <= now.mono]:
            self._asked = {msgid: i for msgid, i in self._asked.items() if i is not inspection}
            self._close(inspection)

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which ``tick`` is due."""
        return min((i.deadline for i in self._open), default=None)


def _beside(node: str) -> bytes:
    """Return under which name the answer of a node that is no worker is passed on."""
    return f"{node}.beside".encode("utf-8", "replace")
