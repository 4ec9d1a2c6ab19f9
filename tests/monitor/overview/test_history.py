"""What the page shows, made of what the broker tells: rates, groups of failures, the verdict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from emq_compat.monitor.overview.failures import Groups
from emq_compat.monitor.overview.history import History, away
from emq_compat.monitor.overview.verdict import verdict

pytestmark = pytest.mark.unit


def queue(name: str = "q", **more: Any) -> dict[str, Any]:
    counts = ("waiting", "delayed", "held", "parked", "aside", "in_flight", "handed_out")
    told = dict.fromkeys(counts, 0)
    return {"name": name, **told, "workers": 1, "paused": False, "oldest_s": None, **more}


def worker(node: str = "w", **more: Any) -> dict[str, Any]:
    told = {"name": f"{node}.1", "node": node, "slots": 2, "busy": 0, "queues": ["q"], "present": True}
    return {**told, "leaving": False, "running": [], "finished": 0, **more}


def failure(number: int, *, task: str = "t", kind: str = "ValueError", at: float = 1000.0) -> dict[str, Any]:
    error = {"type": kind, "message": f"no {number}"}
    reply = {"value": "no", "state": "FAILURE", "error": error, "traceback": f"Trace {number}"}
    told = {"number": number, "at": at, "task": task, "task_id": f"id{number}", "retries": 0}
    return {**told, "reply": json.dumps(reply)}


def overview(uptime_s: float = 100.0, **more: Any) -> dict[str, Any]:
    told: dict[str, Any] = {
        "at": 1000.0 + uptime_s,
        "broker": "b1",
        "version": "1",
        "uptime_s": uptime_s,
        "counters": {"published": 0, "finished": 0, "failed": 0},
        **dict.fromkeys(("waiting", "delayed", "held", "in_flight", "dead", "chords"), 0),
        "queues": [],
        "queues_total": 0,
        "workers": [worker()],
        "workers_total": 1,
        "failures": [],
        "failed_by_task": {},
    }
    return {**told, **more}


def judged(told: Mapping[str, Any], **more: Any) -> tuple[str, list[str]]:
    """Return the level of an overview and the reasons."""
    found = verdict(told, **{"failed_lately": 0, "still_s": {}, **more})
    return found["level"], [reason["text"] for reason in found["reasons"]]


# Rates


def test_rates_are_means_over_the_last_seconds() -> None:
    """Out is what was handed out, in what is here and what has left; a point is the last second's."""
    history = History()
    for second in range(8):
        told = overview(100.0 + second, queues=[queue(waiting=50, handed_out=20 * second)])
        shown = history.note(told)["queues"][0]
    assert (20.0, 20.0, 20.0) == (shown["out_s"], shown["in_s"], shown["point"])
    told = overview(108.0, queues=[queue(waiting=150, handed_out=140)])
    shown = history.note(told)["queues"][0]
    assert (0.0, 16.0) == (shown["point"], shown["out_s"])
    assert 36.0 == shown["in_s"]
    assert [20.0] * 7 + [0.0] == history.sparks()["queues"]["q"]


def test_a_purge_is_no_negative_rate() -> None:
    """What is dropped was not published: the rate in is 0, and not below."""
    history = History()
    history.note(overview(100.0, queues=[queue(waiting=500)]))
    assert 0.0 == history.note(overview(101.0, queues=[queue()]))["queues"][0]["in_s"]


def test_a_gap_is_no_rate() -> None:
    """After a minute in which nobody looked, rates begin anew; so do they after a restart of the broker."""
    history = History()
    history.note(overview(100.0, queues=[queue(handed_out=10)]))
    assert 0.0 == history.note(overview(160.0, queues=[queue(handed_out=5000)]))["queues"][0]["out_s"]
    told = overview(1.0, broker="b2", queues=[queue(handed_out=3)])
    shown = history.note(told)
    assert (0.0, []) == (shown["queues"][0]["out_s"], shown["failures"])
    assert 0 == history.failures_after


def test_queues_that_are_gone_are_forgotten() -> None:
    """A broker with ever new queues does not fill the dashboard."""
    history = History()
    for n in range(60):
        history.note(overview(100.0 + n, queues=[queue(f"{n}.{i}") for i in range(100)]))
    assert len(history.sparks()["queues"]) <= 2100


# Failures


