"""Exchanges, bindings and declared queues of the engine, and what kombu's channels ask of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emq_compat.broker.asks import Asks
from emq_compat.broker.exchanges import Exchange
from emq_compat.headers import via_text
from emq_compat.kombu_message import json_body, unwrapped, wrapped_json
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Answer, Ask, Kbye, PublishTopic, Reply, Request
from tests.broker.bench import CLIENT, Bench, answer, job

pytestmark = pytest.mark.unit


class Asking(Bench):
    """A bench whose client asks, too."""

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        super().__init__(folder, **options)
        self.asks = Asks(self.engine, lambda file, done: None, self.now)

    def restart(self) -> None:
        super().restart()
        self.asks = Asks(self.engine, lambda file, done: None, self.now)

    def ask(self, verb: str, client: bytes = CLIENT, **arguments: Any) -> Any:
        """Ask, and return what is answered as `ok`, or the error's type."""
        self.turn((client, Ask(msgid=new_id(), verb=verb, arguments=arguments)))
        [told] = self.commands(Answer)
        document = json.loads(told.body)
        return document["ok"] if "ok" in document else document["error"]["type"]

    def send(self, exchange: str, key: str, msgid: str = "", payload: bytes = b"", **headers: Any) -> str:
        """Publish to an exchange."""
        head = Headers(guarantee=True, via=via_text(exchange, key), **headers)
        request = Request(
            msgid=msgid or new_id(),
            queue="",
            headers=head,
            payload=payload or wrapped_json(b'{"n":1}'),
            header_text=head.encode().encode(),
        )
        self.turn((CLIENT, request))
        return request.msgid

    def waiting(self) -> dict[str, int]:
        """How many wait in each queue."""
        return {queue.name: queue.waiting for queue in self.engine.queues.by_name.values()}

    def bound(self, kind: str, *bindings: tuple[str, str], exchange: str = "x", **options: Any) -> None:
        """Declare an exchange with these (key, queue)."""
        self.ask("declare_exchange", exchange=exchange, type=kind, **options)
        for key, queue in bindings:
            self.ask("bind", queue=queue, exchange=exchange, key=key)


@pytest.fixture
def bench() -> Asking:
    return Asking()


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "", True),
        ("#.b", "a.x.b", True),
        ("#.#.b", "b", True),
        ("a.#.z", "a.z", True),
        ("*.b", "ab", False),
        ("a+b", "aab", False),
    ],
)
def test_topic_patterns(pattern: str, key: str, matches: bool) -> None:
    """`*` is one word and `#` any number of them, none included."""
    exchange = Exchange("x", "topic", durable=True, auto_delete=False)
    exchange.bind(pattern, "q")
    assert (("q",) if matches else ()) == exchange.queues(key)


def test_direct(bench: Asking) -> None:
    """A direct exchange gives a message to each queue that is bound by its key, once."""
    bench.bound("direct", ("red", "a"), ("red", "b"), ("blue", "b"), ("blue", "c"))
    msgid = bench.send("x", "red")
    assert {msgid} == bench.acked()
    assert {"a": 1, "b": 1, "c": 0} == bench.waiting()


def test_twice_is_once(bench: Asking) -> None:
    """The same msgid said again, as after a cut, adds nothing to any queue."""
    bench.bound("fanout", ("", "a"), ("", "b"))
    msgid = bench.send("x", "")
    bench.send("x", "", msgid)
    assert {"a": 1, "b": 1} == bench.waiting()
    assert {msgid} == bench.acked()


def test_copies_have_ids_of_their_own(bench: Asking) -> None:
    """The copies of a message that goes to several queues collide with no id that a client chose."""
    bench.bound("fanout", ("", "a"), ("", "b"), ("", "c"))
    bench.bound("direct", ("k", "a"), exchange="one")
    bench.send("one", "k", "x.1")
    assert {"x"} == {bench.send("x", "", "x")} & bench.acked()
    assert {"a": 2, "b": 1, "c": 1} == bench.waiting()
    bench.send("one", "k", "x.2")
    assert {"a": 3, "b": 1, "c": 1} == bench.waiting()


def test_unroutable(bench: Asking) -> None:
    """What goes to no queue is acknowledged and dropped; what goes to no exchange is refused."""
    bench.bound("direct")
    assert {bench.send("x", "nobody")} == bench.acked()
    bench.send("", "no-such-queue")
    assert {} == bench.waiting()
    bench.send("no-such-exchange", "k")
    [refused] = bench.commands(Reply)
    assert "NotDeclared" == json.loads(refused.body)["error"]["type"]


