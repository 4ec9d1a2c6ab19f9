"""What follows an end that no task had a word in: epilogues, settled outcomes, revokes and purges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from emq_compat.broker.records import Dispatch, Send
from emq_compat.message import Headers, ReplyHeaders, new_id
from emq_compat.protocol.commands import Ready, Reply, Request
from tests.broker.bench import CLIENT, Bench, answer, attempt_of
from tests.broker.test_chords import body, failure, part, request, result, rows, send, value

pytestmark = pytest.mark.unit

EARLY = {"tasks": {"t": ""}}


def lone(task_id: str, **headers: Any) -> Any:
    """A message that has an epilogue."""
    return request(Headers(**{"task_id": task_id, "task": "t", "epilogue": True, **headers}))


def epilogues(b: Bench, worker: bytes = b"e.1", credit: int = 20) -> list[Dispatch]:
    """What a new worker is handed of epilogues."""
    handed = b.worker(worker, slots=credit, credit=credit, tasks={"t": ""})
    return [d for d in handed if Headers.decode(d.header_text).concludes]


def taken(b: Bench, *requests: Request, slots: int = 20, **about: Any) -> dict[str, Dispatch]:
    """Publish, and have a worker take what waits and nothing that comes later: task id → hand-out."""
    send(b, *requests)
    credit = min(slots, b.engine.queues.by_name["q"].waiting)
    return {Headers.decode(d.header_text).task_id: d for d in b.worker(slots=slots, credit=credit, **about)}


def unattended(d: Dispatch, state: str, text: bytes) -> Reply:
    told = ReplyHeaders(attempt=attempt_of(d), state=state, unattended=True)
    return replace(answer(d, state, body=text), headers=told)


def told(d: Dispatch) -> tuple[str, str]:
    """State and error type in an epilogue."""
    word, options, reply = json.loads(d.payload)
    assert "epilogue" == word
    assert {"path", "callable", "args", "kwargs", "class_args", "class_kwargs"} <= set(options)
    return reply["state"], reply["error"]["type"]


def test_a_lost_early_task_has_one_epilogue() -> None:
    """It stands in the same queue, with task and priority, without a task id, and holds options and reply."""
    b = Bench()
    taken(b, lone("a", priority=7), slots=1, **EARLY)
    b.pass_time(11)
    assert "FAILURE" == (result(b, "a") or ("",))[0]
    (d,) = epilogues(b)
    head = Headers.decode(d.header_text)
    assert ("t", 7, "", True, False) == (
        head.task, head.priority, head.task_id, head.concludes, head.epilogue
    )  # fmt: skip
    assert ("FAILURE", "WorkerLostError") == told(d)
    assert [] == b.reply(d, "IGNORED", ready=5)
    assert (0, 0, 0) == rows(b)


def test_an_epilogue_is_redelivered_like_a_late_task_and_ends_in_the_dead_letters() -> None:
    """A worker that is lost with it doesn't end it; when it is given up, nothing follows."""
    b = Bench(max_redeliveries=1)
    taken(b, lone("a"), slots=1, **EARLY)
    b.pass_time(11)
    for worker in (b"e.1", b"e.2"):
        assert 1 == len(epilogues(b, worker))
        b.pass_time(11)
    assert [] == epilogues(b, b"e.3")
    assert ["id:a,task:t,epilogue", "task:t,concludes"] == [
        row.header_text.removeprefix("guarantee,") for row in b.store.dead_letters(0, 10)
    ]


