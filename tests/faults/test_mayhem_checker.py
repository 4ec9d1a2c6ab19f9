"""What the checker of the mayhem finds in ledgers that tell of a broken promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.mayhem.checker import Verdict, judge_folder
from tests.faults.mayhem.ledger import Ledger

pytestmark = pytest.mark.faults

#: The runs of a schedule that no test here is about.
SCHEDULE = [
    {"what": "begin", "task": "scheduled", "id": f"{entry}{n}", "entry": entry, "tick": n * step}
    for entry, step in (("ticks", 1.0), ("interval", 1.5))
    for n in range(3)
]


def deed(target: str, kind: str, at: float, *, name: str = "w0g1", pid: int = 1, hold_s: float = 0.0) -> Any:
    return {
        "what": "deed", "target": target, "deed": kind, "name": name, "pid": pid, "hold_s": hold_s, "at": at,
    }  # fmt: skip


def run(task: str, begin: float, end: float | None, value: int = 7, **about: Any) -> list[dict[str, Any]]:
    """The lines of a run of the one task that the client has published."""
    line = {
        "id": "a", "task": task, "retries": 0, "worker": "w0g1", "pid": 11, "given": None, **about,
    }  # fmt: skip
    lines = [{**line, "what": "begin", "at": begin}]
    return lines if end is None else [*lines, {**line, "what": "end", "at": end, "value": value}]


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Verdict]:
    """A function that judges the story of one task."""

    def judge(
        task: str,
        *runs: list[dict[str, Any]],
        kept: dict[str, Any] | None = None,
        told: dict[str, Any] | None = None,
        diary: tuple[dict[str, Any], ...] = (),
        eta: float = 0.0,
        expires: float = 0.0,
        client: tuple[dict[str, Any], ...] = (),
        dead: tuple[dict[str, Any], ...] = (),
    ) -> Verdict:
        kept = {"state": "SUCCESS", "value": 7} if kept is None else kept
        step = {"task": task, "value": 7, "given": None, "after": [], "eta": eta, "expires": expires}
        ledgers = {
            "client0": [
                {"what": "intend", "canvas": 1, "kind": task, "steps": {"a": step}, "last": ["a"]},
                {"what": "confirmed", "canvas": 1},
                {"what": "told", "id": "a", "at": 50.0, **(kept if told is None else told)},
                *client,
            ],
            "runs": [*(line for lines in runs for line in lines), *SCHEDULE],
            "audit": [{"what": "kept", "id": "a", **kept}, *dead],
            "diary": [
                {"what": "begin", "dead_after_s": 4.0, "at": 0.0},
                *({"what": "works", "role": "beat", "name": f"beat{n}g1", "at": 1.0} for n in range(2)),
                *diary,
            ],
        }  # fmt: skip
        for name, lines in ledgers.items():
            (tmp_path / name).unlink(missing_ok=True)
            ledger = Ledger(tmp_path / name, durable=False)
            for line in lines:
                ledger.write(line)
            ledger.close()
        return judge_folder(tmp_path)

    return judge


LOST = {"state": "FAILURE", "error": "WorkerLostError", "text": "the worker w0g1@here.5 was lost"}
DEAD = {"what": "dead", "msgid": "m", "task_id": "a", "reason": "WorkerLostError", "payload": ""}
REVOKED = {"state": "REVOKED", "error": "TaskRevokedError", "text": "revoked"}


def asked(what: str, whom: str, at: float, heard: float | None) -> tuple[dict[str, Any], ...]:
    """The lines of a client that asks for something, and is told that the broker has it."""
    lines = ({"what": "asks", "done": what, "id": whom, "at": at},)
    return lines if heard is None else (*lines, {"what": "done", "done": what, "id": whom, "at": heard})


def test_nothing_is_found_where_all_is_well(judged: Callable[..., Verdict]) -> None:
    """A task that ran once and whose result was told as it is breaks no promise."""
    assert [] == judged("early", run("early", 10, 11)).faults()


@pytest.mark.parametrize("task", ["early", "late"])
def test_a_task_without_an_end_is_lost(judged: Callable[..., Verdict], task: str) -> None:
    """What was confirmed and is still pending counts as lost."""
    assert 1 == len(judged(task, kept={"state": "PENDING"}, told={"state": "PENDING"}).lost)


def test_an_early_acked_task_may_be_lost_with_its_worker_alone(judged: Callable[..., Verdict]) -> None:
    """A WorkerLostError needs a deed that explains it."""
    begun = run("early", 10, None)
    assert 1 == len(judged("early", begun, kept=LOST).lost)


@pytest.mark.parametrize(
    ("explains", "done"),
    [
        (True, [deed("worker", "KILL", 12)]),
        (True, [deed("worker", "STOP long", 9, hold_s=6)]),
        (True, [deed("child", "KILL", 12, pid=11)]),
        (True, [deed("worker", "TERM", 9), deed("worker", "TERM", 12)]),
        (True, [deed("worker", "TERM all", 9), deed("worker", "TERM all", 12)]),
        (False, [deed("worker", "TERM all", 9)]),
        (False, [deed("worker", "STOP short", 9, hold_s=1.5)]),
        (False, [deed("child", "KILL", 12, pid=12)]),
        (False, [deed("child", "STOP long", 9, pid=11, hold_s=6)]),
        (False, [deed("worker", "TERM", 9)]),
        (False, [deed("zygote", "KILL", 12)]),
        (False, [deed("worker", "KILL", 12, name="w1g1")]),
    ],
)
def test_what_explains_a_loss(
    judged: Callable[..., Verdict], explains: bool, done: list[dict[str, Any]]
) -> None:
    """Of the worker that had it: its kill, that of its child, a silence above the limit, a second TERM."""
    verdict = judged("early", run("early", 10, None), kept=LOST, diary=tuple(done), dead=(DEAD,))
    assert explains == ([] == verdict.lost)


def test_a_lost_task_is_put_aside(judged: Callable[..., Verdict]) -> None:
    """What the broker ended with its worker stands among the dead letters, too."""
    killed = (deed("worker", "KILL", 12),)
    assert 1 == len(judged("early", run("early", 10, None), kept=LOST, diary=killed).lost)


@pytest.mark.parametrize("away", [True, False])
def test_an_end_that_the_broker_has_not_heard_of(judged: Callable[..., Verdict], away: bool) -> None:
    """A run that had ended long before its worker's kill is lost with it only if the broker was away."""
    broker = deed("broker", "STOP long", 9, name="brokerg1", hold_s=30 if away else 1)
    diary = (broker, deed("worker", "KILL", 35))
    verdict = judged("early", run("early", 10, 11), kept=LOST, diary=diary, dead=(DEAD,))
    assert away == ([] == verdict.lost)


