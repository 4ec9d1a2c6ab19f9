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
    ) -> Verdict:
        kept = {"state": "SUCCESS", "value": 7} if kept is None else kept
        step = {"task": task, "value": 7, "given": None, "after": [], "eta": eta}
        ledgers = {
            "client0": [
                {"what": "intend", "canvas": 1, "kind": task, "steps": {"a": step}, "last": ["a"]},
                {"what": "confirmed", "canvas": 1},
                {"what": "told", "id": "a", **(kept if told is None else told)},
            ],
            "runs": [*(line for lines in runs for line in lines), *SCHEDULE],
            "audit": [{"what": "kept", "id": "a", **kept}],
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
    verdict = judged("early", run("early", 10, None), kept=LOST, diary=tuple(done))
    assert explains == ([] == verdict.lost)


@pytest.mark.parametrize("away", [True, False])
def test_an_end_that_the_broker_has_not_heard_of(judged: Callable[..., Verdict], away: bool) -> None:
    """A run that had ended long before its worker's kill is lost with it only if the broker was away."""
    broker = deed("broker", "STOP long", 9, name="brokerg1", hold_s=30 if away else 1)
    verdict = judged("early", run("early", 10, 11), kept=LOST, diary=(broker, deed("worker", "KILL", 35)))
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
