"""A node of kombu's pidbox: commands come in, answers and events go out (kombu's transport in memory)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue
from kombu.pidbox import Mailbox

from emq_compat.ids import new_id
from emq_compat.upstream.base import Asked
from emq_compat.upstream.kombu_control import ControlNode, ControlSettings

pytestmark = pytest.mark.unit


def drain(connection: Connection) -> None:
    """Take in all that is there."""
    try:
        while True:
            connection.drain_events(timeout=0.02)
    except TimeoutError:
        pass


class Bench:
    """A node whose connection the test drives, and kombu's own asker beside it."""

    def __init__(self, namespace: str, **settings: Any) -> None:
        self.connection = Connection("memory://")
        self.asked: list[Asked] = []
        self.timers: list[Callable[[], object]] = []
        self.settings = ControlSettings(namespace=namespace, event_exchange=f"{namespace}ev", **settings)
        self.node = ControlNode("w1@host", self.settings, self.asked.append)
        self.asker = Mailbox(namespace, type="fanout")(Connection("memory://"))

    def start(self) -> None:
        self.node.start(self.connection, lambda after_s, function: self.timers.append(function))
        self.drain()

    def drain(self) -> None:
        """Have the node take in all that is there."""
        drain(self.connection)

    def tell(self, method: str, **more: Any) -> list[Asked]:
        """Send a command; returns what the worker is asked because of it."""
        self.asked.clear()
        self.asker._publish(method, {}, **more)
        self.drain()
        return self.asked

    def close(self) -> None:
        self.node.stop()
        self.connection.close()
        self.asker.connection.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(new_id())
    made.start()
    yield made
    made.close()


def test_a_command_is_asked_and_answered(bench: Bench) -> None:
    """kombu's asker hears the answer under the node's name, by the ticket of its question."""
    (asked,) = bench.tell("stats", reply_ticket="t1")
    assert "command" == asked.verb
    assert {"method": "stats", "arguments": {}} == asked.arguments
    bench.node.answer(asked.asked, b'{"ok": {"pid": 1}}')
    bench.node.answer(asked.asked, b'{"ok": "a second time"}')
    assert [{"w1@host": {"pid": 1}}] == bench.asker._collect("t1", timeout=0.05)


def test_who_is_meant(bench: Bench) -> None:
    """Commands to other nodes, unreadable ones and those with a wrong pattern are passed over."""
    assert 1 == len(bench.tell("ping", destination=["w1@host"]))
    assert 0 == len(bench.tell("ping", destination=["w2@host"]))
    assert 1 == len(bench.tell("ping", pattern="w?@host", matcher="glob"))
    assert 0 == len(bench.tell("ping", pattern="(", matcher="pcre"))
    assert 0 == len(bench.tell(""))
    with bench.connection.channel() as channel:
        message = channel.prepare_message("{", content_type="application/json", content_encoding="utf-8")
        channel.basic_publish(message, exchange=bench.asker.exchange.name, routing_key="")
    bench.drain()
    assert 1 == len(bench.tell("ping"))


def test_no_answer_where_none_is_wanted(bench: Bench) -> None:
    """A command that nobody waits for is not answered, and the answer to one of before a cut is dropped."""
    (asked,) = bench.tell("ping")
    bench.node.answer(asked.asked, b'{"ok": 1}')
    (asked,) = bench.tell("ping", reply_ticket="t2")
    bench.start()
    bench.node.answer(asked.asked, b'{"ok": 1}')
    assert [] == bench.asker._collect("t2", timeout=0.05)


