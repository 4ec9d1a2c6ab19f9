"""What composed signatures publish, and what that costs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from emq_compat.celery_shim import (
    Celery,
    Signature,
    chain,
    chord,
    group,
    signature,
)
from emq_compat.shim.canvas.composite import is_a
from tests.shim.canvases import Tasks, celery_part
from tests.shim.recorder import Recorder


def test_a_chain_travels_in_its_first_message(t: Tasks, client: Recorder) -> None:
    """One message, with the later steps in reverse, and the epilogue that ends them if it is lost."""
    chain(t.add.s(1, 1), t.add.s(2), t.add.s(3)).apply_async(link_error=t.total.s())

    (message,) = client.published
    part = celery_part(message)
    assert [[3], [2]] == [step["args"] for step in part["chain"]]
    assert [["total"]] * 2 == [[e["task"] for e in s["options"]["link_error"]] for s in part["chain"]]
    assert ["total"] == [errback["task"] for errback in part["errbacks"]]
    assert message.headers.epilogue


def test_a_chord_is_one_bulk_with_the_body_first(t: Tasks, client: Recorder) -> None:
    """The body awaits its parts, whose places are paths where a member ends in a group."""
    header = [t.add.s(1), group(t.add.s(2), t.add.s(3)), t.add.s(4) | group(t.add.s(5), t.add.s(6))]
    result = chord(header, t.total.s())()

    assert 1 == len(client.bulks)
    body, *parts = client.bulks[0]
    chord_id = body.headers.awaits.partition(":")[0]
    assert f"{chord_id}:5" == body.headers.awaits
    assert result.id == body.headers.task_id
    assert [f"{chord_id}:0", f"{chord_id}:1", f"{chord_id}:2", ""] == [p.headers.chord for p in parts]
    (last,) = celery_part(parts[3])["chain"]
    places = [task["options"]["chord"]["index"] for task in last["kwargs"]["tasks"]]
    assert ["3.0", "3.1"] == places
    assert {chord_id} == {celery_part(p).get("group", chord_id) for p in parts}
    assert celery_part(parts[3])["chain"][0]["options"]["task_id"] != chord_id


def test_a_body_of_several_tasks_is_launched(t: Tasks, client: Recorder) -> None:
    """A group behind a group waits as one message of a builtin task that holds its signature."""
    result = chord([t.add.s(1)], group(t.total.s(), t.total.s()))()

    body = client.bulks[0][0]
    assert "emq_compat.launch" == body.headers.task
    assert (True, True) == (body.headers.epilogue, body.headers.no_result)
    (held,) = json.loads(body.payload)[1]["args"]
    assert [r.id for r in result] == [task["options"]["task_id"] for task in held["kwargs"]["tasks"]]


def test_an_empty_header_runs_the_body(t: Tasks, client: Recorder) -> None:
    """A chord of nothing is its body with an empty list."""
    chord([], t.total.s())()

    (message,) = client.published
    assert ("", [[]]) == (message.headers.awaits, json.loads(message.payload)[1]["args"])


def test_a_generators_header_is_published_while_it_is_made(t: Tasks, client: Recorder) -> None:
    """Parts go as soon as they are there, the body last, when their number is known."""
    seen = []

    def header() -> Any:
        for n in range(3):
            seen.append(len(client.published))
            yield t.add.s(n)
            until = time.monotonic() + 0.06
            while time.monotonic() < until:
                pass

    result = chord(header(), t.total.s())()

    assert [0, 1, 2] == seen
    *parts, body = client.published
    assert (result.id, "3") == (body.headers.task_id, body.headers.awaits.rpartition(":")[2])
    assert ["0", "1", "2"] == [part.headers.chord.rpartition(":")[2] for part in parts]
    assert [part.headers.task_id for part in parts] == [part.id for part in result.parent]


def test_a_group_takes_no_callbacks_as_a_whole(t: Tasks) -> None:
    """link on apply_async of a group is a TypeError; link is the first member's, link_error each member's."""
    both = group(t.add.s(1), t.add.s(2))

    with pytest.raises(TypeError, match="use a chord"):
        both.apply_async(link=t.add.s())
    both.link(t.add.s(3))
    assert 2 == len(both.link_error(t.total.s()))
    assert [True, None] == [bool(task.options.get("link")) or None for task in both.tasks]
    assert both.tasks[0].options["link"][0].immutable


def test_skew_delays_members_one_after_the_other(t: Tasks) -> None:
    """skew sets countdowns that grow up to the stop."""
    members = group(t.add.s(n) for n in range(4)).skew(1, 3)

    assert [1, 2, 3, 3] == [task.options["countdown"] for task in members.tasks]


def test_errbacks_of_a_chord(t: Tasks, app: Celery) -> None:
    """link_error is the body's, and the header's with task_allow_error_cb_on_chord_header."""
    sig = chord([t.add.s(1)], t.total.s())
    sig.link_error(t.add.s())
    assert (1, 0) == (len(sig.body.options["link_error"]), len(sig.tasks[0].options))

    app.conf.task_allow_error_cb_on_chord_header = True
    sig.link_error(t.add.s(9))
    assert [t.add.s(9)] == sig.tasks[0].options["link_error"]


def test_an_errback_of_a_group_that_has_its_own_is_one_of_these(t: Tasks) -> None:
    """A group's own errbacks replace its members': what is linked later is called beside them."""
    both = group(t.add.s(1), t.add.s(2)).set(link_error=t.add.s())
    both.link_error(t.total.s())
    assert [t.add.s(), t.total.s()] == both.options["link_error"]


def test_an_errback_that_has_travelled_is_known_again(t: Tasks) -> None:
    """Linking what a message has brought already, its arguments as a list, doesn't call it twice."""
    sent = signature(json.loads(json.dumps(t.add.s(1, 2).on_error(t.total.s(3)))))
    sent.link_error(t.total.s(3))
    assert 1 == len(sent.options["link_error"])