def test_failures_are_grouped_by_task_and_exception() -> None:
    """A group has its number, its last message and traceback, and its tasks; the last to fail comes first."""
    groups = Groups()
    groups.add([failure(1), failure(2, kind="KeyError"), failure(3), failure(4, task="u", at=2000.0)])
    shown = groups.listed({"t": 3, "u": 1})
    named = [(one["task"], one["exception"], one["count"], one["more"]) for one in shown]
    assert [
        ("u", "ValueError", 1, False),
        ("t", "ValueError", 2, False),
        ("t", "KeyError", 1, False),
    ] == named
    group = shown[1]
    assert ("no 3", "Trace 3", ["id3", "id1"]) == (
        group["message"],
        group["traceback"],
        [one["id"] for one in group["samples"]],
    )


def test_more_failures_than_were_told_are_counted() -> None:
    """Of a task that fails in one way all count; of one that fails in several, each is a lower bound."""
    groups = Groups()
    groups.add([failure(n) for n in range(1, 11)])
    assert [(500, False)] == [(one["count"], one["more"]) for one in groups.listed({"t": 500})]
    groups.add([failure(501, kind="KeyError")])
    assert [(1, True), (10, True)] == [(one["count"], one["more"]) for one in groups.listed({"t": 501})]


@pytest.mark.parametrize("reply", [None, "no JSON", "[1]", '{"error": 5}', "[" * 100_000])
def test_a_failure_that_cant_be_read_is_shown_as_one(reply: str | None) -> None:
    """Whatever a worker has written, there is a group for it."""
    groups = Groups()
    groups.add([{**failure(1), "reply": reply}])
    assert 1 == groups.listed({"t": 1})[0]["count"]


def test_texts_and_groups_are_bounded() -> None:
    """A huge message is cut in its middle; of ever new exceptions the last 200 stay."""
    groups = Groups()
    huge = {"error": {"type": "E" * 5000, "message": "m" * 5000}, "traceback": "t" * 100_000}
    groups.add([{**failure(1), "reply": json.dumps(huge)}])
    [group] = groups.listed({"t": 1})
    assert (200, 503, 20_003) == tuple(len(group[name]) for name in ("exception", "message", "traceback"))
    for n in range(300):
        groups.add([failure(n + 2, kind=f"E{n}")])
    assert 200 == len(groups.listed({}))


def test_failures_are_told_when_they_change() -> None:
    """The section is told with new failures and where everything is wanted, and not otherwise."""
    history = History()
    assert "failures" in history.note(overview(1.0), everything=False)
    assert "failures" not in history.note(overview(2.0), everything=False)
    told = history.note(overview(3.0, failures=[failure(7)]), everything=False)
    assert (7, 1) == (history.failures_after, len(told["failures"]))
    assert 1 == len(history.note(overview(4.0), everything=True)["failures"])


# The verdict


def test_all_is_well() -> None:
    """Nothing waits for long, nothing failed, a worker is there."""
    assert ("ok", []) == judged(overview())
    assert "All is well and quiet" == verdict(overview(), failed_lately=0, still_s={})["text"]


@pytest.mark.parametrize(
    ("told", "more", "level", "reason"),
    [
        (overview(queues=[queue(waiting=3, workers=0)]), {}, "bad", "No worker takes from q"),
        (
            overview(queues=[queue(waiting=3)]),
            {"still_s": {"q": 20.0}},
            "bad",
            "Nothing moves in q though a worker has room",
        ),
        (
            overview(queues=[queue(waiting=3, oldest_s=700.0)], workers=[worker(busy=2)]),
            {"still_s": {"q": 20.0}},
            "warn",
            "The oldest task in q waits for 11 min",
        ),
        (
            overview(queues=[queue(waiting=3, workers=0, paused=True)]),
            {},
            "warn",
            "q is paused; 3 waiting",
        ),
        (
            overview(queues=[queue(waiting=3, aside=3)]),
            {"still_s": {"q": 70.0}},
            "warn",
            "3 tasks in q wait for a rate limit, or a fitting worker",
        ),
        (overview(workers=[], workers_total=0), {}, "warn", "No worker is connected"),
        (
            overview(workers=[], workers_total=0, waiting=1),
            {},
            "bad",
            "No worker is connected, and 1 task waits",
        ),
        (overview(workers=[worker(present=False)]), {}, "warn", "Not connected at the moment: w"),
        (overview(), {"failed_lately": 2}, "warn", "2 tasks failed in the last 5 minutes"),
        (overview(dead=1), {}, "warn", "1 dead letter waits for a decision"),
    ],
)
def test_what_is_not_well_is_said(
    told: Mapping[str, Any], more: dict[str, Any], level: str, reason: str
) -> None:
    """Each trouble has its level and its words."""
    assert (level, [reason]) == judged(told, **more)