def test_a_late_task_has_an_epilogue_only_when_it_is_given_up() -> None:
    """Losses that lead to a redelivery end nothing."""
    b = Bench(max_redeliveries=1)
    late = {"t": "l"}
    taken(b, lone("a"), slots=1, tasks=late)
    b.pass_time(11)
    assert ["a"] == [Headers.decode(d.header_text).task_id for d in b.worker(b"w.2", tasks=late)]
    b.pass_time(11)
    (d,) = epilogues(b)
    assert ("FAILURE", "WorkerLostError") == told(d)


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_a_reply_that_a_job_manager_makes_by_itself_has_an_epilogue(state: str) -> None:
    """``unattended`` in a REPLY: the result is stored, and the message is published once more."""
    b = Bench()
    held = taken(b, lone("a"), lone("plain", epilogue=False))
    text = failure("TimeLimitExceeded", "TimeLimitExceeded(3)").replace(b"FAILURE", state.encode())
    b.turn(*[(d.identity, unattended(d, state, text)) for d in held.values()])
    b.turn(*[(d.identity, unattended(d, state, text)) for d in held.values()])
    assert (state, "TimeLimitExceeded(3)") == result(b, "a") == result(b, "plain")
    (d,) = epilogues(b)
    assert (state, "TimeLimitExceeded") == told(d)


def test_what_a_worker_could_not_read_ends() -> None:
    """A REPLY for attempt 0 counts for the latest hand-out: the worker saw no more of it than its msgid."""
    b = Bench()
    held = taken(b, lone("a"))
    refusal = unattended(held["a"], "FAILURE", failure("RemoteProtocolError", "too large"))
    b.turn((b"w.1", replace(refusal, headers=replace(refusal.headers or ReplyHeaders(), attempt=0))))
    assert ("FAILURE", "too large") == result(b, "a")
    (d,) = epilogues(b)
    assert ("FAILURE", "RemoteProtocolError") == told(d)


def test_an_attended_end_has_no_epilogue() -> None:
    """A worker that answers has done what follows."""
    b = Bench()
    held = taken(b, lone("a"), lone("b"), lone("c"))
    for name, state in (("a", "SUCCESS"), ("b", "FAILURE"), ("c", "REJECTED")):
        b.reply(held[name], state)
    assert [] == epilogues(b)


def test_what_expires_in_the_queue_has_an_epilogue() -> None:
    """The broker drops it when it would be handed out, as REVOKED."""
    b = Bench()
    send(b, lone("a", expires=b.wall + 5))
    b.turn(passed_s=6)
    (d,) = epilogues(b)
    assert ("REVOKED", "expired") == result(b, "a")
    assert ("REVOKED", "TaskRevokedError") == told(d)


def test_a_failed_chords_body_has_its_epilogue_and_ends_its_own_chord() -> None:
    """The epilogue has the ChordError; bodies further out follow."""
    b = Bench()
    bodies = (body("o", 1, task="t"), body("i", 1, chord="o:0", task="t", epilogue=True))
    held = taken(b, *bodies, part("i", 0))
    b.reply(held["i-0"], "FAILURE", body=failure("ValueError", "boom"))
    (d,) = epilogues(b)
    assert ("FAILURE", "ChordError") == told(d)
    assert ("FAILURE", "Dependency i-0 raised ValueError('boom')") == result(b, "body-o")


@pytest.mark.parametrize("delayed", [False, True])
def test_revoking_what_waits_ends_it_at_once(delayed: bool) -> None:
    """A part, or what has an epilogue, has its consequences in the turn of the revoke, once."""
    b = Bench()
    eta = b.wall + 1000 if delayed else 0.0
    send(b, body("c", 2), part("c", 0, eta=eta), part("c", 1), lone("a", eta=eta), lone("other"))
    assert ["revoked"] * 2 == [
        b.engine.withdrawals.revoke(i, b.now, terminate=False, signal="") for i in ("c-0", "a")
    ]
    b.turn()
    assert 2 == b.engine.desk.counters["revoked"]
    queue = b.engine.queues.by_name["q"]
    assert (3, 0) == (queue.waiting, queue.delayed)  # c-1, other, the epilogue
    assert ("FAILURE", "Dependency c-0 raised TaskRevokedError('revoked')") == result(b, "body-c")
    assert ("REVOKED", "revoked") == result(b, "a") == result(b, "c-0")
    b.restart()
    (d,) = epilogues(b)
    assert ("REVOKED", "TaskRevokedError") == told(d)
    assert 0 == b.engine.queues.by_name["q"].waiting
    b.turn(passed_s=2000)
    assert [] == epilogues(b, b"e.2")


