"""Chains so long that their later steps travel in runs (emq_compat/chain_steps.py)."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from emq_compat import chain_steps
from emq_compat.celery_message import message_of
from emq_compat.celery_shim import Celery, chain, chord
from emq_compat.chain_steps import LONG, RUN, Steps, carried, steps_of
from emq_compat.errors import MessageError
from emq_compat.message import FAILURE, SUCCESS, Job
from emq_compat.shim.canvas.kinds import _chain
from emq_compat.stored import StoredResult
from tests.shim.recorder import Recorder, Worker

pytestmark = pytest.mark.unit

LINKS = 3 * LONG


@pytest.mark.parametrize("count", [1, LONG - 1, LONG, LONG + 1, 2 * RUN, LINKS])
def test_steps_come_out_as_they_went_in(count: int) -> None:
    """One by one and all at once, however many there are; few stand as they are."""
    steps = [{"task": str(number)} for number in range(count)]
    members = json.loads(json.dumps(carried(steps, json.dumps)))
    assert ("rest" in members) == (count >= LONG)
    assert len(members["chain"]) <= (RUN if count >= LONG else LONG)
    assert steps == steps_of(members)
    left, seen = Steps(members["chain"], members.get("rest", ())), []
    while left:
        step, left = left.next()
        seen.append(step)
    assert steps == seen[::-1]
    assert dict(carried(left, json.dumps)) == {"chain": []}


@pytest.mark.parametrize(
    "run",
    [
        "%",
        base64.b64encode(b"no zlib").decode(),
        base64.b64encode(zlib.compress(b"{}")).decode(),
        base64.b64encode(zlib.compress(b"[" * 100_000)).decode(),
        base64.b64encode(zlib.compress(b" " * 3000)).decode(),
    ],
)
def test_a_run_that_can_not_be_read_is_named(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No base64, no zlib, no list, or more than anybody sends: a MessageError, and no memory for it."""
    monkeypatch.setattr(chain_steps, "_LIMIT_BYTES", 2000)
    with pytest.raises(MessageError, match="later steps of a chain can't be read"):
        Steps([], [run]).next()


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(name="add", bind=True, max_retries=1)
    def add(self: Any, x: int, y: int = 1, retried: bool = False, fails: bool = False) -> int:
        if retried and not self.request.retries:
            raise self.retry(countdown=0)
        if fails:
            raise ValueError("no")
        left.append(len(self.request.chain or ()))
        return x + y

    left: list[int] = []
    add.left = left
    return add


def test_a_long_chain_runs_to_its_end(client: Recorder, worker: Worker, add: Any) -> None:
    """Each step sees all that come after it; one that is tried again keeps them."""
    steps = [add.s() for _ in range(LINKS)]
    steps[3] = add.s(retried=True)
    result = chain(add.s(0), *steps).apply_async()
    assert '"rest"' in client.last.payload.decode()
    worker.run_to_end(client.last)
    assert LINKS + 1 == result.get(disable_sync_subtasks=False)
    assert list(range(LINKS, -1, -1)) == add.left


def test_a_chords_body_takes_the_later_steps_over(
    app: Celery, client: Recorder, worker: Worker, add: Any
) -> None:
    """Where a chord comes in a long chain, its body carries all that come after it."""

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    later = [add.s(number) for number in range(LINKS)]
    made = chain(add.s(0), _chain([add.s()]), chord([add.s(), add.s()], total.s()))
    made.tasks = [*made.tasks, *later]
    made.apply_async()
    reply = worker.run(worker.run(client.last).follow_ups[0])
    [body] = [message for message in reply.follow_ups if message.headers.awaits]
    steps = steps_of(Job.decode(body.payload).celery)
    assert [[number] for number in reversed(range(LINKS))] == [step["args"] for step in steps]


def test_a_failed_step_ends_all_that_come_later(client: Recorder, worker: Worker, add: Any) -> None:
    """Also those in runs."""
    result = chain(add.s(0), add.s(fails=True), *[add.s() for _ in range(LINKS)]).apply_async()
    [failing] = worker.run(client.last).follow_ups
    ends = worker.run(failing).follow_ups
    assert {task.id for task in _parents(result)[:-2]} == {end.headers.task_id for end in ends}
    assert {FAILURE} == {end.headers.settled for end in ends}


def test_who_waits_for_a_chain_is_not_told_of_each_step(client: Recorder, add: Any) -> None:
    """The last result ends the waiting, whatever is known of the others; a failure among them is raised."""
    result = chain(add.s(0), add.s(), add.s()).apply_async()
    client.stored[result.id] = StoredResult(SUCCESS, reply={"value": 3, "state": SUCCESS})
    assert 3 == result.get(timeout=1)
    again = chain(add.s(0), add.s(fails=True), add.s()).apply_async()
    error = {"type": "ValueError", "module": "builtins", "args": ["no"], "message": "no"}
    client.stored[again.parent.id] = StoredResult(FAILURE, reply={"state": FAILURE, "error": error})
    with pytest.raises(ValueError, match="no"):
        again.get(timeout=1)


def _parents(result: Any) -> list[Any]:
    found = []
    while result is not None:
        found.append(result)
        result = result.parent
    return found


def test_celerys_worker_gets_all_steps(client: Recorder, add: Any) -> None:
    """The Celery message of a long chain has its steps as Celery has them."""
    chain(add.s(0), *[add.s(number) for number in range(LINKS)]).apply_async()
    message = message_of(client.last.headers, client.last.payload)
    embedded = json.loads(message.body)[2]
    assert [[number] for number in reversed(range(LINKS))] == [step["args"] for step in embedded["chain"]]
    assert "rest" in Job.decode(client.last.payload).celery


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_that_is_a_part_of_a_genuine_chord_is_counted(
    client: Recorder, worker: Worker, add: Any, fails: bool
) -> None:
    """A chain in the header of genuine Celery's chord: our broker is told of its last step's end."""
    body = {"task": "total", "emq": {"chord": "c", "places": {}}}
    last = add.s().set(task_id="last", chord=body, group_index=3)
    add.s(1, fails=fails).apply_async(chain=[dict(last)])
    [message] = worker.run(client.last).follow_ups
    assert ("last", "c:3") == (message.headers.task_id, message.headers.chord)
