"""Chords: when a body runs, with what, and when it ends without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emq_compat.broker.chords import FORGET_S
from emq_compat.broker.records import Dispatch
from emq_compat.message import Headers, Job, Publish, new_id
from emq_compat.protocol.commands import Ready, Request
from tests.broker.bench import CLIENT, Bench, job

pytestmark = pytest.mark.unit


def request(headers: Headers, payload: bytes = b"", queue: str = "q") -> Request:
    """A publish as it comes from a client."""
    text = headers.encode().encode()
    return Request(msgid=new_id(), queue=queue, headers=headers, payload=payload or job(), header_text=text)


def body(awaited: str, size: int, *args: Any, **headers: Any) -> Request:
    """A body that awaits ``size`` parts, with arguments of its own; its task id is ``body-ID``."""
    head = Headers(**{"task_id": f"body-{awaited}", "awaits": f"{awaited}:{size}", **headers})
    return request(head, Job(path="p", callable="body", args=args).encode())


def part(chord: str, place: object, **headers: Any) -> Request:
    """A part; its task id is ``CHORD-PLACE``."""
    return request(Headers(**{"task_id": f"{chord}-{place}", "chord": f"{chord}:{place}", **headers}))


def send(b: Bench, *requests: Request) -> list[Dispatch]:
    """Publish; returns what is handed out."""
    return b.handed(*[(CLIENT, r) for r in requests])


def value(value: Any) -> bytes:
    return json.dumps({"value": value, "state": "SUCCESS"}).encode()


def failure(kind: str, message: str) -> bytes:
    error = {"type": kind, "module": "builtins", "args": [message], "message": message}
    return json.dumps({"value": message, "state": "FAILURE", "error": error}).encode()


def args_of(d: Dispatch) -> Any:
    return json.loads(d.payload)[1]["args"]


def name_of(d: Dispatch) -> str:
    return Headers.decode(d.header_text).task_id


def result(b: Bench, task_id: str) -> tuple[str, str] | None:
    """State and error text of a stored result."""
    stored = b.store.results([task_id]).get(task_id)
    if stored is None:
        return None
    return stored.state, json.loads(stored.body).get("error", {}).get("message", "")


def rows(b: Bench) -> tuple[int, int, int]:
    """How many chords, parts and messages the journal has."""
    b.store._flush()
    return tuple(
        b.store._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("chords", "parts", "messages")
    )


def started(b: Bench, *requests: Request, slots: int = 20, **about: Any) -> dict[str, Dispatch]:
    """Publish, and have a worker take all that waits: task id → hand-out."""
    send(b, *requests)
    return {name_of(d): d for d in b.worker(slots=slots, credit=slots, **about)}


def test_a_body_gets_the_values_in_the_order_of_its_parts_whatever_order_they_end_in() -> None:
    """The body waits for all parts; their values stand in front of its own arguments, by INDEX."""
    b = Bench()
    held = started(b, body("c", 3, "own"), *[part("c", i) for i in (0, 10, 2)])
    assert {"c-0", "c-2", "c-10"} == set(held)
    assert [] == b.reply(held["c-10"], body=value({"ten": 10}))
    assert [] == b.reply(held["c-0"], body=value("é"))
    (d,) = b.reply(held["c-2"], body=value([2.5, None]))
    assert "body-c" == name_of(d)
    assert [["é", [2.5, None], {"ten": 10}], "own"] == args_of(d)
    assert "" == Headers.decode(d.header_text).awaits
    assert (0, 0, 1) == rows(b)
    b.reply(d)
    assert ("SUCCESS", "") == result(b, "body-c")
    assert (0, 0, 0) == rows(b)


def test_nested_places_are_compared_step_by_step() -> None:
    """2.0 and 2.10 are a list between 1 and 3, and 2.10 stands behind 2.9."""
    b = Bench()
    places = ["3", "2.10", "2.9", "1", "2.0"]
    held = started(b, body("c", 5), *[part("c", p) for p in places])
    got: list[Dispatch] = []
    for p in places:
        got = b.reply(held[f"c-{p}"], body=value(p))
    assert [["1", ["2.0", "2.9", "2.10"], "3"]] == args_of(got[0])


def test_an_immutable_body_takes_no_values() -> None:
    """It runs after its parts with its own arguments only."""
    b = Bench()
    held = started(b, body("c", 1, "own", immutable=True), part("c", 0))
    (d,) = b.reply(held["c-0"])
    assert ["own"] == args_of(d)


def test_a_chord_without_parts_is_released_at_once() -> None:
    """SIZE 0: the body gets an empty list."""
    b = Bench()
    held = started(b, body("c", 0))
    assert [[]] == args_of(held["body-c"])
    assert (0, 0, 1) == rows(b)


def test_parts_may_end_before_the_body_comes() -> None:
    """The values are kept; the body is released in the turn in which it comes."""
    b = Bench()
    held = started(b, part("c", 0), part("c", 1))
    for d in held.values():
        b.reply(d, body=value(name_of(d)))
    b.restart()
    b.worker(credit=5, slots=5)
    (d,) = send(b, body("c", 2))
    assert [["c-0", "c-1"]] == args_of(d)


def test_a_part_that_failed_before_the_body_came_fails_it() -> None:
    """The body ends in the turn in which it comes."""
    b = Bench()
    held = started(b, part("c", 0))
    b.reply(held["c-0"], "FAILURE", body=failure("ValueError", "boom"))
    b.restart()
    send(b, body("c", 1))
    assert ("FAILURE", "Dependency c-0 raised ValueError('boom')") == result(b, "body-c")
    assert (0, 0, 0) == rows(b)


def test_the_first_part_that_fails_ends_the_body_once() -> None:
    """Its result is a ChordError that names the part; what later parts come to changes nothing."""
    b = Bench()
    held = started(b, body("c", 3), *[part("c", i) for i in range(3)])
    b.reply(held["c-1"], body=value(1))
    b.reply(held["c-2"], "FAILURE", body=failure("ValueError", "it's"))
    stored = b.store.results(["body-c"])["body-c"]
    error = json.loads(stored.body)["error"]
    assert ("ChordError", "emq_compat.shim.exceptions") == (error["type"], error["module"])
    assert 'Dependency c-2 raised ValueError("it\'s")' == error["message"]
    assert (1, 0, 1) == rows(b)
    b.restart()
    b.reply(held["c-0"], "FAILURE", body=failure("KeyError", "later"))
    assert stored == b.store.results(["body-c"])["body-c"]
    assert (0, 0, 0) == rows(b)


def test_a_part_counts_once() -> None:
    """The same INDEX twice, a reply twice and a retry don't complete a chord."""
    b = Bench()
    held = started(b, body("c", 2), part("c", 0), part("c", 0, task_id="again"), part("c", 1))
    b.reply(held["c-0"], body=value("first"))
    b.reply(held["c-0"], body=value("stale"))
    assert [] == b.reply(held["again"], body=value("second"))
    again = Publish(queue="q", headers=part("c", 1).headers, payload=job())
    (d,) = b.reply(held["c-1"], "RETRY", follow_ups=(again,), ready=1)
    assert again.msgid == d.msgid
    (done,) = b.reply(d, body=value("late"))
    assert [["first", "late"]] == args_of(done)


