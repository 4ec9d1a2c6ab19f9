"""Workflows end to end: what each canvas comes to, in each pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emq_compat.celery_shim import chain, chord, group
from emq_compat.shim.exceptions import ChordError
from tests.cases.conftest import assert_nothing_queued
from tests.processes import wait_until
from tests.site import Site

pytestmark = pytest.mark.cases


Make = Callable[[Any], Any]

VALUES: dict[str, tuple[Make, Any]] = {
    "task | task": (lambda t: t.add.s(1, 2) | t.add.s(3), 6),
    "a long chain": (lambda t: chain(t.add.s(0, 1), *(t.add.s(1) for _ in range(20))), 21),
    "a chain of one": (lambda t: chain(t.add.s(1, 2)), 3),
    "an immutable step": (lambda t: t.add.s(1, 1) | t.add.si(5, 5), 10),
    "a chain in a chain": (lambda t: chain(t.add.s(1), chain(t.add.s(2), t.add.s(3)), t.add.s(4)), 10),
    "group": (lambda t: group(t.add.s(i, i) for i in range(5)), [0, 2, 4, 6, 8]),
    "an empty group": (lambda t: group([]), []),
    "group | task": (lambda t: group(t.add.s(1, 1), t.add.s(2, 2)) | t.total.s(), 6),
    "task | group": (lambda t: t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)), [3, 4]),
    "task | group | task": (lambda t: t.add.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s(), 5),
    "chord": (lambda t: chord([t.add.s(i, i) for i in range(9)], t.same.s()), [2 * i for i in range(9)]),
    "a chord with an empty header": (lambda t: chord([], t.same.s()), []),
    "a chord of one": (lambda t: chord([t.add.s(1, 1)], t.same.s()), [2]),
    "a chord, its body a chain": (lambda t: chord([t.add.s(1), t.add.s(2)], t.total.s() | t.add.s(4)), 7),
    "a chord, its body a group": (
        lambda t: chord([t.add.s(1), t.add.s(2)], group(t.total.s(), t.same.s())),
        [3, [1, 2]],
    ),
    "a chord, its body a chord": (
        lambda t: chord([t.add.s(1), t.add.s(2)], chord([t.total.s(), t.total.s()], t.same.s())),
        [3, 3],
    ),
    "a chord, its body a chain that begins with a group": (
        lambda t: chord([t.add.s(1), t.add.s(2)], group(t.total.s(), t.total.s()) | t.total.s() | t.add.s(1)),
        7,
    ),
    "an immutable body": (lambda t: chord([t.add.s(1)], t.add.si(3, 4)), 7),
    "a chord of a chord": (
        lambda t: chord([chord([t.add.s(1), t.add.s(2)], t.total.s()), t.add.s(9)], t.same.s()),
        [3, 9],
    ),
    "chord | task, group | group": (
        lambda t: group(t.add.s(1), t.add.s(2)) | group(t.total.s(), t.total.s()) | t.same.s(),
        [3, 3],
    ),
    "a group in a group": (
        lambda t: group(group(t.add.s(1), t.add.s(2)), t.add.s(3)) | t.same.s(),
        [1, 2, 3],
    ),
    "a header of chains that end in groups": (
        lambda t: chord([t.add.s(1) | group(t.add.s(1), t.add.s(2)), t.add.s(7)], t.same.s()),
        [[2, 3], 7],
    ),
    "case 16": (
        lambda t: (
            group(chain(t.add.s(1), group(t.add.s(1), t.add.s(2)), t.total.s()), t.add.s(5)) | t.same.s()
        ),
        [5, 5],
    ),
    "case 16, three levels": (
        lambda t: (
            group(
                chain(
                    t.add.s(1),
                    group(t.add.s(1) | group(t.add.s(1), t.add.s(2)) | t.total.s(), t.add.s(2)),
                    t.total.s(),
                ),
                group(t.add.s(4), t.add.s(5) | t.add.s(1)),
            )
            | t.same.s()
        ),
        [10, 4, 6],
    ),
    "case 16, retries in the header": (
        lambda t: chord([*(t.flaky.s(i) for i in (0, 1)), *(t.add.s(i) for i in (2, 3, 4))], t.same.s()),
        [0, 1, 2, 3, 4],
    ),
    "map": (lambda t: t.total.map([[1], [2, 3]]), [1, 5]),
    "starmap": (lambda t: t.add.starmap([(1, 1), (2, 2)]), [2, 4]),
    "chunks": (lambda t: t.add.chunks([(1, 1), (2, 2), (3, 3)], 2), [[2, 4], [6]]),
    "chunks | task": (lambda t: t.add.chunks([(1, 1), (2, 2)], 1) | t.same.s(), [[2], [4]]),
    "replaced": (lambda t: t.replaced.s(t.add.s(1, 2)) | t.add.s(3), 6),
    "replaced by a chain": (lambda t: t.replaced.s(t.add.s(1, 2) | t.add.s(4)) | t.add.s(3), 10),
    "replaced by a group": (lambda t: t.replaced.s(group(t.add.s(1), t.add.s(2))) | t.total.s(), 3),
    "replaced by a chord": (lambda t: t.replaced.s(chord([t.add.s(1), t.add.s(2)], t.total.s())), 3),
    "replaced in a header": (
        lambda t: chord([t.replaced.s(t.add.s(1, 2)), t.replaced.s(t.add.s(3) | t.add.s(1))], t.same.s()),
        [3, 4],
    ),
    "replaced in a header by a group": (
        lambda t: chord([t.replaced.s(group(t.add.s(1), t.add.s(2))), t.add.s(5)], t.same.s()),
        [[1, 2], 5],
    ),
    "replaced in a header by a chain that ends in a group": (
        lambda t: chord([t.replaced.s(t.add.s(1) | group(t.add.s(1), t.add.s(2))), t.add.s(5)], t.same.s()),
        [[2, 3], 5],
    ),
    "replaced twice": (lambda t: t.replaced.s(t.replaced.s(t.add.s(1, 2))) | t.add.s(1), 4),
    "a body that is replaced": (lambda t: chord([t.add.s(1)], t.replaced.si(t.add.s(1, 2)) | t.add.s(1)), 4),
    "a chord that grows": (lambda t: chord([t.growing.s(1, 5), t.add.s(2)], t.same.s()), [1, 5, 2]),
    "a body with a countdown": (lambda t: chord([t.add.s(1)], t.same.s().set(countdown=0.2)), [1]),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_canvas_has_its_value(flows: Site, name: str) -> None:
    """Cases 16 and 42: each form of canvas ends, with its values in the header's order."""
    make, wanted = VALUES[name]

    assert wanted == make(flows.tasks).apply_async().get(timeout=20)