def test_failures_of_the_last_minutes_are_counted() -> None:
    """At first by the times of those that are told, then by the count; not over a time without a look."""
    history = History()

    def said(uptime_s: float, failed: int, *failures: dict[str, Any]) -> str:
        counters = {"published": 0, "finished": 0, "failed": failed}
        sections = history.note(overview(uptime_s, counters=counters, failures=list(failures)))
        return " ".join(reason["text"] for reason in sections["verdict"]["reasons"])

    long_ago, just_now = failure(9, at=1500.0), failure(10, at=1999.0)
    assert "1 task failed in the last 5 minutes" == said(1000.0, 10, long_ago, just_now)
    assert "3 tasks failed in the last 5 minutes" == said(1010.0, 12)
    for uptime_s in range(1030, 1310, 20):
        assert "3 tasks failed in the last 5 minutes" == said(uptime_s, 12)
    assert "" == said(1330.0, 12)
    assert "" == said(2000.0, 50)
    assert "1 task failed in the last 5 minutes" == said(2001.0, 51)


def test_the_same_look_twice_is_no_rate() -> None:
    """Two answers of one moment, or of a broker whose clock stands still, divide nothing by nothing."""
    history = History()
    for handed_out in (5, 7):
        shown = history.note(overview(queues=[queue(handed_out=handed_out)]))["queues"][0]
    assert (0.0, 0.0, 0) == (shown["out_s"], shown["in_s"], shown["point"])


def test_the_worst_comes_first() -> None:
    """The level is that of the worst reason, which stands first."""
    told = overview(dead=1, queues=[queue(waiting=1, workers=0)])
    assert ("bad", ["No worker takes from q", "1 dead letter waits for a decision"]) == judged(told)


def test_a_queue_that_moves_is_not_still() -> None:
    """A queue of which nothing was handed out for 15 s, though a worker has room, is; the others aren't."""
    history = History()
    for second in range(20):
        queues = [queue("moves", waiting=9, handed_out=second), queue("still", waiting=9, handed_out=4)]
        told = overview(100.0 + second, queues=queues, workers=[worker(queues=["moves", "still"])])
        reasons = history.note(told)["verdict"]["reasons"]
    assert ["Nothing moves in still though a worker has room"] == [reason["text"] for reason in reasons]


def test_failures_of_the_last_minutes_count() -> None:
    """What failed within five minutes of the first look counts by its time, later ones by the counter."""
    history = History()
    failures = [failure(1, at=1000.0), failure(2, at=1900.0)]
    counters = {"published": 0, "finished": 0, "failed": 2}
    told = history.note(overview(1000.0, failures=failures, counters=counters))
    assert "1 task failed" in told["verdict"]["reasons"][0]["text"]
    told = history.note(overview(1001.0, counters={**counters, "failed": 6}))
    assert "5 tasks failed" in told["verdict"]["reasons"][0]["text"]
    for second in range(1002, 1320, 10):
        told = history.note(overview(float(second), counters={**counters, "failed": 6}))
    assert "ok" == told["verdict"]["level"]


def test_a_broker_that_is_away_is_the_first_thing_said() -> None:
    """The page says that the broker doesn't answer, and why."""
    told = away("no answer within 3 s")["verdict"]
    assert ("bad", "no answer within 3 s") == (told["level"], told["reasons"][0]["text"])


def test_schedules_are_told_in_words_the_next_first() -> None:
    """Celery's schedules are readable, and sorted by their next run; what is not known comes last."""
    periodic = [
        {"schedule": "s", "name": n, "task": "t", "shown": shown, "last": None, "next": at, "total": 0}
        for n, shown, at in (
            ("a", "<crontab: 30 6 * * 1 (m/h/dM/MY/d)>", None),
            ("b", "<freq: 1.00 day>", 900.0),
            ("c", "<freq: 30.00 seconds>", 300.0),
        )
    ]
    own = [{"key": "k", "task": "m.f", "queue": "q", "shown": "every 5 s", "next": 500.0}]
    rows = History().note(overview(periodic=periodic, schedules=own))["schedules"]
    expected = [
        ("c", "every 30 seconds"),
        ("m.f", "every 5 s"),
        ("b", "every day"),
        ("a", "cron 30 6 * * 1"),
    ]
    assert expected == [(row["name"], row["when"]) for row in rows]