# What publishing costs


def test_publishing_nested_chords_copies_each_part_once(
    t: Tasks, client: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many levels there are, a task's signature is copied a small number of times."""

    def nested(levels: int) -> Any:
        made = [t.add.s(1, 2) if levels == 1 else nested(levels - 1) for _ in range(3)]
        return chord(made, t.total.s())

    copied: list[str] = []
    clone = Signature.clone

    def counted(self: Signature, *args: Any, **kwargs: Any) -> Any:
        copied.append(self["task"])
        return clone(self, *args, **kwargs)

    canvas = nested(4)
    monkeypatch.setattr(Signature, "clone", counted)
    canvas.apply_async()
    assert 3**4 + 3**3 + 3**2 + 3 + 1 == len(client.published)
    assert copied.count("add") <= 3**4


def test_a_canvas_is_published_anew_each_time(t: Tasks, client: Recorder) -> None:
    """What publishing uses up is its own copy: the canvas stays as it was, and has other ids each time."""
    inner = chord([t.add.s(1, 2), t.add.s(3, 4)], t.total.s())
    side = group(t.add.s(5, 6), group(t.add.s(7, 8)))
    for canvas in (chord([inner, side], t.total.s()), group(inner, side), chord(side, t.total.s())):
        before, shown = json.dumps(canvas), repr(canvas)
        published = []
        for _ in range(2):
            client.published.clear()
            canvas.apply_async(link=t.total.s()) if is_a("chord", canvas) else canvas.apply_async()
            published.append([message.headers.task_id for message in client.published])
        assert (before, shown) == (json.dumps(canvas), repr(canvas))
        assert set(published[0]).isdisjoint(published[1])
        assert len(published[0]) == len(set(published[0])) == len(published[1])


def test_ids_of_a_chains_steps_are_numbered(t: Tasks) -> None:
    """They differ in their last digits only, so that a long chain's messages pack well."""
    results = [chain(t.add.s(1, 2), *[t.add.s(1) for _ in range(4)]).freeze() for _ in range(2)]
    seen: list[list[str]] = []
    for result in results:
        ids = []
        while result is not None:
            ids.append(result.id)
            result = result.parent
        seen.append(ids)
    assert {5} == {len(set(ids)) for ids in seen}
    assert {1} == {len({one[:24] for one in ids}) for ids in seen}
    assert seen[0][0][:24] != seen[1][0][:24]
