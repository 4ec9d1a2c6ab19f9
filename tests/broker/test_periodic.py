"""What beats ask of the broker: one of several sends a run, and what is on disk says how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emq_compat.broker.periodic import AHEAD_S
from emq_compat.message import new_id
from tests.broker.bench import Bench, job

pytestmark = pytest.mark.unit

MESSAGE = {"queue": "q", "headers": "", "msgid": "m", "payload": "[]"}


class Beats:
    """Asks a broker's engine as beats do."""

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.bench = Bench(folder, **options)
        self.ask = self.bench.ask

    def restart(self) -> None:
        self.bench.restart()

    def begin(self, *names: str, schedule: str = "s", only: bool = True, at: float | None = None) -> Any:
        at = self.bench.wall if at is None else at
        entries = [{"name": n, "task": "t", "shown": "daily", "last_run_at": at} for n in names]
        return self.ask("periodic_begin", schedule=schedule, entries=entries, only=only)["ok"]

    def send(self, name: str, was: str, token: str, at: float | None = None, **more: Any) -> Any:
        message = {"msgid": new_id(), "queue": "q", "headers": "task:t", "payload": job().decode()}
        given = {"schedule": "s", "name": name, "was": was, "token": token, "messages": [message]}
        at = self.bench.wall if at is None else at
        return self.ask("periodic_send", last_run_at=at, **{**given, **more})

    @property
    def waiting(self) -> int:
        queue = self.bench.engine.queues.by_name.get("q")
        return 0 if queue is None else queue.waiting


def test_of_two_beats_one_sends_a_run() -> None:
    """Who has not seen the last run sends nothing and learns of it; both go on from there."""
    beats = Beats()
    beats.begin("e")
    won = beats.send("e", "", "a1", at=beats.bench.wall + 5)["ok"]
    lost = beats.send("e", "", "b1")["ok"]
    assert (True, False, 1) == (won["sent"], lost["sent"], beats.waiting)
    assert won["entry"] == lost["entry"]
    assert (beats.bench.wall + 5, 1, "a1") == tuple(won["entry"].values())[:3]
    assert beats.send("e", lost["entry"]["token"], "b2")["ok"]["sent"]
    assert 2 == beats.waiting


def test_a_beat_says_when_it_means_to_send() -> None:
    """Of an entry that is new, and after each run; nothing is known where it doesn't say."""
    beats = Beats()

    def told() -> Any:
        return beats.ask("periodic")["ok"][0]["next_at"]

    entry = {"name": "e", "task": "t", "shown": "daily", "last_run_at": 5.0, "next_at": 60.0}
    beats.ask("periodic_begin", schedule="s", entries=[entry], only=True)
    assert 60.0 == told()
    beats.send("e", "", "a1", next_at=120.0)
    assert 120.0 == told()
    beats.send("e", "a1", "a2")
    assert told() is None


def test_a_run_whose_confirmation_was_lost_is_sent_once() -> None:
    """The same token again is the same run: it is confirmed, and nothing is published."""
    beats = Beats()
    beats.begin("e")
    for _ in range(3):
        assert beats.send("e", "", "a1")["ok"]["sent"]
    assert (1, 1) == (beats.waiting, beats.ask("periodic")["ok"][0]["total"])


def test_runs_and_entries_are_on_disk(tmp_path: Path) -> None:
    """After a restart of the broker the last runs are those that were sent; an age goes on."""
    beats = Beats(tmp_path / "data")
    beats.begin("e", "never sent")
    beats.bench.turn(passed_s=20)
    beats.send("e", "", "a1")
    beats.bench.turn(passed_s=7)
    beats.restart()
    rows = beats.begin("e", "never sent", at=beats.bench.wall)
    assert (beats.bench.wall - 7, 1, "a1", 7) == tuple(rows["e"].values())
    assert (beats.bench.wall - 27, 0, "", 27) == tuple(rows["never sent"].values())
    assert not beats.send("e", "", "b1")["ok"]["sent"]


def test_what_a_beat_no_longer_names_is_gone_other_schedules_are_not() -> None:
    """A begin with `only` forgets the schedule's other entries; a beat that still has one is told."""
    beats = Beats()
    beats.begin("old", "kept")
    beats.begin("theirs", schedule="another project")
    beats.begin("added", only=False)
    assert {"kept"} == set(beats.begin("kept"))
    assert ["theirs", "kept"] == [row["name"] for row in beats.ask("periodic")["ok"]]
    assert {"sent": False, "entry": None} == beats.send("old", "", "a1")["ok"]
    assert 0 == beats.waiting
    assert 1 == beats.ask("periodic_forget", schedule="another project")["ok"]
    assert ["kept"] == [row["name"] for row in beats.ask("periodic")["ok"]]


