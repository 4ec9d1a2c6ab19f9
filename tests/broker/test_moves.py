"""Messages that wait, looked at, moved to another queue, dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emq_compat.message import Headers, new_id
from emq_compat.protocol.commands import Request
from tests.broker.bench import CLIENT, Bench, attempt_of

pytestmark = pytest.mark.unit


def ask(b: Bench, verb: str, **arguments: Any) -> Any:
    """What is answered to a client; an error as its message."""
    document = b.ask(verb, **arguments)
    return document["ok"] if "ok" in document else document["error"]["message"]


def counts(b: Bench, name: str) -> tuple[int, int]:
    queue = b.engine.queues.by_name[name]
    return queue.waiting, queue.delayed


def test_browse_shows_what_waits() -> None:
    """What waits comes in the order of hand-out, page by page, without what is handed out or delayed."""
    b = Bench()
    low = b.publish(3, priority=1)
    high = b.publish(2, priority=5)
    later = b.publish(1, eta=b.wall + 60)
    b.worker()
    first = ask(b, "browse", queue="q", limit=2)
    second = ask(b, "browse", queue="q", limit=2, after=first[-1]["key"])
    assert [*high[1:], *low] == [row["msgid"] for row in [*first, *second]]
    assert later == [row["msgid"] for row in ask(b, "browse", queue="q", apart=True)]
    assert [] == ask(b, "browse", queue="unknown")
    assert {"bytes", "headers", "key", "msgid", "payload", "revoked", "stays"} == set(first[0])


def test_a_page_is_bounded() -> None:
    """An answer ends before it is too large, and a payload that JSON can't hold comes as base64."""
    b = Bench()
    large, odd = b"x" * (3 << 20), b"\xff\xfe"
    for payload in (large, large, odd):
        b.turn((CLIENT, Request(msgid=new_id(), queue="q", headers=Headers(), payload=payload)))
    first = ask(b, "browse", queue="q")
    rest = ask(b, "browse", queue="q", after=first[-1]["key"])
    assert (1, 2) == (len(first), len(rest))
    assert (None, "//4=", 2) == (rest[1]["payload"], rest[1]["base64"], rest[1]["bytes"])


def test_move(tmp_path: Path) -> None:
    """What is moved is handed out from the other queue, behind what waits there; also after a kill."""
    b = Bench(tmp_path / "data")
    there = b.publish(1, queue="to")
    msgids = b.publish(3)
    later = b.publish(1, eta=b.wall + 60)
    wanted = [msgids[0], msgids[2], *later]
    assert set(wanted) == set(ask(b, "move", queue="q", msgids=[*wanted, "unknown"], to="to"))
    assert ((1, 0), (3, 1)) == (counts(b, "q"), counts(b, "to"))
    b.restart()
    assert ((1, 0), (3, 1)) == (counts(b, "q"), counts(b, "to"))
    handed = b.worker(queues=("to",), slots=9, credit=9)
    handed += b.handed(passed_s=61)
    assert [*there, *wanted] == [d.msgid for d in handed]
    assert {"to"} == {d.queue for d in handed}
    assert [msgids[1]] == [d.msgid for d in b.worker(b"w.2", slots=9, credit=9)]


def test_a_message_keeps_its_attempts() -> None:
    """One that was lost with its worker is handed out from its new queue again, as a second attempt."""
    b = Bench()
    [msgid] = b.publish(1, task="t")
    [lost] = b.worker(tasks={"t": "l"})
    b.pass_time(20)
    assert [msgid] == ask(b, "move", queue="q", msgids=[msgid], to="to")
    b.reply(lost)
    assert b.state(msgid) is None
    [again] = b.worker(b"w.2", queues=("to",), tasks={"t": "l"})
    b.reply(again)
    assert (1, 2, "SUCCESS") == (attempt_of(lost), attempt_of(again), b.state(msgid))


