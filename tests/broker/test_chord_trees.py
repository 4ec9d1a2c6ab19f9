"""Trees of chords, made up at random, with failures, retries, repeated replies and restarts anywhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Publish, new_id
from emq_compat.protocol.commands import Ready
from tests.broker.bench import CLIENT, Bench, answer, attempt_of
from tests.broker.test_chords import body, failure, request, rows, value

pytestmark = pytest.mark.unit

W = b"w.1"


@dataclass(frozen=True)
class Node:
    """A task (no parts), or a chord: parts and a body. ``end``: what the task, or the body, comes to."""

    end: str = "ok"
    retries: int = 0
    parts: tuple[Node, ...] | None = None


def _nodes() -> st.SearchStrategy[Node]:
    end = st.sampled_from(["ok"] * 8 + ["fail", "ignore", "reject", "settled"])
    retries = st.sampled_from([0, 0, 0, 1, 2])
    leaves = st.builds(Node, end=end, retries=retries)
    return st.recursive(
        leaves,
        lambda inner: st.builds(
            Node,
            end=st.sampled_from(["ok"] * 8 + ["fail"]),
            retries=retries,
            parts=st.lists(inner, max_size=4).map(tuple),
        ),
        max_leaves=12,
    )


@dataclass
class Tree:
    """The messages of a tree: bodies before their parts; what each task comes to by its id."""

    publishes: list[Any] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    #: body → the names of its parts.
    parts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, node: Node, name: str, **headers: Any) -> None:
        self.nodes[name] = node
        if node.parts is None:
            if node.end == "settled":
                head = Headers(task_id=name, settled="FAILURE", **headers)
                self.publishes.append(request(head, failure("E", name)))
            else:
                self.publishes.append(request(Headers(task_id=name, **headers)))
            return
        self.publishes.append(body(name, len(node.parts), "own", task_id=name, **headers))
        self.parts[name] = [f"{name}.{i}" for i in range(len(node.parts))]
        for i, part in enumerate(node.parts):
            self.add(part, f"{name}.{i}", chord=f"{name}:{i}")

    def succeeds(self, name: str) -> bool:
        return self.nodes[name].end == "ok" and self.runs(name)

    def runs(self, name: str) -> bool:
        """Whether the task is ever handed out."""
        return self.nodes[name].end != "settled" and all(map(self.succeeds, self.parts.get(name, ())))

    def value(self, name: str) -> Any:
        return [name, *([[self.value(part) for part in self.parts[name]]] if name in self.parts else [])]


class Play:
    """One worker that takes everything and answers in an order that is drawn."""

    def __init__(self, b: Bench, tree: Tree) -> None:
        self.b = b
        self.tree = tree
        self.held: list[Dispatch] = []
        self.answered: list[Any] = []
        #: task → how often it was handed out.
        self.runs: dict[str, int] = {}

    def took(self, handed: list[Dispatch]) -> None:
        for d in handed:
            name = Headers.decode(d.header_text).task_id
            self.runs[name] = self.runs.get(name, 0) + 1
            if name in self.tree.parts:
                expected = [[self.tree.value(part) for part in self.tree.parts[name]], "own"]
                assert expected == json.loads(d.payload)[1]["args"]
            self.held.append(d)

    def come(self) -> None:
        held = tuple((d.msgid, attempt_of(d), True) for d in self.held)
        self.took(self.b.worker(W, slots=1000, credit=1000, held=held))

    def answer(self, d: Dispatch) -> None:
        name = Headers.decode(d.header_text).task_id
        node = self.tree.nodes[name]
        self.held.remove(d)
        if self.runs[name] <= node.retries:
            headers = Headers.decode(d.header_text.rpartition(",attempt:")[0])
            again = Publish(queue="q", headers=headers, payload=d.payload)
            reply = answer(d, "RETRY", (again,), b"{}")
        elif node.end == "ok":
            reply = answer(d, body=value(self.tree.value(name)))
        else:
            state = {"fail": "FAILURE", "ignore": "IGNORED", "reject": "REJECTED"}[node.end]
            reply = answer(d, state, body=failure("E", name))
        self.answered.append(reply)
        self.took(self.b.handed((W, reply), (W, Ready(msgid=new_id(), count=1))))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(root=_nodes(), data=st.data())
def test_a_body_runs_once_with_its_values_or_ends_as_a_chord_error(root: Node, data: st.DataObject) -> None:
    """Whatever order parts end in: right values to each body, one run, a final state, no row left."""
    if root.parts is None:
        root = Node(parts=(root,))
    tree = Tree()
    tree.add(root, "r")
    b = Bench()
    try:
        play = Play(b, tree)
        restart = st.integers(0, 9).map(lambda n: n == 0)
        play.come()
        left = list(tree.publishes)
        while left or play.held:
            if data.draw(restart):
                b.restart()
                play.come()
            if play.answered and data.draw(restart):
                play.took(b.handed((W, data.draw(st.sampled_from(play.answered)))))
            if left and (not play.held or data.draw(st.booleans())):
                n = data.draw(st.integers(1, len(left)))
                play.took(b.handed(*[(CLIENT, r) for r in left[:n]]))
                del left[:n]
            if play.held:
                play.answer(data.draw(st.sampled_from(play.held)))
        for name, node in tree.nodes.items():
            expected = 1 + node.retries if tree.runs(name) else 0
            assert expected == play.runs.get(name, 0), name
            stored = b.store.results([name]).get(name)
            if tree.succeeds(name):
                assert stored is not None
                assert "SUCCESS" == stored.state
            elif node.end not in ("ignore", "reject"):
                assert stored is not None
                assert "FAILURE" == stored.state
                if not tree.runs(name) and name in tree.parts:
                    assert "ChordError" == json.loads(stored.body)["error"]["type"]
        assert (0, 0, 0) == rows(b)
        assert {} == b.engine.chords.by_id
        assert {} == b.engine.chords.by_task
        queue = b.engine.queues.by_name["q"]
        assert (0, 0, 0) == (queue.waiting, queue.delayed, queue.held)
    finally:
        Bench.opened.remove(b)
        b.store.close()
