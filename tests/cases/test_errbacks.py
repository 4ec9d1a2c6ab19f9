"""Errbacks of workflows, and what is left of a workflow whose step was lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emq_compat.celery_shim import chain, chord, group
from emq_compat.shim.exceptions import ChordError
from tests.cases.conftest import assert_nothing_queued
from tests.cases.workflows import open_workflow_site
from tests.processes import wait_until
from tests.site import Site

pytestmark = pytest.mark.cases


def test_errbacks_of_a_chord_are_called_once(flows: Site) -> None:
    """Case 19: three of ten fail at different times: each errback of the body once, the body never."""
    t = flows.tasks
    body = t.marked.s("never").on_error(t.new_errback.s()).on_error(t.old_errback.s())
    header = [t.add.s(1)] * 7 + [t.boom_later.s(pause) for pause in (0, 0.2, 0.4)]
    result = chord(header, body).apply_async()

    with pytest.raises(ChordError):
        result.get(timeout=20, follow_parents=False)
    flows.wait_runs(f"old {result.id}")
    wait_until(lambda: all(part.ready() for part in result.parent), 20)
    # Errbacks run on the one queue that the worker has emptied by then.
    assert 1 == t.add.delay(1).get(timeout=20)
    assert 1 == flows.count(f"new {result.id} ChordError") == flows.count(f"old {result.id}")
    assert 0 == flows.count("ran never")


def test_errbacks_of_a_group_are_called_for_each_failed_member(flows: Site) -> None:
    """Case 19: an errback on a group of ten, of which three fail, is called three times."""
    t = flows.tasks
    members = group([t.add.s(1)] * 7 + [t.boom.s()] * 3)
    members.link_error(t.new_errback.s())
    members.link_error(t.old_errback.s())
    result = members.apply_async()

    wait_until(lambda: all(part.ready() for part in result), 20)
    for part in result.results[7:]:
        flows.wait_runs(f"new {part.id} ValueError True")
        flows.wait_runs(f"old {part.id}")
    told = [line for line in flows.runs() for part in result if part.id in line]
    assert 6 == len(told)


def test_errbacks_of_a_chain_are_called_once(flows: Site) -> None:
    """Case 19: the second of four fails: each errback once, with that step; later steps don't run."""
    t = flows.tasks
    steps = chain(t.add.s(1), t.boom.s(), t.marked.s("later"), t.marked.s("later"))
    steps.link_error(t.new_errback.s())
    steps.link_error(t.old_errback.s())
    result = steps.apply_async()

    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    failed = result.parent.parent
    flows.wait_runs(f"old {failed.id}")
    assert 1 == flows.count(f"new {failed.id} ValueError True") == flows.count(f"old {failed.id}")
    ids = [result.id, result.parent.id, failed.parent.id]
    assert [] == [
        line for line in flows.runs() for one in ids if line.startswith(("new ", "old ")) and one in line
    ]
    assert 0 == flows.count("ran later")


def test_errbacks_that_are_given_with_the_call(flows: Site) -> None:
    """Case 19: link_error as an option is as good as link_error(): both forms, for each kind of canvas."""
    t = flows.tasks
    both = [t.new_errback.s(), t.old_errback.s()]
    steps = chain(t.add.s(1), t.boom.s(), t.marked.s("later")).apply_async(link_error=both)
    header = [t.add.s(1), t.boom.s(), t.boom.s()]
    joined = chord(header, t.marked.s("never")).apply_async(link_error=both)
    members = group(sig.set(link_error=both) for sig in (t.boom.s(), t.add.s(1), t.boom.s())).apply_async()
    single = t.boom.apply_async(link_error=both)

    told = {
        **{one.id: "ValueError" for one in (steps.parent, members[0], members[2], single)},
        joined.id: "ChordError",
    }
    for task_id, error in told.items():
        flows.wait_runs(f"old {task_id}")
        flows.wait_runs(f"new {task_id} {error}")
    assert_nothing_queued(flows)
    assert [1] * 10 == [flows.count(f"{form} {task_id}") for task_id in told for form in ("old", "new")]
    untold = [steps.id, steps.parent.parent.id, members[1].id]
    assert [] == [line for line in flows.runs() for one in untold if line.split()[1:2] == [one]]
    assert 0 == flows.count("ran later") + flows.count("ran never")


def test_errbacks_get_their_own_arguments_as_they_were(flows: Site) -> None:
    """An errback that is called in the worker has the bytes that its signature was made with."""
    t = flows.tasks
    result = t.boom.apply_async(link_error=t.typed_errback.s(b"bytes"))

    flows.wait_runs(f"typed {result.id} b'bytes'")


def test_an_errback_finds_the_failure_where_results_are(flows: Site) -> None:
    """AsyncResult of the request has the failure already, though the errback is called in the worker."""
    t = flows.tasks
    result = t.boom.apply_async(link_error=t.looking_errback.s())

    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    flows.wait_runs(f"looked {result.id} FAILURE True ValueError PENDING")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose worker has children that can be lost."""
    with open_workflow_site(tmp_path_factory.mktemp("forks"), "prefork") as site:
        yield site


@pytest.mark.parametrize(("how", "error"), [("lost", "WorkerLostError"), ("too_long", "TimeLimitExceeded")])
def test_a_step_without_a_last_word_ends_its_chain(forks: Site, how: str, error: str) -> None:
    """A child that was killed, or overran: both forms of errback are called, later steps end unrun."""
    t = forks.tasks
    steps = chain(t.add.s(1), getattr(t, how).s(), t.marked.s("never"), t.marked.s("never"))
    steps.link_error(t.new_errback.s())
    steps.link_error(t.old_errback.s())
    result = steps.apply_async()

    wait_until(result.ready, 20)
    failed = result.parent.parent
    assert ["FAILURE"] * 3 == [r.state for r in (result, result.parent, failed)]
    assert error == type(failed.result).__name__ == type(result.result).__name__
    forks.wait_runs(f"old {failed.id}")
    forks.wait_runs(f"new {failed.id} {error}")
    assert 0 == forks.count("ran never")


def test_a_lost_part_fails_the_chord(forks: Site) -> None:
    """A chord, and a chord around it, end with the part whose child was killed; errbacks once."""
    t = forks.tasks
    lost = t.lost.s()
    culprit = lost.freeze().id
    inner = chord([t.add.s(1), lost], t.marked.s("never") | t.marked.s("never"))
    body = t.marked.s("never").on_error(t.old_errback.s())
    result = chord([t.add.s(1) | inner, t.add.s(2)], body).apply_async()

    with pytest.raises(ChordError, match=culprit):
        result.get(timeout=20, follow_parents=False)
    forks.wait_runs(f"old {result.id}")
    assert 0 == forks.count("ran never")