def test_revoking_what_waits_on_disk_only_keeps_the_count_right() -> None:
    """A message beyond the queue's window in memory is taken out as well."""
    b = Bench()
    send(b, *[part("c", i) for i in range(1500)])
    for i in (3, 1400):
        b.engine.withdrawals.revoke(f"c-{i}", b.now, terminate=False, signal="")
    b.turn()
    queue = b.engine.queues.by_name["q"]
    assert 1498 == queue.waiting
    handed = b.worker(slots=2000, credit=2000)
    assert 1498 == len(handed)
    assert 0 == queue.waiting


def test_revoking_a_held_body_ends_it() -> None:
    """It is REVOKED, with its epilogue; its own chord fails; its parts' outcomes are dropped."""
    b = Bench()
    bodies = (body("o", 1), body("c", 2, chord="o:0", task="t", epilogue=True))
    held = taken(b, *bodies, part("c", 0), part("c", 1))
    b.reply(held["c-0"])
    assert "revoked" == b.engine.withdrawals.revoke("body-c", b.now, terminate=False, signal="")
    b.turn()
    assert 1 == b.engine.desk.counters["revoked"]
    b.restart()
    assert ("REVOKED", "revoked") == result(b, "body-c")
    assert ("FAILURE", "Dependency body-c raised TaskRevokedError('revoked')") == result(b, "body-o")
    b.reply(held["c-1"])
    (d,) = epilogues(b)
    b.reply(d, "IGNORED")
    assert (0, 0, 0) == rows(b)


def test_purging_a_queue_ends_parts_and_bodies() -> None:
    """What a chord waits for, or waits for a chord, is REVOKED; bodies in other queues fail; no row stays."""
    b = Bench()
    here = [body("c", 2), part("c", 0), part("c", 1, eta=b.wall + 50), part("far", 0), lone("a")]
    send(b, *here, request(body("far", 1).headers, queue="other"))
    b.publish(2)
    assert 7 == b.engine.withdrawals.purge(b.engine.queues.by_name["q"], b.now)
    b.turn()
    for name in ("body-c", "c-0", "c-1", "far-0", "a"):
        assert ("REVOKED", "purged") == result(b, name)
    assert ("FAILURE", "Dependency far-0 raised TaskRevokedError('purged')") == result(b, "body-far")
    queue = b.engine.queues.by_name["q"]
    assert (1, 0, 0) == (queue.waiting, queue.delayed, queue.held)
    assert 1 == b.engine.withdrawals.purge(queue, b.now)
    b.turn()
    assert (0, 0, 0) == rows(b)


@pytest.mark.parametrize("how", ["revoked", "purged"])
def test_a_released_body_that_is_withdrawn_has_a_final_state(how: str) -> None:
    """It ends at once, though nothing follows from it."""
    b = Bench()
    held = taken(b, body("c", 1), part("c", 0))
    b.reply(held["c-0"])
    if how == "purged":
        assert 1 == b.engine.withdrawals.purge(b.engine.queues.by_name["q"], b.now)
    else:
        b.engine.withdrawals.revoke("body-c", b.now, terminate=False, signal="")
    b.turn()
    assert ("REVOKED", how) == result(b, "body-c")
    assert (0, 0, 0) == rows(b)