def test_events(bench: Bench) -> None:
    """Events reach whoever has a queue at the exchange of events, with the node's name beside them."""
    heard: list[tuple[Any, Any]] = []
    exchange = Exchange(f"{bench.settings.namespace}ev", type="topic")
    queue = Queue(new_id(), exchange, routing_key="task.#", auto_delete=True)
    with (
        Connection("memory://") as connection,
        Consumer(connection, [queue], callbacks=[lambda *one: heard.append(one)], no_ack=True),
    ):
        event = {"type": "task-started", "uuid": "u"}
        bench.node.announce(f"{exchange.name}.task.started", json.dumps(event).encode())
        bench.node.announce(f"{exchange.name}.worker.online", b"{}")
        bench.node.announce("elsewhere.task.started", b"{}")
        drain(connection)
    ((body, message),) = heard
    assert event == body
    assert {"hostname": "w1@host"} == message.headers
    bench.node.stop()
    bench.node.announce(f"{exchange.name}.task.started", b"{}")


def test_neighbours_tell_what_is_revoked() -> None:
    """A node that comes up takes over what its neighbours know to be revoked, and stops asking."""
    first, second = Bench(namespace := new_id()), Bench(namespace)
    second.node = ControlNode("w2@host", second.settings, second.asked.append)
    try:
        first.start()
        second.start()
        first.drain()
        (hello,) = [asked for asked in first.asked if asked.arguments["arguments"]["from_node"] == "w2@host"]
        assert "hello" == hello.arguments["method"]
        first.node.answer(hello.asked, b'{"ok": {"revoked": ["id1", "id2"], "clock": 1}}')
        second.asked.clear()
        second.drain()
        (told,) = second.asked
        assert {"from_node": "w1@host", "revoked": ["id1", "id2"]} == told.arguments["arguments"]
        for timer in second.timers:
            timer()
        assert second.node._neighbours is None
    finally:
        first.close()
        second.close()


def test_a_refused_node_tries_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Where the broker refuses the node's queue (another connection has it) it is tried again."""
    errors = bench.connection.channel_errors
    real = Mailbox.node_cls.listen
    refused = iter([True, True, False])

    def listen(node: Any, *args: Any, **kwargs: Any) -> Any:
        if next(refused):
            raise errors[0]("RESOURCE_LOCKED")
        return real(node, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mailbox.node_cls, "listen", listen)
        bench.timers.clear()
        with caplog.at_level(logging.WARNING):
            bench.start()
            assert [] == bench.tell("ping")
            for _ in range(2):
                bench.timers.pop(0)()
    assert 1 == caplog.text.count("can't be controlled")
    assert "ping" == bench.tell("ping")[-1].arguments["method"]
    bench.node.announce(f"{bench.settings.event_exchange}.worker.online", b"{}")


def test_without_remote_control() -> None:
    """worker_enable_remote_control=False: commands are none of the node's, events leave."""
    bench = Bench(new_id(), enabled=False)
    try:
        bench.start()
        assert [] == bench.tell("ping")
        bench.node.announce(f"{bench.settings.event_exchange}.worker.online", b"{}")
    finally:
        bench.close()


def test_an_election_has_one_winner() -> None:
    """Each worker stands for it and hears of all candidates; the one with the smallest clock is asked."""
    benches = [Bench(namespace := new_id()), Bench(namespace), Bench(namespace)]
    for number, bench in enumerate(benches):
        bench.node = ControlNode(f"w{number}@host", bench.settings, bench.asked.append)
    try:
        for bench in benches:
            bench.start()
        for bench in benches:
            bench.drain()
            bench.asked.clear()
            bench.timers.clear()
        arguments = {"id": "e1", "topic": "task", "action": {"task": "t"}}
        benches[0].asker._publish("election", arguments)
        for _ in range(3):
            for bench in benches:
                bench.drain()
        for bench in benches:
            assert [] == bench.asked
            (decide,) = bench.timers
            decide()
            decide()
        (asked,) = [asked for bench in benches for asked in bench.asked]
        assert {"method": "election", "arguments": arguments} == asked.arguments
        assert [asked] == benches[0].asked
        benches[0].asker._publish("election", {"id": None})
        benches[0].drain()
        assert [asked] == benches[0].asked
    finally:
        for bench in benches:
            bench.close()