@pytest.mark.parametrize("name", [name for name in VALUES if name.startswith("case 16")])
def test_the_last_task_runs_once(flows: Site, name: str) -> None:
    """Case 16: what the nested groups are joined to runs once, within 5 s, with the values in order."""
    make, wanted = VALUES[name]
    mark = name.replace(" ", "-").replace(",", "")
    before = flows.count(f"ran {mark}")
    result = (make(flows.tasks) | flows.tasks.marked.s(mark)).apply_async()

    assert wanted == result.get(timeout=5)
    assert_nothing_queued(flows, 0.2)
    assert before + 1 == flows.count(f"ran {mark}")


def test_results_know_their_parents(flows: Site) -> None:
    """``parent`` walks back through a chain, over the group in front of a chord's body."""
    t = flows.tasks
    result = (t.add.s(1, 1) | group(t.add.s(1), t.add.s(2)) | t.total.s() | t.add.s(1)).apply_async()

    assert 8 == result.get(timeout=20)
    assert 7 == result.parent.get(timeout=20)
    assert [3, 4] == result.parent.parent.get(timeout=20)
    assert 2 == result.parent.parent.parent.get(timeout=20)
    assert result.parent.parent.parent.parent is None


def test_steps_know_root_parent_and_group(flows: Site) -> None:
    """root_id is the first task's throughout; parent_id the one before; a body's is one of its header."""
    t = flows.tasks
    result = (t.context.s() | group(t.context.s(i) for i in range(3)) | t.context.s()).apply_async()

    body = result.get(timeout=20)
    header = result.parent
    first = header.parent
    assert {first.id} == {body["root"], *(part["root"] for part in header.get(timeout=20))}
    assert {first.id} == {part["parent"] for part in header.get(timeout=20)}
    assert {header.id} == {part["group"] for part in header.get(timeout=20)}
    assert [0, 1, 2] == [part["index"] for part in header.get(timeout=20)]
    assert body["parent"] in [part.id for part in header]


