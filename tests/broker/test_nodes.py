"""Nodes that are no workers, and answer questions to workers: they have subscribed to a verb's topic."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emq_compat.broker.asks import Asks
from emq_compat.broker.records import Send
from emq_compat.message import new_id
from emq_compat.protocol.commands import Answer, Ask
from tests.broker.bench import CLIENT, Bench

pytestmark = pytest.mark.unit
NODE = b"client.node"


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.asks = Asks(made.engine, lambda file, done: None, made.now)  # type: ignore[attr-defined]
    return made


def _ask(bench: Bench, who: bytes, verb: str, /, **arguments: Any) -> list[Any]:
    """Ask; returns the answers (parsed) that clients are sent in that turn."""
    sent = bench.turn((who, Ask(msgid=new_id(), verb=verb, arguments=arguments)))
    answers = [s for s in sent if isinstance(s, Send) and isinstance(s.command, Answer)]
    return [(s.identity, json.loads(s.command.body)) for s in answers]  # type: ignore[union-attr]


def _told(bench: Bench) -> list[dict[str, Any]]:
    return [json.loads(message.payload) for message, clients in bench.engine.topics.take() if clients]


def test_a_node_answers_what_it_has_subscribed_to(bench: Bench) -> None:
    """It is told of the question under its topic; its answer is the inspection's, under its name."""
    _ask(bench, NODE, "subscribe", topics=["ask.ping.beat@here"])
    assert [] == _ask(bench, CLIENT, "inspect", verb="ping", arguments={"a": 1})
    [question] = _told(bench)
    assert {"a": 1} == question["arguments"]
    told = dict(_ask(bench, NODE, "answer", asked=question["asked"], node="beat@here", ok="pong"))
    assert {"ok": True} == told[NODE]
    assert {"ok": {"beat@here.beside": {"ok": "pong"}}} == told[CLIENT]
    late = _ask(bench, NODE, "answer", asked=question["asked"], node="beat@here", ok="pong")
    assert [(NODE, {"ok": False})] == late


@pytest.mark.parametrize(
    ("verb", "destination"), [("active", None), ("ping", ["celery@there"]), ("ping", [])]
)
def test_a_node_is_not_asked_what_is_not_for_it(
    bench: Bench, verb: str, destination: list[str] | None
) -> None:
    """Neither another verb nor a question to others; nobody waits for its answer."""
    _ask(bench, NODE, "subscribe", topics=["ask.ping.beat@here"])
    answer = _ask(bench, CLIENT, "inspect", verb=verb, destination=destination)
    assert [(CLIENT, {"ok": {}})] == answer
    assert [] == _told(bench)


def test_an_answer_of_another_node_is_none(bench: Bench) -> None:
    """The name that was asked counts; what is wrong is named."""
    _ask(bench, NODE, "subscribe", topics=["ask.ping.beat@here"])
    _ask(bench, CLIENT, "inspect", verb="ping", timeout_s=1.0)
    [question] = _told(bench)
    assert 1 == len(_ask(bench, NODE, "answer", asked=question["asked"], node="beat@there", ok="pong"))
    [(_, wrong)] = _ask(bench, NODE, "answer", asked=3, node="beat@here")
    assert "'asked'" in wrong["error"]["message"]
