"""Commands of remote control that kombu clients publish: what the broker does, what workers are asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emq_compat.broker.commands import Commands
from emq_compat.broker.records import Send
from emq_compat.celery_message import CeleryMessage
from emq_compat.headers import via_text
from emq_compat.kombu_message import unwrapped, wrapped
from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Answer, Ask, Request
from emq_compat.stamps import tags_of
from tests.broker.bench import CLIENT, Bench

pytestmark = pytest.mark.unit

NAMES = ("w1@host", "w2@host")


class Desk:
    """A broker with workers, and the replies that it publishes."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.commands = Commands(self.bench.engine)
        exchanges, queues = self.bench.engine.exchanges, self.bench.engine.queues
        exchanges.declare("reply.celery.pidbox", "direct", durable=False, auto_delete=False)
        exchanges.bind("reply.celery.pidbox", "oid", queues.get("replies").name)
        for namespace in ("celery", "other", "none"):
            exchanges.declare(f"{namespace}.pidbox", "fanout", durable=False, auto_delete=False)

    @property
    def replies(self) -> list[Any]:
        """Those that have come, which are then forgotten."""
        queue, found = self.bench.engine.queues.by_name["replies"], []
        fetcher = self.bench.engine.fleet.fetcher(b"client.fetcher", self.bench.now)
        while (fetched := self.bench.engine.fetch(fetcher, queue, self.bench.now)) is not None:
            message = unwrapped(fetched[0].payload)
            assert "t1" == message.headers["ticket"]
            found.append(json.loads(message.body))
        return found

    def publish(self, namespace: str, body: bytes, content_type: str = "application/json") -> list[Any]:
        """Publish a message to the exchange of a namespace; returns what workers are asked then."""
        message = CeleryMessage(
            body=body, content_type=content_type, content_encoding="utf-8", headers={}, properties={}
        )
        headers = Headers(via=via_text(f"{namespace}.pidbox", ""))
        request = Request(
            msgid=new_id(),
            queue="",
            headers=headers,
            payload=wrapped(message),
            header_text=headers.encode().encode(),
        )
        sent = self.bench.turn((CLIENT, request))
        return [one for one in sent if isinstance(one, Send) and isinstance(one.command, Ask)]

    def tell(self, method: str, *, reply: bool = True, namespace: str = "celery", **more: Any) -> list[Any]:
        """Publish a command; returns (worker, method, arguments) of what workers are asked."""
        body: dict[str, Any] = {"method": method, "arguments": more.pop("arguments", {}), **more}
        if reply:
            body["reply_to"] = {"exchange": "reply.celery.pidbox", "routing_key": "oid"}
            body["ticket"] = "t1"
        _ = self.replies
        self.asks = self.publish(namespace, json.dumps(body).encode())
        return [
            (one.identity.decode(), one.command.arguments["method"], one.command.arguments["arguments"])
            for one in self.asks
        ]

    def answer(self, number: int, ok: Any) -> None:
        """Have the worker that was asked as the number-th answer."""
        ask = self.asks[number].command
        answer = Answer(msgid=new_id(), body=json.dumps({"ok": ok}).encode(), asked=ask.msgid)
        assert self.commands.answered(answer, self.bench.now)

    def passed_over(self) -> str:
        """What the log says."""
        told = " ".join(text for _, text in self.bench.engine.desk.notes)
        self.bench.engine.desk.notes.clear()
        return told


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    for name in NAMES:
        made.bench.worker(f"{name}.x".encode(), control="celery", credit=0)
    made.bench.worker(b"x@host.x", control="other", credit=0)
    made.bench.worker(b"plain@host.x", credit=0)
    made.passed_over()
    return made


def test_workers_are_asked_and_their_answers_published(desk: Desk) -> None:
    """Each worker of the namespace is asked; its answer goes where the asker waits, under its node's name."""
    arguments = {"n": 2}
    expected = [(f"{name}.x", "pool_grow", arguments) for name in NAMES]
    assert expected == desk.tell("pool_grow", arguments=arguments)
    desk.answer(1, {"ok": "pool will grow"})
    assert [{"w2@host": {"ok": "pool will grow"}}] == desk.replies
    stranger = Answer(msgid=new_id(), body=b'{"ok": 1}', asked="unknown")
    assert not desk.commands.answered(stranger, desk.bench.now)


@pytest.mark.parametrize(
    ("meant", "expected"),
    [
        ({"destination": ["w2@host", "nobody"]}, ["w2@host.x"]),
        ({"pattern": "w1*", "matcher": "glob"}, ["w1@host.x"]),
        ({"namespace": "other"}, ["x@host.x"]),
        ({"namespace": "none"}, []),
    ],
)
def test_who_is_meant(desk: Desk, meant: dict[str, Any], expected: list[str]) -> None:
    """Those that are named, that match, and that are of the namespace."""
    assert expected == [worker for worker, _, _ in desk.tell("ping", **meant)]


def test_an_answer_that_nobody_waits_for(desk: Desk) -> None:
    """Where no reply is wanted none is published; one that comes after a minute is dropped."""
    desk.tell("ping", reply=False)
    answer = Answer(msgid=new_id(), body=b'{"ok": 1}', asked=desk.asks[0].command.msgid)
    assert not desk.commands.answered(answer, desk.bench.now)
    desk.tell("ping")
    desk.bench.mono += 61
    desk.commands.tick(desk.bench.now)
    assert {} == desk.commands._open