@pytest.mark.parametrize(
    ("state", "name"), [("IGNORED", "Ignore"), ("REJECTED", "Reject"), ("REVOKED", "TaskRevokedError")]
)
def test_a_part_that_gives_no_value_fails_its_chord(state: str, name: str) -> None:
    """Ignored, rejected and revoked parts can't be waited for."""
    b = Bench()
    held = started(b, body("c", 2), part("c", 0), part("c", 1))
    b.reply(held["c-0"], state, body=b'{"value": null}')
    told = result(b, "body-c")
    assert told is not None
    assert ("FAILURE", f"Dependency c-0 raised {name}('')") == told


def test_a_part_may_pass_its_place_on() -> None:
    """A part that was replaced is ignored itself; its follow-up, or that one's own parts, count for it."""
    b = Bench()
    held = started(b, body("c", 1), part("c", 0))
    inner = (
        Publish(queue="q", headers=part("c", "0.0").headers, payload=job()),
        Publish(queue="q", headers=part("c", "0.900000001+").headers, payload=job()),
    )
    first, second = b.reply(held["c-0"], "IGNORED", follow_ups=inner, ready=2)
    assert [] == b.reply(first, body=value("a"))
    (d,) = b.reply(second, body=value("b"))
    assert [[["a"], "b"]] == args_of(d)