def test_an_age_is_real_time_whatever_is_done_to_the_clock() -> None:
    """Where the broker can't know the real time a run counts as sent now."""
    beats = Beats()
    beats.begin("e")
    beats.send("e", "", "a1")
    for step_s in (-3600, 7200, -1800):
        beats.bench.wall += step_s
        beats.bench.turn(passed_s=2)
    assert 6 == beats.ask("periodic_look", schedule="s", names=["e"])["ok"]["e"]["age_s"]


def test_a_restart_with_the_clock_put_back_begins_the_age_anew(tmp_path: Path) -> None:
    """Where the broker can't know the real time the run counts as sent now."""
    beats = Beats(tmp_path / "data")
    beats.begin("e")
    beats.send("e", "", "a1")
    beats.bench.wall -= 3600
    beats.restart()
    assert 0 == beats.ask("periodic_look", schedule="s", names=["e"])["ok"]["e"]["age_s"]


def test_a_clock_that_is_a_day_ahead_sends_nothing() -> None:
    """A beat whose clock is far ahead of the broker's is told by how much; the entry stays as it was."""
    beats = Beats()
    beats.begin("e")
    error = beats.send("e", "", "a1", at=beats.bench.wall + AHEAD_S + 60)["error"]
    assert "MessageError" == error["type"]
    assert "86460 s ahead of the broker's" in error["message"]
    assert 0 == beats.waiting
    assert beats.send("e", "", "a2")["ok"]["sent"]


def test_a_last_run_a_day_ahead_is_corrected() -> None:
    """A clock that was wrong by more than a day, and is right again, stops no entry for ever."""
    beats = Beats()
    beats.begin("e")
    beats.send("e", "", "a1")
    beats.bench.wall -= AHEAD_S - 60
    assert beats.bench.wall + AHEAD_S - 60 == beats.ask("periodic")["ok"][0]["last_run_at"]
    beats.bench.wall -= 120
    row = beats.ask("periodic_look", schedule="s", names=["e"])["ok"]["e"]
    assert (beats.bench.wall, "a1") == (row["last_run_at"], row["token"])


def test_a_full_queue_refuses_and_the_run_stays_due() -> None:
    """What can't be published doesn't count as sent."""
    beats = Beats(queue_limit=1)
    beats.begin("e")
    assert beats.send("e", "", "a1")["ok"]["sent"]
    assert "QueueFull" == beats.send("e", "a1", "a2")["error"]["type"]
    assert "a1" == beats.ask("periodic_look", schedule="s", names=["e"])["ok"]["e"]["token"]


@pytest.mark.parametrize(
    ("verb", "wrong", "named"),
    [
        ("periodic_begin", {"schedule": ""}, "'schedule'"),
        ("periodic_begin", {"schedule": "\ud800"}, "surrogate"),
        ("periodic_begin", {"schedule": "s", "entries": [{"name": 3}]}, "'name'"),
        ("periodic_begin", {"schedule": "s", "entries": [], "only": 1}, "'only'"),
        ("periodic_look", {"schedule": "s", "names": "e"}, "'names'"),
        ("periodic_send", {"messages": [7]}, "'messages'"),
        ("periodic_send", {"last_run_at": float("inf")}, "'last_run_at'"),
        ("periodic_send", {"messages": [{**MESSAGE, "headers": "priority:x"}]}, "priority"),
        ("periodic_send", {"messages": [{**MESSAGE, "queue": "a\nb"}]}, "control character"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(verb: str, wrong: dict[str, Any], named: str) -> None:
    """An argument of a wrong kind is answered with its name; nothing is published or changed."""
    beats = Beats()
    beats.begin("e")
    right = {"schedule": "s", "name": "e", "was": "", "token": "a", "last_run_at": 1.0}
    right |= {"entries": [], "messages": []}
    error = beats.ask(verb, **{**right, **wrong})["error"]
    assert "MessageError" == error["type"]
    assert named in error["message"]
    assert (0, "") == (beats.waiting, beats.begin("e")["e"]["token"])