def test_follow_ups(bench: Asking) -> None:
    """What follows from an outcome may go by an exchange, too; a dead letter goes back to its own queue."""
    bench.bound("fanout", ("", "a"), ("", "b"))
    bench.publish()
    [hand_out] = bench.worker(tasks={})
    follow_up = Publish(queue="", headers=Headers(via=via_text("x", "")), payload=job())
    nowhere = Publish(queue="", headers=Headers(via=via_text("y", "")), payload=job())
    bench.reply(hand_out, follow_ups=(follow_up, nowhere))
    assert {"a": 1, "b": 1, "q": 0} == bench.waiting()
    assert 1 == bench.ask("stats")["unroutable"]
    [dead] = bench.worker(b"w.2", queues=("a",))
    bench.reply(dead, "REJECTED")
    assert 1 == bench.ask("dead_requeue", all=True)
    assert {"a": 1, "b": 1, "q": 0} == bench.waiting()


def test_without_name(bench: Asking) -> None:
    """The exchange without a name gives a message to the queue that the key names, if there is one."""
    bench.ask("declare_queue", queue="q")
    bench.send("", "q")
    assert {"q": 1} == bench.waiting()
    [hand_out] = bench.worker(consumer=True)
    assert ("", "q") == Headers.decode(hand_out.header_text).route


def test_declared_anew(bench: Asking) -> None:
    """An exchange may be declared again as it is, and not as another one."""
    bench.bound("topic")
    assert bench.ask("declare_exchange", exchange="x", type="topic") is True
    assert "NotEquivalent" == bench.ask("declare_exchange", exchange="x", type="fanout")
    assert "NotDeclared" == bench.ask("declare_exchange", exchange="y", passive=True)
    assert "NotDeclared" == bench.ask("declare_exchange", exchange="y", type="headers")
    assert "NotDeclared" == bench.ask("declare_queue", queue="y", passive=True)


def test_exchange_and_topic_are_one(bench: Asking) -> None:
    """What is announced reaches the queues bound to the exchange of that name, and the other way round."""
    bench.bound("topic", ("task.#", "flower"), exchange="celeryev")
    bench.ask("subscribe", topics=["celeryev.worker"])
    bench.turn((CLIENT, PublishTopic(msgid=new_id(), topic="celeryev.task.sent", payload=b'{"uuid": "1"}')))
    [hand_out] = bench.worker(queues=("flower",), consumer=True)
    assert b'{"uuid": "1"}' == unwrapped(hand_out.payload).body
    assert ("celeryev", "task.sent") == Headers.decode(hand_out.header_text).route
    bench.engine.topics.take()
    bench.send("celeryev", "worker.online", payload=wrapped_json(b'{"pid":1}'))
    [(command, clients)] = bench.engine.topics.take()
    assert ("celeryev.worker.online", b'{"pid":1}', [CLIENT]) == (command.topic, command.payload, clients)


def test_after_a_restart(tmp_path: Path) -> None:
    """Durable exchanges, queues and bindings are there after a restart; others, and their messages, not."""
    bench = Asking(tmp_path / "data")
    bench.bound("topic", ("k", "kept"), durable=True)
    bench.bound("fanout", ("", "kept"), exchange="passing", durable=False)
    bench.ask("declare_queue", queue="mine", durable=False, exclusive=True, auto_delete=True)
    bench.ask("bind", queue="mine", exchange="x", key="k")
    bench.ask("declare_queue", queue="brief", ttl_s=5)
    bench.send("x", "k")
    assert {"kept": 1, "mine": 1, "brief": 0} == bench.waiting()
    bench.restart()
    assert {"kept": 1, "brief": 0} == bench.waiting()
    assert "NotDeclared" == bench.ask("declare_exchange", exchange="passing", passive=True)
    bench.send("x", "k")
    assert {"kept": 2, "brief": 0} == bench.waiting()
    assert 5.0 == bench.engine.queues.get("brief").ttl_s
    bench.store.close()


def test_auto_delete(bench: Asking) -> None:
    """An auto-delete queue ends with its last consumer, with what is in it and its bindings."""
    bench.bound("fanout")
    bench.ask("declare_queue", queue="q", auto_delete=True)
    bench.ask("bind", queue="q", exchange="x", key="")
    bench.worker(b"w.1", consumer=True, credit=0)
    bench.worker(b"w.2", consumer=True, credit=0)
    bench.send("x", "")
    told = bench.ask("declare_queue", queue="q", passive=True)
    assert {"queue": "q", "messages": 1, "consumers": 2} == told
    bench.turn((b"w.1", Kbye(msgid=new_id())))
    assert {"q": 1} == bench.waiting()
    bench.turn((b"w.2", Kbye(msgid=new_id())))
    assert {} == bench.waiting()
    bench.send("x", "")
    assert {} == bench.waiting()