def test_a_settled_publish_is_an_outcome() -> None:
    """It is stored, counts for its chord, is pushed to who waits, and runs nowhere."""
    b = Bench()
    b.engine.results.wait(CLIENT, ["s"], b.now)
    headers = Headers(task_id="s", chord="c:0", settled="SUCCESS", guarantee=True)
    settled = request(headers, value(41))
    handed = taken(b, body("c", 1))
    assert {} == handed
    (d,) = b.handed((CLIENT, settled), (b"w.1", Ready(msgid=new_id(), count=1)))
    assert [[41]] == json.loads(d.payload)[1]["args"]
    assert ("SUCCESS", "") == result(b, "s")
    assert ["s"] == [
        s.command.request_msgid for s in b.sent if isinstance(s, Send) and isinstance(s.command, Reply)
    ]
    assert settled.msgid in b.acked()
    send(b, settled)
    assert settled.msgid in b.acked()
    assert 1 == b.engine.desk.counters["duplicates"]


def test_the_first_final_result_of_a_task_stays() -> None:
    """A settled publish changes neither a final result nor its chord; over any other state it prevails."""
    b = Bench()
    held = taken(b, body("c", 2), part("c", 0))
    b.reply(held["c-0"], body=value(1))
    send(b, request(Headers(task_id="c-0", chord="c:0", settled="FAILURE"), failure("ValueError", "x")))
    assert ("SUCCESS", "") == result(b, "c-0")
    assert None is result(b, "body-c")
    b.engine.results.put("n", "RETRY", b"{}", b.now)
    send(b, request(Headers(task_id="n", settled="FAILURE"), failure("ValueError", "x")))
    assert ("FAILURE", "x") == result(b, "n")
    send(b, request(Headers(task_id="n", settled="SUCCESS"), value(1)))
    assert ("FAILURE", "x") == result(b, "n")


def test_settling_a_held_body_ends_it() -> None:
    """The body is dropped, its result is the settled one, and the chord that it is part of is told."""
    b = Bench()
    held = taken(b, body("o", 1), body("c", 1, chord="o:0"), part("c", 0))
    send(b, request(Headers(task_id="body-c", settled="FAILURE"), failure("ValueError", "given up")))
    assert ("FAILURE", "given up") == result(b, "body-c")
    assert ("FAILURE", "Dependency body-c raised ValueError('given up')") == result(b, "body-o")
    b.reply(held["c-0"])
    assert (0, 0, 0) == rows(b)


def test_results_are_kept_as_long_as_their_message_says() -> None:
    """keep_s 0 is for good, another number overrides the broker's own."""
    b = Bench(result_expires_s=100)
    held = taken(b, *[request(Headers(task_id=f"k{k}", keep_s=k)) for k in (None, 0.0, 5.0, 500.0)])
    for d in held.values():
        b.reply(d)
    seen = []
    for _ in range(3):
        seen.append([k for k in (None, 0.0, 5.0, 500.0) if result(b, f"k{k}")])
        b.turn(passed_s=60)
    assert [[None, 0.0, 5.0, 500.0], [None, 0.0, 500.0], [0.0, 500.0]] == seen


def test_a_reply_says_how_long_its_result_is_kept() -> None:
    """It overrides what the message and the broker say."""
    b = Bench(result_expires_s=100)
    held = taken(b, *[request(Headers(task_id=name, keep_s=50.0)) for name in ("short", "good", "own")])
    for name, keep_s in (("short", 5.0), ("good", 0.0), ("own", None)):
        b.reply(held[name], keep_s=keep_s)
    seen = []
    for _ in range(3):
        seen.append([name for name in held if result(b, name)])
        b.turn(passed_s=30)
    assert [["short", "good", "own"], ["good", "own"], ["good"]] == seen


def test_a_rejected_part_in_a_dead_letter_may_be_requeued_without_harm() -> None:
    """Its chord has failed; running it again leaves nothing behind."""
    b = Bench()
    held = taken(b, body("c", 1), part("c", 0))
    b.reply(held["c-0"], "REJECTED", body=b'{"value": null}')
    assert "FAILURE" == (result(b, "body-c") or ("",))[0]
    assert (0, 0, 0) == rows(b)
