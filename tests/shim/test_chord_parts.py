"""The ends of chords that a result backend counts, with a store and a client of the test's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from pytest_mock import MockerFixture

from emq_compat.backends.base import Tree
from emq_compat.backends.chords import ChordCounter, Claim, PartResult
from emq_compat.celery_shim import Celery
from emq_compat.errors import NotPublished
from emq_compat.failures import failure_of
from emq_compat.ids import new_id
from emq_compat.message import Publish
from emq_compat.shim import flow
from emq_compat.shim.chord_parts import Part, ended, settle
from emq_compat.shim.request import Context

pytestmark = pytest.mark.unit


class Counter(ChordCounter):
    """Says that each end is the last one."""

    def __init__(self, *ends: PartResult, owned: bool = True) -> None:
        self.ends = ends
        self.owned = owned
        self.told: list[str] = []

    def begin(self, chord: str, size: int, tree: Tree | None) -> None: ...
    def grow(self, chord: str) -> None: ...

    def ended(self, chord: str, part: PartResult, index: int | None) -> Claim | None:
        self.told.append(f"ended {part.state}")
        return Claim(chord=chord, token="t")

    def results(self, claim: Claim) -> Sequence[PartResult]:
        return self.ends

    def extend(self, claim: Claim, seconds: float) -> bool:
        return self.owned

    def finish(self, claim: Claim) -> None:
        self.told.append("finished")

    def abandon(self, chord: str) -> None:
        self.told.append("abandoned")


class Client:
    """Keeps what is published, or raises."""

    stock = False
    is_kombu = True

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.sent: list[Publish] = []

    def publish_all(self, messages: Iterable[Publish]) -> None:
        if self.away:
            raise NotPublished("away", msgids=tuple(message.msgid for message in messages))
        self.sent += messages


@pytest.fixture
def app() -> Celery:
    made: Any = Celery("parts", broker="filesystem://", backend="cache+memory://", set_as_current=False)

    @made.task(name="parts.total", shared=False)
    def total(values: list[int]) -> int:
        return sum(values)

    made.client = Client()
    return made  # type: ignore[no-any-return]


def part(**options: Any) -> Part:
    """A part of a chord whose body has these options."""
    body = {"task": "parts.total", "args": [], "kwargs": {}, "options": options, "subtask_type": None}
    return Part(task_id="p", group="g", index=0, body={**body, "immutable": False})


def result(task_id: str, value: Any, state: str = "SUCCESS") -> PartResult:
    return PartResult(task_id=task_id, state=state, result=value)


def test_the_last_end_publishes_the_body(app: Celery) -> None:
    """The body is called with the values, is the part's child, and the chord is forgotten afterwards."""
    counter = app.backend.store.chords = Counter(result("p", 1), result("q", 2))

    left = ended(app.backend, part(task_id="b"), "SUCCESS", {"value": 1})

    assert [] == left
    [message] = app.client.sent  # type: ignore[attr-defined]
    assert "b" == message.headers.task_id
    assert b'"args":[[1,2]]' in message.payload.replace(b" ", b"")
    assert b'"parent_id":"p"' in message.payload.replace(b" ", b"")
    assert ["ended SUCCESS", "finished"] == counter.told


def test_a_broker_that_is_away_gets_the_body_later(app: Celery) -> None:
    """What can't be published now is given to the worker, which publishes it before it acknowledges."""
    app.client = Client(away=True)  # type: ignore[assignment]
    counter = app.backend.store.chords = Counter(result("p", 1))

    [message] = ended(app.backend, part(task_id="b"), "SUCCESS", {"value": 1})

    assert "b" == message.headers.task_id
    assert "finished" == counter.told[-1]


def test_a_claim_that_another_one_has(app: Celery) -> None:
    """Whoever has lost its claim publishes nothing, and forgets nothing."""
    counter = app.backend.store.chords = Counter(result("p", 1), owned=False)

    assert [] == ended(app.backend, part(task_id="b"), "SUCCESS", {"value": 1})

    assert [] == app.client.sent  # type: ignore[attr-defined]
    assert ["ended SUCCESS"] == counter.told


def test_a_part_that_failed_ends_the_body_and_the_chord_around_it(app: Celery) -> None:
    """The body's end is stored, is told to the outer chord, and nothing is published."""
    ids = new_id(), new_id()
    failure = {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    counter = app.backend.store.chords = Counter(result("p", failure, "FAILURE"))
    outer = part(task_id=ids[1]).body

    left = ended(
        app.backend,
        part(task_id=ids[0], group_id="outer", group_index=0, chord=outer),
        "FAILURE",
        {"error": {"type": "ValueError", "args": ["no"]}},
    )

    assert [] == left
    assert ["ended FAILURE", "abandoned", "ended FAILURE", "abandoned"] == counter.told
    for task_id in ids:
        stored = app.backend.get_task_meta(task_id)
        assert ("FAILURE", "ChordError") == (stored["status"], type(stored["result"]).__name__)
    assert "Dependency p raised ValueError('no')" in str(app.backend.get_task_meta(ids[0])["result"])


def test_who_sees_a_step_end_finds_those_behind_it_ended(app: Celery, mocker: MockerFixture) -> None:
    """A waiter looks at any step of the chain while the others' ends are being stored."""
    backend, seen = app.backend, []
    names = [new_id() for _ in range(3)]
    steps = [
        {"task": "parts.total", "args": [], "kwargs": {}, "options": {"task_id": name}} for name in names
    ]
    error = ValueError("first")
    ends = flow.failed(
        app,
        Context(id="first", task="parts.total", chain=list(reversed(steps))),
        "celery",
        state="FAILURE",
        exc=error,
        failure=failure_of(error),
    )
    assert names == [end.headers.task_id for end in ends]
    write = backend.write

    def looked_at(task_id: str, *rest: Any) -> None:
        write(task_id, *rest)
        seen.append([backend.get_state(name) for name in names])

    mocker.patch.object(backend, "write", looked_at)
    settle(backend, ends)

    over, waiting = "FAILURE", "PENDING"
    assert [[waiting, waiting, over], [waiting, over, over], [over, over, over]] == seen