def test_a_late_acked_task_may_not_be_lost(judged: Callable[..., Verdict]) -> None:
    """It has to succeed, whatever was done to its worker."""
    verdict = judged("late", run("late", 10, None), kept=LOST, diary=(deed("worker", "KILL", 12),))
    assert 1 == len(verdict.lost)


@pytest.mark.parametrize(
    ("task", "done", "doubled"),
    [
        ("early", [deed("worker", "KILL", 11)], 1),
        ("late", [deed("worker", "KILL", 11)], 0),
        ("late", [deed("broker", "KILL", 11, name="brokerg1")], 1),
    ],
)
def test_a_second_run(
    judged: Callable[..., Verdict], task: str, done: list[dict[str, Any]], doubled: int
) -> None:
    """Only a late-acked task may have one, and only where its worker or its child was lost."""
    again = run(task, 20, 21, worker="w1g1", pid=21)
    verdict = judged(task, run(task, 10, 11), again, diary=tuple(done))
    assert doubled == len(verdict.doubled)


def test_a_result_that_is_not_what_the_task_wrote(judged: Callable[..., Verdict]) -> None:
    """A success needs a run that ended with that value, and what was told must be what is kept."""
    assert 1 == len(judged("early", run("early", 10, 11, value=8)).wrong)
    assert 1 == len(judged("early", run("early", 10, 11), told=LOST).wrong)


def test_a_begin_before_its_time(judged: Callable[..., Verdict]) -> None:
    """A task with an eta must not begin before it."""
    assert 1 == len(judged("early", run("early", 10, 11), eta=10.5).untimely)
    assert [] == judged("early", run("early", 10, 11), eta=9.5).untimely


def test_a_schedules_runs(judged: Callable[..., Verdict]) -> None:
    """A run that is repeated is found, and one that is missing while broker and beats are there."""
    again = {"what": "begin", "task": "scheduled", "id": "again", "entry": "ticks", "tick": 2.0}
    much_later = {"what": "begin", "task": "scheduled", "id": "later", "entry": "interval", "tick": 60.0}
    assert 1 == len(judged("early", run("early", 10, 11), [again]).untimely)
    assert 1 == len(judged("early", run("early", 10, 11), [much_later]).untimely)


def test_an_end_that_nobody_asked_for(judged: Callable[..., Verdict]) -> None:
    """A process that ends otherwise than it was made to is told."""
    ended = {"what": "ended", "role": "worker", "name": "w0g1", "code": 1, "at": 12.0}
    assert 1 == len(judged("early", run("early", 10, 11), diary=(ended,)).exits)
    assert 1 == len(judged("early", run("early", 10, 11), diary=(deed("worker", "TERM", 9), ended)).exits)


@pytest.mark.parametrize(
    ("heard", "wrong"), [(8.0, True), (None, False), (9.5, False)], ids=["in time", "unheard", "late"]
)
def test_a_task_that_was_revoked(judged: Callable[..., Verdict], heard: float | None, wrong: bool) -> None:
    """Where the broker had the revoke before its time it doesn't run; otherwise it may."""
    told = asked("revoke", "a", 7.5, heard)
    assert wrong == bool(judged("early", run("early", 9.6, 11), client=told, eta=9.0).faults())
    assert [] == judged("early", kept=REVOKED, client=told, eta=9.0).faults()


