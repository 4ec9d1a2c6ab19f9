"""What a client publishes: tasks and workflows whose every step is known beforehand."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from emq_compat.celery_shim import AsyncResult, chain, chord, group
from tests.faults.mayhem import kept_schedules, load

__all__ = ["KINDS", "Afterwards", "Canvas", "made"]

#: How long a step works: most are short.
SHORT_S, LONG_S = 0.12, 1.0
MOST_AHEAD_S = 3.0
#: How long what is terminated would work.
MUCH_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Afterwards:
    """What a client does once its canvas is confirmed.

    Attributes:
        after_s: so much later.
        what: ``revoke``, ``terminate`` or ``unschedule``; whom it concerns.
        do: does it; returns once the broker has it.
    """

    after_s: float
    what: str
    whom: str
    do: Callable[[], object]


@dataclass(kw_only=True)
class Canvas:
    """Something to publish.

    Attributes:
        kind: its name in KINDS.
        steps: task id → the name of its task, the value that it comes to (None: it fails), what it is given
            as its first argument where it is part of a workflow, the ids that it follows, and the unix times
            before which it must not begin (eta) and after which it must not (expires; 0: it may).
        schedule: what the broker is to run again and again, as Counted of story.py has it; None: nothing.
        last: the ids of those steps whose results are waited for.
        publish: publishes it.
        pipelined: it is published in one pipeline.
        afterwards: what is done to it later.
    """

    kind: str
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)
    publish: Callable[[], object] = lambda: None
    pipelined: bool = False
    schedule: dict[str, Any] | None = None
    afterwards: Afterwards | None = None

    def step(
        self,
        task: Any,
        value: int | None,
        *,
        given: Any = None,
        after: Sequence[str] = (),
        eta: float = 0.0,
        expires: float = 0.0,
    ) -> str:
        """Note a step, and return its id."""
        task_id = str(uuid.uuid4())
        name = task.name.rpartition(".")[2]
        self.steps[task_id] = {
            "task": name, "value": value, "given": given, "after": list(after), "eta": eta,
            "expires": expires,
        }  # fmt: skip
        return task_id


def _seconds(chance: random.Random) -> float:
    return round(chance.uniform(0.0, LONG_S if chance.random() < 0.1 else SHORT_S), 3)


def _plain(chance: random.Random, task: Any) -> Canvas:
    canvas = Canvas(kind=task.name.rpartition(".")[2])
    value, options = chance.randrange(1000), {}
    eta = 0.0
    if chance.random() < 0.3:
        options["countdown"] = chance.uniform(0.1, MOST_AHEAD_S)
        eta = time.time() + options["countdown"]
    failing = task is load.failing
    task_id = canvas.step(task, None if failing else value, eta=eta)
    if failing:
        options["link_error"] = load.on_error.s(failed=task_id)
    arguments = (value, _seconds(chance))
    canvas.last = [task_id]
    canvas.publish = lambda: task.apply_async(arguments, task_id=task_id, **options)
    return canvas


def _many(chance: random.Random) -> Canvas:
    canvas = Canvas(kind="pipeline", pipelined=True)
    calls = []
    for _ in range(chance.randint(5, 80)):
        task = chance.choice((load.quick_early, load.quick_late))
        value = chance.randrange(1000)
        task_id = canvas.step(task, value)
        calls.append((task, (value, _seconds(chance)), task_id))
    canvas.last = list(canvas.steps)

    def publish() -> None:
        with load.app.pipeline():
            for task, arguments, task_id in calls:
                task.apply_async(arguments, task_id=task_id)

    canvas.publish = publish
    return canvas


def _group(chance: random.Random) -> Canvas:
    canvas = Canvas(kind="group")
    members = []
    for _ in range(chance.randint(2, 6)):
        task, value = chance.choice((load.early, load.late)), chance.randrange(1000)
        members.append(task.s(value, _seconds(chance)).set(task_id=canvas.step(task, value)))
    canvas.last = list(canvas.steps)
    canvas.publish = group(members).apply_async
    return canvas


def _steps_of(chance: random.Random) -> tuple[Any, Any]:
    """The tasks of a workflow: either of the two ways to acknowledge, or a late header with an early body."""
    return chance.choice(
        (
            (load.step_early, load.body_early),
            (load.step_late, load.body_late),
            (load.step_late, load.body_early),
        )
    )


def _chain(chance: random.Random) -> Canvas:
    canvas = Canvas(kind="chain")
    task, _ = _steps_of(chance)
    before: list[str] = []
    links = []
    for n in range(chance.randint(2, 5)):
        task_id = canvas.step(task, n + 1, given=n, after=before)
        arguments = (_seconds(chance),) if before else (0, _seconds(chance))
        links.append(task.s(*arguments).set(task_id=task_id))
        before = [task_id]
    canvas.last = before
    canvas.publish = chain(*links).apply_async
    return canvas


def _chord(chance: random.Random) -> Canvas:
    canvas = Canvas(kind="chord")
    task, end = _steps_of(chance)
    values = [chance.randrange(100) for _ in range(chance.randint(2, 6))]
    ids = [canvas.step(task, value + 1, given=value) for value in values]
    given = [value + 1 for value in values]
    body = canvas.step(end, sum(given), given=given, after=ids)
    header = [
        task.s(value, _seconds(chance)).set(task_id=task_id)
        for value, task_id in zip(values, ids, strict=True)
    ]
    last = end.s(_seconds(chance)).set(task_id=body)
    canvas.last = [body]
    canvas.publish = lambda: chord(header)(last)
    return canvas


def _nested(chance: random.Random) -> Canvas:
    """A step, a chord of a chain and of steps, and a step."""
    canvas = Canvas(kind="nested")
    task, end = _steps_of(chance)

    def link(given: int, after: Sequence[str], *first: int) -> tuple[str, Any]:
        task_id = canvas.step(task, given + 1, given=given, after=after)
        return task_id, task.s(*first, _seconds(chance)).set(task_id=task_id)

    first_id, first = link(0, (), 0)
    inner_id, inner = link(1, [first_id])
    inner_end_id, inner_end = link(2, [inner_id])
    others = [link(1, [first_id]) for _ in range(chance.randint(1, 3))]
    given = [3, *(2 for _ in others)]
    body_id = canvas.step(end, sum(given), given=given, after=[inner_end_id, *(other for other, _ in others)])
    body = end.s(_seconds(chance)).set(task_id=body_id)
    last_id, last = link(sum(given), [body_id])
    header = group(chain(inner, inner_end), *(signature for _, signature in others))
    canvas.last = [last_id]
    canvas.publish = chain(first, chord(header, body), last).apply_async
    return canvas


def _expiring(chance: random.Random) -> Canvas:
    """Some expire while they wait for their time, some while they wait for a worker, and some don't."""
    canvas = Canvas(kind="expiring")
    task, value = chance.choice((load.early, load.late)), chance.randrange(1000)
    now = time.time()
    eta = now + chance.uniform(0.1, MOST_AHEAD_S) if chance.random() < 0.6 else 0.0
    expires = now + chance.uniform(0.1, MOST_AHEAD_S)
    task_id = canvas.step(task, value, eta=eta, expires=expires)
    when = {"eta": datetime.fromtimestamp(eta, timezone.utc)} if eta else {}
    arguments = (value, _seconds(chance))
    canvas.last = [task_id]
    canvas.publish = lambda: task.apply_async(
        arguments, task_id=task_id, expires=datetime.fromtimestamp(expires, timezone.utc), **when
    )
    return canvas