def test_what_a_part_adds_to_its_chord_does_not_take_its_place() -> None:
    """A part that adds one and is ignored itself fails the chord."""
    b = Bench()
    held = started(b, body("c", 1), part("c", 0))
    added = Publish(queue="q", headers=part("c", "0.900000001+").headers, payload=job())
    b.reply(held["c-0"], "IGNORED", follow_ups=(added,), body=b'{"value": null}')
    assert ("FAILURE", "Dependency c-0 raised Ignore('')") == result(b, "body-c")


def test_a_part_that_tries_again_takes_its_place_with_its_plus() -> None:
    """A retry of an added part has its header, ``+`` included: it isn't counted before the last try ends."""
    b = Bench()
    held = started(b, body("c", 1), part("c", 0), part("c", "0.900000001+"))
    again = Publish(queue="q", headers=part("c", "0.900000001+").headers, payload=job())
    (retried,) = b.reply(held["c-0.900000001+"], "RETRY", follow_ups=(again,))
    assert [] == b.reply(retried, body=value("b"))
    (d,) = b.reply(held["c-0"], body=value("a"))
    assert [["a", "b"]] == args_of(d)


def test_a_chord_grows_when_the_added_part_is_published() -> None:
    """A ``+`` part is awaited from then on, once however often it is tried again."""
    b = Bench()
    held = started(b, body("c", 1), part("c", 0))
    (added,) = b.handed((CLIENT, part("c", "1+")), (b"w.1", Ready(msgid=new_id(), count=1)))
    assert [] == b.reply(held["c-0"], body=value("a"))
    again = Publish(queue="q", headers=part("c", "1+").headers, payload=job())
    (retried,) = b.reply(added, "RETRY", follow_ups=(again,), ready=1)
    b.restart()
    (d,) = b.reply(retried, body=value("b")) or b.worker(credit=3, slots=3)
    assert [["a", "b"]] == args_of(d)