def test_a_task_that_nobody_has_revoked(judged: Callable[..., Verdict]) -> None:
    """REVOKED needs a revoke or an expiry that has passed; and no run, but one that was lost."""
    assert 1 == len(judged("late", kept=REVOKED).wrong)
    assert [] == judged("late", kept=REVOKED, expires=49.0).faults()
    assert 1 == len(judged("late", kept=REVOKED, expires=51.0).wrong)
    killed = (deed("worker", "KILL", 12),)
    begun = run("late", 10, None)
    assert 1 == len(judged("late", begun, kept=REVOKED, expires=11.0).wrong)
    assert [] == judged("late", begun, kept=REVOKED, expires=11.0, diary=killed).faults()
    assert 1 == len(judged("early", run("early", 10, None), kept=REVOKED, expires=11.0, diary=killed).wrong)


def test_a_task_that_was_terminated(judged: Callable[..., Verdict]) -> None:
    """It may have begun, and not have ended before somebody asked for that."""
    told = asked("terminate", "a", 10.5, 10.6)
    assert [] == judged("early", run("early", 10, None), kept=REVOKED, client=told).faults()
    assert 1 == len(judged("early", run("early", 10, 10.4), kept=REVOKED, client=told).wrong)


@pytest.mark.parametrize("held", [False, True])
def test_a_begin_after_the_expiry(judged: Callable[..., Verdict], held: bool) -> None:
    """A task must not begin once it has expired; one whose child was held still may seem to."""
    diary = (deed("child", "STOP long", 9, pid=11, hold_s=6),) if held else ()
    verdict = judged("early", run("early", 12, 13), expires=10.0, diary=diary)
    assert held == ([] == verdict.untimely)


def schedule(late: bool, *begins: float, ended: bool = True) -> list[dict[str, Any]]:
    """The lines of a schedule's runs."""
    name = "counted_late" if late else "counted_early"
    lines = []
    for n, begin in enumerate(begins):
        about = {"id": f"s{n}", "task": name, "retries": 0, "worker": "w0g1", "pid": 11}
        lines.append({**about, "what": "begin", "at": begin, "key": "k"})
        if ended:
            lines.append({**about, "what": "end", "at": begin, "value": None})
    return lines


def kept_schedule(late: bool) -> tuple[dict[str, Any], ...]:
    """The lines of a client that has the broker keep a schedule of two runs."""
    about = {"key": "k", "runs": 2, "haste": True, "late": late}
    intended = {"what": "intend", "canvas": 2, "kind": "schedule", "steps": {}, "last": [], "at": 5.0}
    return ({**intended, "schedule": about}, {"what": "confirmed", "canvas": 2, "at": 5.5})


@pytest.mark.parametrize(
    ("late", "runs", "fault"),
    [
        (True, schedule(True, 5.2, 6.2), ""),
        (True, schedule(True, 5.2), "lost"),
        (True, schedule(True, 5.2, 6.2, ended=False), "lost"),
        (False, schedule(False, 5.2), "lost"),
        (False, schedule(False, 5.2, 6.2, ended=False), ""),
        (True, schedule(True, 5.2, 6.2, 7.2), "doubled"),
        (True, [*schedule(True, 5.2, 6.2), *schedule(True, 8.0)], "doubled"),
        (True, schedule(True, 5.2, 5.8), "untimely"),
    ],
)
def test_a_schedule_that_the_broker_keeps(
    judged: Callable[..., Verdict], late: bool, runs: list[dict[str, Any]], fault: str
) -> None:
    """It has as many runs as it was to have, each once, none before its time, and each to its end if late."""
    verdict = judged("early", run("early", 10, 11), runs, client=kept_schedule(late))
    assert [fault] * bool(fault) == [
        name for name in ("lost", "doubled", "untimely") if getattr(verdict, name)
    ]


def test_an_early_acked_run_of_a_schedule_is_put_aside_or_cost_a_child(
    judged: Callable[..., Verdict],
) -> None:
    """A run without a trace stands among the dead letters, or a child was killed."""
    story = ("early", run("early", 10, 11), schedule(False, 5.2))
    dead = {**DEAD, "task_id": "", "payload": '["run",{"args":["k"]}]'}
    assert [] == judged(*story, client=kept_schedule(False), dead=(dead,)).faults()
    killed = (deed("child", "KILL", 6.0, pid=12),)
    assert [] == judged(*story, client=kept_schedule(False), diary=killed).faults()


def test_a_schedule_that_was_ended(judged: Callable[..., Verdict]) -> None:
    """Once the broker has its UNSCHEDULE no run is sent any more."""
    client = (*kept_schedule(True), *asked("unschedule", "k", 5.6, 5.7))
    assert [] == judged("early", run("early", 10, 11), schedule(True, 5.2), client=client).faults()
    assert 1 == len(judged("early", run("early", 10, 11), schedule(True, 5.2, 6.2), client=client).doubled)
