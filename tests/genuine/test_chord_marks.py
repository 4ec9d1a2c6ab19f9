"""What messages of Celery's chords say to our broker."""

from __future__ import annotations

import json
from typing import Any

import celery
import pytest
from celery.result import AsyncResult, GroupResult

from emq_compat.celery_message import BROKER_HEADER, CeleryMessage, message_of, publish_of
from emq_compat.genuine import chord_marks
from emq_compat.headers import GROWN, Headers

app = celery.Celery("marks", broker="memory://", set_as_current=False)


def result(task_id: str) -> AsyncResult:
    return AsyncResult(task_id, app=app)


def test_a_plain_part_stands_at_its_place_in_the_group() -> None:
    """The header's task number 3 is the part 3."""
    body: dict[str, Any] = {}
    chord_marks.mark(body, "c", [result("a"), result("b")])
    assert "c:3" == chord_marks.part_of(body, "x", 3)


def test_groups_within_a_header_are_lists_within_its_values() -> None:
    """A chain that ends with a group has its members below the chain's place."""
    inner = GroupResult("g", [result("b0"), GroupResult("h", [result("b10")], app=app)], app=app)
    body: dict[str, Any] = {}
    chord_marks.mark(body, "c", [result("a"), inner])
    assert ["c:0", "c:1.0", "c:1.1.0"] == [
        chord_marks.part_of(body, "a", 0),
        chord_marks.part_of(body, "b0", 0),
        chord_marks.part_of(body, "b10", 0),
    ]


def test_parts_of_a_generator_are_told_apart_by_their_ids() -> None:
    """Where the header isn't known in advance two parts with one number are two places."""
    body: dict[str, Any] = {}
    chord_marks.mark(body, "c", None)
    one, other = chord_marks.part_of(body, "a", 0), chord_marks.part_of(body, "b", 0)
    assert one != other
    assert str(one).startswith("c:0.9")
    assert Headers(chord=str(one)).part_of is not None


def test_an_added_part_grows_the_chord_behind_the_one_that_added_it() -> None:
    """What a task adds to its chord stands behind it, and the chord awaits one part more."""
    body: dict[str, Any] = {}
    chord_marks.mark(body, "c", [result("a")])
    chord_marks.add_place(body, "c:0", "new", 1)
    assert f"c:0.{GROWN + 1}+" == chord_marks.part_of(body, "new", 0)


@pytest.mark.parametrize("chord", [None, {}, {"task": "t"}, {"emq": 5}])
def test_parts_of_other_backends_chords_are_none(chord: Any) -> None:
    """A body without our mark is counted by whoever made it."""
    assert chord_marks.part_of(chord, "a", 0) is None


def task_message(**headers: Any) -> CeleryMessage:
    return CeleryMessage(
        body=b'[[[],1],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
        content_type="application/json",
        content_encoding="utf-8",
        headers={"task": "t.body", "id": "b", "lang": "py", **headers},
        properties={},
    )


def test_a_held_body_leaves_out_what_stands_for_the_values() -> None:
    """The broker puts the values where the placeholder stood."""
    told: dict[str, Any] = {"id": "b"}
    with chord_marks.held("b", "c", 2, immutable=False):
        chord_marks.tell_broker(headers=told, body=([[], 1], {}, {}))
    publish = publish_of(task_message(**told), queue="q")
    assert ("c", 2) == publish.headers.barrier
    assert [1] == json.loads(publish.payload)[1]["args"]


def test_a_retry_of_a_body_awaits_nothing() -> None:
    """What a message's headers say of a chord is not repeated by a retry."""
    told: dict[str, Any] = {"id": "b", BROKER_HEADER: {"awaits": "c:2"}}
    chord_marks.tell_broker(headers=told, body=([1], {}, {}))
    assert BROKER_HEADER not in told


def test_a_part_is_one_for_the_shim_and_the_same_message_for_celery() -> None:
    """A shim worker finds the part's place; Celery's gets the body that its producer sent."""
    body: dict[str, Any] = {"task": "t.body", "args": [], "options": {}}
    chord_marks.mark(body, "c", [result("a")])
    told: dict[str, Any] = {"id": "a", "task": "t.part", "group_index": 0}
    embedded = {"callbacks": None, "errbacks": None, "chain": None, "chord": body}
    chord_marks.tell_broker(headers=told, body=([], {}, embedded))
    raw = json.dumps([[], {}, embedded]).encode()
    message = CeleryMessage(
        body=raw, content_type="application/json", content_encoding="utf-8", headers=told, properties={}
    )
    publish = publish_of(message, queue="q")
    assert "c:0" == publish.headers.chord
    assert b'"chord":{"id":"c","index":"0"}' in publish.payload
    assert message == message_of(publish.headers, publish.payload)


def test_a_parts_message_has_its_own_place_only() -> None:
    """However many parts stand within groups; so has a chain's last step while it travels with the first."""
    inner = GroupResult("g", [result(f"b{number}") for number in range(1000)], app=app)
    body: dict[str, Any] = {"task": "t", "kwargs": {}, "options": {}}
    chord_marks.mark(body, "c", [result("a"), inner])
    step = {"task": "t", "options": {"task_id": "b2", "chord": body}}
    group = {"task": "celery.group", "subtask_type": "group", "options": {"task_id": "g", "chord": body}}
    headers: dict[str, Any] = {"id": "b1", "group_index": 1}
    embedded: dict[str, Any] = {"chord": body, "chain": [group, step]}
    chord_marks.tell_broker(headers=headers, body=((), {}, embedded))
    assert "c:1.1" == headers[BROKER_HEADER]["chord"]
    assert {"b1": "1.1"} == embedded["chord"][chord_marks.MARK]["places"]
    assert {"b2": "1.2"} == embedded["chain"][1]["options"]["chord"][chord_marks.MARK]["places"]
    assert group is embedded["chain"][0]
    assert 1000 == len(body[chord_marks.MARK]["places"]), "the others' messages are still to come"
    assert step["options"] == {"task_id": "b2", "chord": body}