def test_a_body_may_be_a_part_itself() -> None:
    """A failure deep inside ends every body up to the outermost, each naming the task that began it."""
    b = Bench()
    depth = 3000
    bodies = [body("0", 1)]
    bodies += [body(str(i), 1, chord=f"{i - 1}:0") for i in range(1, depth)]
    held = started(b, *bodies, part(str(depth - 1), 0, task_id="boom"))
    b.reply(held["boom"], "FAILURE", body=failure("ValueError", "x'"))
    for i in (0, depth // 2, depth - 1):
        assert ("FAILURE", 'Dependency boom raised ValueError("x\'")') == result(b, f"body-{i}")
    assert (0, 0, 0) == rows(b)


def test_inner_bodies_values_reach_the_outer_one() -> None:
    """What an inner body returns is a value of the outer chord."""
    b = Bench()
    held = started(b, body("o", 2), body("i", 1, chord="o:1"), part("o", 0), part("i", 0))
    b.reply(held["o-0"], body=value("left"))
    (inner,) = b.reply(held["i-0"], body=value("deep"))
    (outer,) = b.reply(inner, body=value("right"))
    assert [["left", "right"]] == args_of(outer)


def test_priority_and_eta_of_a_body_hold_from_its_release_on() -> None:
    """A released body has its priority in the queue, and isn't handed out before its eta."""
    b = Bench()
    held = started(
        b,
        body("c", 1, priority=9),
        body("d", 1, eta=b.wall + 60),
        part("c", 0),
        part("d", 0),
        slots=2,
    )
    b.publish(3)
    b.reply(held["d-0"])
    (d,) = b.reply(held["c-0"], ready=1)
    assert "body-c" == name_of(d)
    queue = b.engine.queues.by_name["q"]
    assert (3, 1, 0) == (queue.waiting, queue.delayed, queue.held)
    b.turn(passed_s=61)
    assert (4, 0) == (queue.waiting, queue.delayed)


def test_chords_survive_restarts(tmp_path: Path) -> None:
    """Every count, value and held body is on disk with the turn that changed it."""
    b = Bench(tmp_path / "data")
    held = started(b, body("c", 3, "own"), *[part("c", i) for i in range(3)])
    for i in range(2):
        b.restart()
        assert 1 == b.engine.queues.by_name["q"].held
        b.reply(held[f"c-{i}"], body=value(i))
    b.restart()
    b.reply(held["c-2"], body=value(2))
    b.restart()
    (d,) = b.worker(b"w2.1", credit=2)
    assert [[0, 1, 2], "own"] == args_of(d)
    assert (0, 0, 1) == rows(b)


def test_a_second_body_of_a_chord_fails() -> None:
    """Only one message can await a chord; another one ends at once and says so."""
    b = Bench()
    send(b, body("c", 1), body("c", 1, task_id="other"))
    told = result(b, "other")
    assert told is not None
    assert "awaits the chord c already" in told[1]
    assert None is result(b, "body-c")


def test_a_body_that_grows_too_large_fails() -> None:
    """Values that no worker could be sent end the body with an error that tells the sizes."""
    b = Bench(max_message_bytes=2000)
    held = started(b, body("c", 2), part("c", 0), part("c", 1))
    b.reply(held["c-0"], body=value("x" * 1500))
    b.reply(held["c-1"], body=value("x" * 1500))
    told = result(b, "body-c")
    assert told is not None
    assert "the limit is 2000" in told[1]


def test_what_is_no_run_payload_fails_with_its_chord() -> None:
    """A body that can't take values ends as a ChordError."""
    b = Bench()
    held = started(b, request(Headers(task_id="odd", awaits="c:1"), b"[1]"), part("c", 0))
    b.reply(held["c-0"])
    told = result(b, "odd")
    assert told is not None
    assert "can't be given" in told[1]


def test_orphans_are_forgotten_after_a_day() -> None:
    """Parts whose body never came, and failed chords whose parts never came, leave no rows."""
    b = Bench()
    held = started(b, part("orphan", 0), body("c", 2), part("c", 0))
    b.reply(held["orphan-0"])
    b.reply(held["c-0"], "FAILURE", body=failure("ValueError", "x"))
    assert (2, 1, 0) == rows(b)
    b.turn(passed_s=FORGET_S - 100)
    assert (2, 1, 0) == rows(b)
    b.turn(passed_s=200)
    assert (0, 0, 0) == rows(b)


def test_a_full_queue_takes_bodies_and_outcomes() -> None:
    """A body is in no queue yet, and what is settled never is: the limit is for what waits."""
    b = Bench(queue_limit=1)
    b.publish(1)
    send(b, body("c", 1), request(Headers(task_id="s", settled="FAILURE"), failure("ValueError", "x")))
    assert 0 == b.engine.desk.counters["refused"]
    assert ("FAILURE", "x") == result(b, "s")


def test_a_backup_holds_chords(tmp_path: Path) -> None:
    """A broker that starts on a copy of the journal goes on with its chords."""
    b = Bench(tmp_path / "data")
    held = started(b, body("c", 2), part("c", 0), part("c", 1))
    b.reply(held["c-0"], body=value(0))
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    b.store.fold()
    b.store.backup(copy / "journal.sqlite3")
    restored = Bench(copy)
    (d,) = restored.reply(held["c-1"], body=value(1)) or restored.worker(b"w2.1", credit=2, slots=2)
    assert [[0, 1]] == args_of(d)


def settled(chord: str, place: int, value: Any) -> Request:
    """The end of a part that is told by a message."""
    head = Headers(settled="SUCCESS", chord=f"{chord}:{place}", guarantee=True)
    return request(head, json.dumps({"value": value}).encode())


def test_a_body_that_is_published_twice_runs_once() -> None:
    """What applied the chord was run twice: the second message of the body's task is dropped."""
    b = Bench()
    held = started(b, body("c", 1), part("c", 0), body("c", 1))
    (d,) = b.reply(held["c-0"], body=value(7))
    assert [[7]] == args_of(d)
    b.reply(d)
    assert ("SUCCESS", "") == result(b, "body-c")
    assert (0, 0, 0) == rows(b)


def test_a_chord_is_begun_anew_in_the_moment_in_which_it_ends() -> None:
    """Its id is free again in the transaction that ends it."""
    b = Bench()
    started(b, body("c", 1))
    (d,) = send(b, settled("c", 0, 1), body("c", 1, task_id="again"))
    assert ("body-c", [[1]]) == (name_of(d), args_of(d))
    assert (1, 0, 2) == rows(b)
    b.reply(d)
    (d,) = send(b, settled("c", 0, 2))
    assert ("again", [[2]]) == (name_of(d), args_of(d))


def test_an_acknowledgement_by_a_kombu_consumer_counts_for_no_chord() -> None:
    """Celery's own worker has the message; its result backend tells what the part came to."""
    b = Bench()
    held = started(b, body("c", 1), part("c", 0), consumer=True)
    assert [] == b.reply(held["c-0"], state="IGNORED")
    assert result(b, "body-c") is None
    (d,) = send(b, settled("c", 0, 5))
    assert [[5]] == args_of(d)