def test_cancelled(bench: Asking) -> None:
    """A consumer that listens on a queue no more counts as gone for that queue."""
    bench.ask("declare_queue", queue="q", auto_delete=True)
    bench.worker(b"w.1", ("q", "other"), consumer=True, credit=0)
    bench.worker(b"w.1", ("other",), consumer=True, credit=0)
    assert {"other": 0} == bench.waiting()


def test_exclusive(bench: Asking) -> None:
    """An exclusive queue ends with the connection that declared it last."""
    bench.ask("declare_queue", queue="q", client=b"client.1", exclusive=True)
    bench.ask("declare_queue", queue="q", client=b"client.2", exclusive=True)
    bench.engine.client_gone(b"client.1", bench.now)
    assert {"q": 0} == bench.waiting()
    bench.engine.client_gone(b"client.2", bench.now)
    assert {} == bench.waiting()


def test_consumers_in_the_log(bench: Asking) -> None:
    """Consumers of one program share a name without a warning, and only their coming is told."""
    bench.engine.desk.notes.clear()
    for queues in (("q",), (), ("other",)):
        bench.worker(b"kombu-consumer.1", queues, consumer=True, credit=0)
    bench.worker(b"kombu-consumer.2", consumer=True, credit=0)
    told = [(level, text.partition(":")[0]) for level, text in bench.engine.desk.notes]
    first, second = "consumer kombu-consumer.1", "consumer kombu-consumer.2"
    assert [("info", first), ("debug", first), ("debug", first), ("info", second)] == told


def test_exclusive_with_a_consumer(bench: Asking) -> None:
    """An exclusive queue whose connection goes before its consumer does ends with the consumer."""
    bench.ask("declare_queue", queue="q", durable=False, exclusive=True, auto_delete=True)
    bench.worker(consumer=True, credit=0)
    bench.engine.client_gone(CLIENT, bench.now)
    assert {"q": 0} == bench.waiting()
    bench.turn((b"w.1", Kbye(msgid=new_id())))
    assert {} == bench.waiting()


def test_ends_once_nothing_is_handed_out(bench: Asking) -> None:
    """A queue that ends while a message of it is handed out goes when that one is done."""
    bench.ask("declare_queue", queue="q", durable=False, auto_delete=True)
    bench.send("", "q")
    [hand_out] = bench.worker(consumer=True)
    bench.worker(queues=("other",), consumer=True, credit=0, held=((hand_out.msgid, 1, True),))
    assert 1 == bench.ask("stats")["in_flight"]
    bench.reply(hand_out, "ACKNOWLEDGED")
    bench.pass_time(6, b"w.1")
    assert {"other": 0} == bench.waiting()


def test_emptied(bench: Asking) -> None:
    """A queue that is purged quietly, or deleted, is empty, also of tasks that have an epilogue."""
    [msgid, _] = bench.publish(2, epilogue=True)
    assert 2 == bench.ask("purge", queue="q", quietly=True)
    assert {"q": 0} == bench.waiting()
    assert bench.state(msgid) is None
    [part] = bench.publish(epilogue=True, chord="c:0")
    assert 1 == bench.ask("delete_queue", queue="q")
    assert "REVOKED" == bench.state(part)
    assert {} == bench.waiting()


def test_expires(bench: Asking) -> None:
    """A queue that expires ends when nobody has used it for so long."""
    bench.ask("declare_queue", queue="q", expires_s=20)
    bench.pass_time(15)
    bench.ask("fetch", queue="q")
    bench.pass_time(15)
    assert {"q": 0} == bench.waiting()
    bench.worker(consumer=True, credit=0)
    bench.pass_time(60, b"w.1")
    assert {"q": 0} == bench.waiting()
    bench.turn((b"w.1", Kbye(msgid=new_id())))
    bench.pass_time(30)
    assert {} == bench.waiting()


def test_ttl(bench: Asking) -> None:
    """A message that has waited longer than its queue allows isn't handed out."""
    bench.ask("declare_queue", queue="q", ttl_s=5)
    bench.send("", "q")
    bench.pass_time(6)
    bench.send("", "q", payload=wrapped_json(b"2"))
    hand_outs = bench.worker(consumer=True, credit=5)
    assert [b"2"] == [json_body(hand_out.payload) for hand_out in hand_outs]