def test_a_retry_keeps_options_and_chain(flows: Site) -> None:
    """Case 13: each attempt has the queue, priority, headers and root; the chain goes on once."""
    t = flows.tasks
    times = 2
    before = flows.count("attempt")
    flaky = t.flaky.s(times=times).set(queue="q2", priority=5, headers={"own": "x"})
    result = (t.add.s(1, 2) | flaky | t.marked.s("case13")).apply_async()

    assert 3 == result.get(timeout=20)
    root = result.parent.parent.id
    attempts = [line for line in flows.runs() if line.startswith("attempt ")][before:]
    assert [f"attempt {n} q2 5 x {root}" for n in range(times + 1)] == attempts
    assert 1 == flows.count("ran case13")


def test_a_retry_keeps_the_expiry(flows: Site) -> None:
    """Case 13: a task with expires 2 that retries with countdown 3 runs once and ends REVOKED."""
    before = flows.count("late")
    result = flows.tasks.late.apply_async(expires=2)

    wait_until(lambda: result.state == "REVOKED", 15)
    assert_nothing_queued(flows)
    assert ("REVOKED", before + 1) == (result.state, flows.count("late"))


def test_a_failing_step_ends_what_comes_later(flows: Site) -> None:
    """Later steps end as FAILURE with the same exception, those inside a chord, too; none of them runs."""
    t = flows.tasks
    result = chain(
        t.add.s(1), t.boom.s(), group(t.marked.s("no"), t.marked.s("no")), t.marked.s("no"), t.marked.s("no")
    ).apply_async()

    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    body, header = result.parent, result.parent.parent
    # With our broker that is one transaction; another store gets one after the other.
    if flows.tasks.app.conf.result_backend:
        wait_until(lambda: all(r.ready() for r in (body, *header)))
    assert ["FAILURE"] * 3 == [r.state for r in (body, *header)]
    assert 1 == header.parent.parent.get(timeout=20)
    assert 0 == flows.count("ran no")


def test_a_failing_chain_in_a_chord_fails_the_chord(flows: Site) -> None:
    """Case 17: the end is a ChordError that names who failed; what was to come later has an end."""
    t = flows.tasks
    boom = t.boom.s()
    culprit = boom.freeze().id
    inner = chain(t.add.s(1), boom, t.marked.s("after"))
    after = inner.tasks[-1].freeze()
    result = chain(group(inner, t.add.s(1)), t.marked.s("ok2")).apply_async()

    with pytest.raises(ChordError, match=rf"Dependency {culprit} raised ValueError\('boom'\)"):
        result.get(timeout=5, follow_parents=False)
    assert ("FAILURE", "FAILURE") == (result.state, after.state)
    assert_nothing_queued(flows)
    assert 0 == flows.count("ran after") + flows.count("ran ok2")


@pytest.mark.long
def test_no_message_polls_for_a_failed_chord(flows: Site) -> None:
    """Case 17: for ten seconds after the chord's failure nothing is queued or published."""
    t = flows.tasks
    steps = chain(group(chain(t.add.s(1), t.boom.s(), t.add.s(1)), t.add.s(1)), t.marked.s("polled"))
    result = steps.apply_async()

    with pytest.raises(ChordError):
        result.get(timeout=5, follow_parents=False)
    assert_nothing_queued(flows, 10)
    assert 0 == flows.count("ran polled")


def test_a_failing_inner_chord_fails_the_outer_one(flows: Site) -> None:
    """Case 17: a chord of chains with an inner chord that fails: both bodies end, neither runs."""
    t = flows.tasks
    boom = t.boom.s()
    culprit = boom.freeze().id
    inner = chord([boom, t.add.s(1)], t.marked.s("inner") | t.marked.s("inner"))
    result = chord([t.add.s(1) | inner, t.add.s(2) | t.add.s(1)], t.marked.s("outer")).apply_async()

    with pytest.raises(ChordError, match=culprit):
        result.get(timeout=5, follow_parents=False)
    assert_nothing_queued(flows)
    assert 0 == flows.count("ran inner") + flows.count("ran outer")


@pytest.mark.parametrize(
    "body",
    [
        lambda t: group(t.marked.s("b"), t.marked.s("b")),
        lambda t: group(t.marked.s("b"), t.marked.s("b")) | t.marked.s("b"),
        lambda t: t.marked.s("b") | t.marked.s("b"),
    ],
    ids=["group", "chord", "chain"],
)
def test_a_body_of_several_tasks_ends_with_its_header(flows: Site, body: Any) -> None:
    """Nobody waits in vain for any task of a body whose chord failed."""
    t = flows.tasks
    result = chord([t.boom.s(), t.add.s(1)], body(t)).apply_async()

    for last in getattr(result, "results", [result]):
        with pytest.raises(ChordError):
            last.get(timeout=10, follow_parents=False)
    assert 0 == flows.count("ran b")