def test_what_can_not_be_moved() -> None:
    """What is handed out, in another queue or counted for something else is passed over; browse tells it."""
    b = Bench()
    [out] = b.publish(1)
    b.worker()
    [part] = b.publish(1, chord="c:0")
    [other] = b.publish(1, queue="other")
    [plain] = b.publish(1)
    assert [plain] == ask(b, "move", queue="q", msgids=[out, other, plain], to="to")
    assert [] == ask(b, "move", queue="to", msgids=[plain], to="to")
    assert [] == ask(b, "drop", queue="q", msgids=[out, part, plain])
    assert [(part, True)] == [(row["msgid"], row["stays"]) for row in ask(b, "browse", queue="q")]
    assert [part] == ask(b, "move", queue="q", msgids=[part], to="to")


def test_more_than_a_window(tmp_path: Path) -> None:
    """Messages that are on disk only are moved, too, and none comes twice."""
    b = Bench(tmp_path / "data")
    msgids = b.publish(2500)
    for i in range(0, 2500, 500):
        ask(b, "move", queue="q", msgids=msgids[i : i + 500 : 2], to="to")
    handed = b.worker(queues=("q", "to"), slots=5000, credit=5000)
    assert (2500, sorted(msgids)) == (len(handed), sorted(d.msgid for d in handed))
    where = {msgid: ("to" if i % 2 == 0 else "q") for i, msgid in enumerate(msgids)}
    assert where == {d.msgid: d.queue for d in handed}


def test_what_waits_at_a_gate_moves() -> None:
    """What shares a limit moves with it: from the other queue no more run at once than before."""
    b = Bench()
    msgids = b.publish(3, slots="key;1")
    assert (1, 2) == (len(ask(b, "browse", queue="q")), len(ask(b, "browse", queue="q", apart=True)))
    assert set(msgids) == set(ask(b, "move", queue="q", msgids=msgids, to="to"))
    handed = b.worker(queues=("to",), slots=9, credit=9)
    seen = []
    while handed:
        assert 1 == len(handed)
        seen += [handed[0].msgid]
        handed = b.reply(handed[0], ready=1)
    assert sorted(msgids) == sorted(seen)


def test_a_unique_key_is_free_when_its_message_is_dropped() -> None:
    """A message with a unique key keeps it in another queue, and frees it when it is dropped."""
    b = Bench()
    [first] = b.publish(1, once="key;0;done;refuse")
    ask(b, "move", queue="q", msgids=[first], to="to")
    b.publish(1, once="key;0;done;refuse")
    assert [] == ask(b, "browse", queue="q")
    assert [first] == ask(b, "drop", queue="to", msgids=[first])
    [second] = b.publish(1, once="key;0;done;refuse")
    assert [second] == [row["msgid"] for row in ask(b, "browse", queue="q")]


def test_drop() -> None:
    """What is dropped is gone, and publishing it once more within a minute changes nothing."""
    b = Bench()
    msgids = b.publish(2)
    assert msgids[:1] == ask(b, "drop", queue="q", msgids=msgids[:1])
    b.turn((CLIENT, Request(msgid=msgids[0], queue="q", headers=Headers(), payload=b"[]")))
    assert msgids[1:] == [d.msgid for d in b.worker(slots=9, credit=9)]


def test_a_revoked_one_is_shown_as_such() -> None:
    """Browse tells which tasks are revoked."""
    b = Bench()
    msgids = b.publish(2)
    ask(b, "revoke", ids=["t-" + msgids[0]])
    assert [True, False] == [row["revoked"] for row in ask(b, "browse", queue="q")]


@pytest.mark.parametrize(
    ("verb", "arguments", "told"),
    [
        ("browse", {}, "'queue'"),
        ("browse", {"queue": "q", "limit": 0}, "'limit'"),
        ("browse", {"queue": "q", "after": "x"}, "'after'"),
        ("browse", {"queue": "q", "apart": 1}, "'apart'"),
        ("move", {"queue": "q", "msgids": ["x"]}, "'to'"),
        ("move", {"queue": "q", "msgids": ["x"], "to": "a\nb"}, "'to' holds a control character"),
        ("move", {"queue": "q", "msgids": "x", "to": "to"}, "'msgids'"),
        ("drop", {"queue": "q", "msgids": [1]}, "'msgids'"),
    ],
)
def test_wrong_arguments(verb: str, arguments: dict[str, Any], told: str) -> None:
    """A wrong argument is answered by its name."""
    assert told in ask(Bench(), verb, **arguments)