def test_deleted_while_used(bench: Asking) -> None:
    """Deleting a queue on which somebody listens empties and unbinds it; what was handed out still ends."""
    bench.bound("direct", ("k", "q"))
    for _ in range(2):
        bench.send("x", "k")
    [hand_out] = bench.worker(consumer=True)
    assert 1 == bench.ask("delete_queue", queue="q")
    bench.reply(hand_out, "ACKNOWLEDGED")
    bench.send("x", "k")
    assert {"q": 0} == bench.waiting()
    bench.turn((b"w.1", Kbye(msgid=new_id())))
    assert 0 == bench.ask("delete_queue", queue="q")
    assert {} == bench.waiting()


def test_a_consumer_is_lost(bench: Asking) -> None:
    """What a consumer held whose connection is gone is handed out again, of whatever task it is."""
    bench.publish()
    [hand_out] = bench.worker(consumer=True, credit=1)
    bench.pass_time(600, b"w.1")
    assert 1 == bench.ask("stats")["in_flight"]
    bench.engine.connection_gone(b"w.1", bench.now)
    bench.pass_time(3)
    [again] = bench.worker(b"w.2", consumer=True, credit=1)
    assert hand_out.msgid == again.msgid
    assert Headers.decode(again.header_text).redelivered


def test_consumers_are_no_workers(bench: Asking) -> None:
    """Who asks for the workers isn't told of consumers, unless it asks for those."""
    bench.worker(b"w.1")
    bench.worker(b"c.1", consumer=True)
    assert ["w.1"] == [row["name"] for row in bench.ask("workers")]
    assert ["c.1"] == [row["name"] for row in bench.ask("workers", consumers=True)]


def test_a_consumer_without_queues(bench: Asking) -> None:
    """A consumer that names no queue listens on none, not on the default one."""
    bench.publish(queue="")
    assert [] == bench.worker(queues=(), consumer=True, credit=1)
    assert {"default": 1} == bench.waiting()


def test_acknowledged_by_a_consumer(bench: Asking) -> None:
    """What a consumer acknowledges leaves no result and no epilogue, and counts for no chord."""
    [msgid] = bench.publish(epilogue=True, chord="c:0")
    [body] = bench.publish(awaits="c:1")
    [hand_out] = bench.worker(consumer=True)
    bench.turn((b"w.1", answer(hand_out, "ACKNOWLEDGED")))
    assert (None, None) == (bench.state(msgid), bench.state(body))
    assert {"q": 0} == bench.waiting()
    told = {"task_id": "t-" + msgid, "settled": "SUCCESS", "chord": "c:0"}
    bench.send("", "q", payload=b'{"value": 1}', **told)
    assert {"q": 1} == bench.waiting()


def test_fetch(bench: Asking) -> None:
    """A fetched message is the client's until it settles it, or its connection is gone."""
    assert "NotDeclared" == bench.ask("fetch", queue="q")
    bench.publish(2)
    first = bench.ask("fetch", queue="q")
    assert b'["run"' in first["payload"].encode()
    second = bench.ask("fetch", queue="q", no_ack=True)
    assert bench.ask("fetch", queue="q") is False
    settle = {"verb": "settle", "msgid": first["msgid"], "attempt": first["attempt"]}
    assert bench.ask(**settle, client=b"client.2", state="ACKNOWLEDGED") is False
    assert bench.ask(**settle, state="RETURNED") is True
    again = bench.ask("fetch", queue="q")
    assert (first["msgid"], 2) == (again["msgid"], again["attempt"])
    assert "redelivered" in again["headers"]
    bench.engine.client_gone(CLIENT, bench.now)
    third = bench.ask("fetch", client=b"client.2", queue="q")
    assert (first["msgid"], 3, True) == (third["msgid"], third["attempt"], third["redelivered"])
    settle |= {"attempt": 3}
    assert bench.ask(**settle, client=b"client.2", state="ACKNOWLEDGED") is True
    assert {"q": 0} == bench.waiting()
    assert second["msgid"] != first["msgid"]
    assert 0 == bench.ask("stats")["in_flight"]


def test_names_are_checked(bench: Asking) -> None:
    """A name that no queue may have is refused, and so is a flag that is none."""
    assert "MessageError" == bench.ask("declare_queue", queue="a\nb")
    assert "MessageError" == bench.ask("declare_queue", queue="q", exclusive=1)
    assert "MessageError" == bench.ask("declare_exchange", exchange="")
    assert "MessageError" == bench.ask("settle", msgid="m", attempt=1, state="SUCCESS")