def _revoke(task_id: str, *, terminate: bool) -> Callable[[], object]:
    return lambda: AsyncResult(task_id, app=load.app).revoke(terminate=terminate)


def _revoked(chance: random.Random) -> Canvas:
    """A task, or a chain, that is revoked before its time, or at about its time."""
    canvas = Canvas(kind="revoked")
    task = chance.choice((load.step_early, load.step_late))
    ahead_s = chance.uniform(0.5, MOST_AHEAD_S)
    first = canvas.step(task, 1, given=0, eta=time.time() + ahead_s)
    links = [task.s(0, _seconds(chance)).set(task_id=first, countdown=ahead_s)]
    canvas.last = [first]
    for n in range(chance.choice((0, 0, 1, 2))):
        task_id = canvas.step(task, n + 2, given=n + 1, after=canvas.last)
        links.append(task.s(_seconds(chance)).set(task_id=task_id))
        canvas.last = [task_id]
    canvas.publish = chain(*links).apply_async if len(links) > 1 else links[0].apply_async
    after_s = chance.uniform(0, 0.3) if chance.random() < 0.7 else ahead_s + chance.uniform(-0.2, 0.2)
    canvas.afterwards = Afterwards(
        after_s=after_s, what="revoke", whom=first, do=_revoke(first, terminate=False)
    )
    return canvas


def _terminated(chance: random.Random) -> Canvas:
    """A task that works for long and is revoked meanwhile, with a signal to whoever runs it."""
    canvas = Canvas(kind="terminated")
    task, value = chance.choice((load.early, load.late)), chance.randrange(1000)
    task_id = canvas.step(task, value)
    canvas.last = [task_id]
    canvas.publish = lambda: task.apply_async((value, MUCH_S), task_id=task_id)
    canvas.afterwards = Afterwards(
        after_s=chance.uniform(0, MUCH_S / 2),
        what="terminate",
        whom=task_id,
        do=_revoke(task_id, terminate=True),
    )
    return canvas


def _schedule(chance: random.Random) -> Canvas:
    """A schedule of a few runs that the broker keeps; some end before."""
    canvas = Canvas(kind="schedule")
    key, runs, haste, late = (
        str(uuid.uuid4()),
        chance.randint(2, 4),
        chance.random() < 0.5,
        chance.random() < 0.5,
    )
    command = kept_schedules.scheduled(key, queue=load.QUEUE, runs=runs, haste=haste, late=late)
    canvas.schedule = {"key": key, "runs": runs, "haste": haste, "late": late}
    canvas.publish = lambda: kept_schedules.said(load.app.conf.broker_url, [command])
    if chance.random() < 0.3:
        end = kept_schedules.unscheduled(command)
        canvas.afterwards = Afterwards(
            after_s=chance.uniform(0, kept_schedules.INTERVAL_S * runs / 2),
            what="unschedule",
            whom=key,
            do=lambda: kept_schedules.said(load.app.conf.broker_url, [end]),
        )
    return canvas


KINDS: dict[str, Callable[[random.Random], Canvas]] = {
    **{
        task.name.rpartition(".")[2]: lambda chance, task=task: _plain(chance, task)
        for task in (
            load.early, load.late, load.kept, load.stubborn, load.flaky_early, load.flaky_late, load.failing,
        )
    },
    "pipeline": _many,
    "group": _group,
    "chain": _chain,
    "chord": _chord,
    "nested": _nested,
    "expiring": _expiring,
    "revoked": _revoked,
    "terminated": _terminated,
    "schedule": _schedule,
}  # fmt: skip


def made(chance: random.Random) -> Canvas:
    """A canvas of a random kind."""
    return KINDS[chance.choice(tuple(KINDS))](chance)