def test_every_member_has_the_priority(flows: Site) -> None:
    """Case 35 (d): a chain's and a chord's priority is that of each of their tasks."""
    t = flows.tasks
    steps = chain(t.context.s(), t.context.s(), group(t.context.s(), t.context.s()), t.context.s())
    result = steps.apply_async(priority=7)

    seen = [result.get(timeout=20), *result.parent.get(timeout=20), result.parent.parent.get(timeout=20)]
    assert [7] * 4 == [task["priority"] for task in seen]
    assert 7 == result.parent.parent.parent.get(timeout=20)["priority"]


@pytest.mark.parametrize("how", ["call", "each"])
def test_every_part_of_a_chord_has_the_priority(flows: Site, how: str) -> None:
    """Case 35 (d): parts, also those that are chains or chords, and bodies, have it, given either way."""
    t = flows.tasks
    step = t.context.s().set(priority=7) if how == "each" else t.context.s()
    inner = chord([step.clone(), step.clone()], step.clone())
    sig = chord([step.clone(), chain(step.clone(), step.clone()), inner], step.clone() | step.clone())
    result = sig.apply_async(**({"priority": 7} if how == "call" else {}))

    last = result.get(timeout=20)
    seen: list[Any] = []

    def gather(value: Any) -> None:
        if isinstance(value, dict):
            seen.append(value["priority"])
            value = value["args"]
        for one in value if isinstance(value, list) else ():
            gather(one)

    gather(last)
    assert [7] * 8 == seen


def test_a_revoked_head_ends_its_chain(flows: Site) -> None:
    """Case 38 (d): no later step of a chain whose head was revoked runs; each ends REVOKED."""
    t = flows.tasks
    result = chain(t.add.s(1, 1).set(countdown=60), t.marked.s("38d"), t.marked.s("38d")).apply_async()
    result.parent.parent.revoke()

    wait_until(lambda: all(r.ready() for r in (result, result.parent, result.parent.parent)), 10)
    assert ["REVOKED"] * 3 == [r.state for r in (result, result.parent, result.parent.parent)]
    assert 0 == flows.count("ran 38d")


def test_a_head_that_is_terminated_ends_its_chain(flows: Site) -> None:
    """Case 38 (d): the same while the head runs; a chord that the chain is a part of fails."""
    t = flows.tasks
    head = t.sleep.s(30, "38d-running")
    head_id = head.freeze().id
    steps = chain(head, t.marked.s("38d"), t.marked.s("38d"))
    result = chord([steps, t.add.s(1)], t.marked.s("38d")).apply_async()
    flows.wait_runs("start 38d-running")
    t.app.control.revoke(head_id, terminate=True)

    with pytest.raises(ChordError, match=head_id):
        result.get(timeout=10, follow_parents=False)
    step = result.parent[0]
    wait_until(lambda: step.state == "REVOKED", 10)
    assert ["REVOKED", "REVOKED"] == [step.parent.state, step.parent.parent.state]
    assert (0, 0) == (flows.count("ran 38d"), flows.count("end 38d-running"))


def test_callbacks_get_the_value(flows: Site) -> None:
    """Each callback is called with the value, once, with its own options."""
    t = flows.tasks
    callback = t.context.s().set(queue="q2", priority=3)
    callback_id = callback.freeze().id
    add = t.add.s(1, 1)
    add.link(callback)
    add.link(t.marked.s("linked"))
    result = add.apply_async()

    assert 2 == result.get(timeout=20)
    flows.wait_runs("ran linked 2")
    told = t.app.AsyncResult(callback_id).get(timeout=20)
    assert [[2], 3, result.id] == [told["args"], told["priority"], told["parent"]]


def test_stamps_reach_every_task(flows: Site) -> None:
    """Stamps are in the request of each task of a canvas, its body and its callbacks."""
    t = flows.tasks
    sig = chain(t.context.s(), group(t.context.s(), t.context.s()), t.context.s())
    sig.stamp(tenant="acme")
    result = sig.apply_async()

    seen = [result.get(timeout=20), *result.parent.get(timeout=20), result.parent.parent.get(timeout=20)]
    assert [{"tenant": "acme"}] * 4 == [task["stamps"] for task in seen]


def test_a_header_of_500(flows: Site) -> None:
    """Case 16: a header of 500 ends within 20 s, in order."""
    t = flows.tasks

    assert list(range(500)) == chord((t.same.s(i) for i in range(500)), t.same.s())().get(timeout=20)