def test_revokes_are_the_brokers(desk: Desk) -> None:
    """A revoke for all is kept by the broker and answered for each node; one for some nodes is theirs."""
    noted = [(f"{name}.x", "note_revoked", {"task_id": ["a"]}) for name in NAMES]
    assert noted == desk.tell(
        "revoke", arguments={"task_id": ["a"], "terminate": False, "signal": "SIGTERM"}
    )
    assert {"a"} == desk.bench.engine.withdrawals.revoked
    assert [] == desk.replies, "the workers tell their result backend of what is unknown here, first"
    desk.answer(0, {"ok": "noted"})
    desk.answer(1, {"error": "whatever"})
    assert [{name: {"ok": "tasks {'a'} flagged as revoked"}} for name in NAMES] == desk.replies
    desk.tell("terminate", arguments={"task_id": "b", "signal": "KILL"}, destination=[])
    desk.answer(0, {"ok": "noted"})
    assert {"ok": "terminate: tasks unknown"} == desk.replies[0]["w1@host"]
    assert [] == desk.tell("revoked")
    assert [{name: ["a", "b"]} for name in NAMES] == desk.replies
    asked = desk.tell("revoke", arguments={"task_id": "c"}, destination=["w1@host"])
    assert [("w1@host.x", "revoke", {"task_id": "c"})] == asked
    assert {"a", "b"} == desk.bench.engine.withdrawals.revoked


def test_a_running_task_is_terminated(desk: Desk) -> None:
    """The worker that runs a task is told to end it, and so is the asker."""
    desk.bench.worker(b"w3@host.x", control="celery")
    (msgid,) = desk.bench.publish()
    assert [("w3@host.x", {"ids": [f"t-{msgid}"], "terminate": True, "signal": "SIGKILL"})] == [
        (one.identity.decode(), dict(one.command.arguments))
        for one in asks_of_revoke(desk, {"task_id": f"t-{msgid}", "terminate": "true", "signal": "KILL"})
    ]
    assert {"ok": f"terminate: t-{msgid}"} == desk.replies[0]["w1@host"]


def asks_of_revoke(desk: Desk, arguments: dict[str, Any]) -> list[Any]:
    """Publish a revoke; returns what workers are asked by the broker itself."""
    body = {
        "method": "revoke",
        "arguments": arguments,
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"},
        "ticket": "t1",
    }
    return desk.publish("celery", json.dumps(body).encode())


def test_stamps(desk: Desk) -> None:
    """A revoke by stamps is kept as tags, whichever way the stamps are written."""
    desk.tell("revoke_by_stamped_headers", arguments={"headers": {"who": ["me", "you"]}})
    assert set(tags_of({"who": ["me", "you"]})) == desk.bench.engine.withdrawals.tags
    assert "flagged as revoked, but not terminated" in desk.replies[0]["w1@host"]["ok"]
    desk.tell("revoke_by_stamped_headers", arguments={"headers": ["a=b"], "terminate": True})
    assert "were not terminated" in desk.replies[0]["w1@host"]["ok"]
    desk.tell("revoke_by_stamped_headers", arguments={"headers": ["a"]})
    assert "stamp=value" in desk.passed_over()


def test_hello(desk: Desk) -> None:
    """A worker that starts learns what is revoked, and what it knows is revoked from then on."""
    desk.tell("hello", arguments={"from_node": "w2@host", "revoked": ["r1"]})
    assert [None, ["r1"]] == [
        reply[name] and reply[name]["revoked"]
        for reply, name in zip(desk.replies, NAMES, strict=True)
    ][::-1]


def test_what_waits_for_its_time(desk: Desk) -> None:
    """Delayed messages are told once, by the first worker of their queue."""
    desk.bench.publish(eta=desk.bench.wall + 100, task="proj.add", client=CLIENT)
    desk.tell("scheduled")
    told = {node: rows for reply in desk.replies for node, rows in reply.items()}
    assert ["proj.add"] == [row["request"]["name"] for row in told["w1@host"]]
    assert [] == told["w2@host"]


def test_one_worker_is_elected(desk: Desk) -> None:
    """An election has one winner among those that are there, the same one for the same id."""
    arguments = {"id": "e1", "topic": "task", "action": {}}
    (first,) = desk.tell("election", arguments=arguments, reply=False)
    (second,) = desk.tell("election", arguments=arguments, reply=False)
    assert first == second
    winners = {
        desk.tell("election", arguments={**arguments, "id": f"e{n}"}, reply=False)[0][0] for n in range(20)
    }
    assert {f"{name}.x" for name in NAMES} == winners


@pytest.mark.parametrize(
    ("body", "content_type", "named"),
    [
        (b"{", "application/json", "no JSON"),
        (b"[" * 100_000, "application/json", "no JSON"),
        (b"x", "application/x-python-serialize", "plain JSON"),
        (b"[]", "application/json", "object"),
        (b'{"method": "ping", "pattern": "(", "matcher": "pcre"}', "application/json", "no pattern"),
        (b'{"method": "terminate", "arguments": {"signal": "no", "task_id": ""}}', "application/json", "no"),
        (b'{"method": "revoke", "arguments": {}}', "application/json", "None"),
    ],
)
def test_what_is_no_command(desk: Desk, body: bytes, content_type: str, named: str) -> None:
    """What can't be read is passed over with a note that says why."""
    assert [] == desk.publish("celery", body, content_type)
    assert named in desk.passed_over()


def test_headers_of_a_worker(desk: Desk) -> None:
    """A worker that names no namespace, and a stock one, is never asked."""
    namespaces = {worker.node: worker.namespace for worker in desk.bench.engine.fleet.workers.values()}
    assert "" == namespaces["plain@host"]
    assert "other" == namespaces["x@host"]
