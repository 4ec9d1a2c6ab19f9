"""Two workers on one queue, Celery's and ours, killed in turn: which steps were lost, and by whom.

    python -m tests.faults.mixed_fleet redis celery ours -n 2000 --every 2

A genuine Celery app publishes plain tasks, chains, chords, retries and tasks with an eta; all are
acknowledged late and redelivered when their worker is lost. What runs says so in a file, with the name of its
worker. In the end every step that never ran to its end is laid to the worker that had it last.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mixed_site import MixedSite, open_mixed_site
from tests.processes import Proc, Procs, unused_port, wait_until
from tests.services.state import service_url

#: Seconds for which a message that a dead worker had taken from Redis stays out of sight.
VISIBILITY_S = 15

#: A step's mark is its kind, a number, and its place in that.
PROJECT = '''
import random, uuid
from celery import chain, chord, group

app.conf.update(
    task_acks_late=True, task_reject_on_worker_lost=True, broker_transport_options={options!r},
)


def _note(what, request, mark):
    worker = request.hostname.partition("@")[0]
    note(f"{{what}} {{mark}} {{worker}} {{request.id}}")


@app.task(bind=True)
def step(self, mark, seconds=0.03):
    _note("start", self.request, mark)
    time.sleep(seconds)
    _note("end", self.request, mark)
    return mark


@app.task(bind=True)
def body(self, results, mark):
    _note("start", self.request, mark)
    expected = [f"{{mark.partition('.')[0]}}.{{n}}" for n in range(len(results))]
    if results != expected:
        note(f"wrong {{mark}} {{results}}")
    _note("end", self.request, mark)
    return mark


@app.task(bind=True, max_retries=2)
def flaky(self, mark):
    attempt = f"{{mark}}.{{self.request.retries}}"
    _note("start", self.request, attempt)
    time.sleep(0.02)
    if self.request.retries < 2:
        try:
            raise self.retry(countdown=0.3)
        finally:
            _note("end", self.request, attempt)
    _note("end", self.request, attempt)
    return mark


def publish(tasks):
    """Publish so many tasks of five kinds; return each step's task id, and what it follows."""
    steps = {{}}

    def signature(task, mark, *before, **more):
        task_id = str(uuid.uuid4())
        steps[mark] = (task_id, list(before))
        return task.set(task_id=task_id, **more)

    sent = []
    fifth = tasks // 5
    for n in range(fifth):
        sent.append(signature(step.si(f"plain{{n}}.0"), f"plain{{n}}.0"))
    for n in range(fifth // 5):
        marks = [f"chain{{n}}.{{i}}" for i in range(5)]
        links = [signature(step.si(mark), mark, *marks[max(i - 1, 0):i]) for i, mark in enumerate(marks)]
        sent.append(chain(*links))
    for n in range(fifth // 8):
        marks = [f"chord{{n}}.{{i}}" for i in range(7)]
        last = f"chord{{n}}.body"
        header = group(signature(step.si(mark), mark) for mark in marks)
        sent.append(chord(header, signature(body.s(last), last, *marks)))
    for n in range(fifth):
        sent.append(signature(flaky.si(f"retry{{n}}"), f"retry{{n}}.0"))
        for attempt in (1, 2):
            steps[f"retry{{n}}.{{attempt}}"] = (steps[f"retry{{n}}.0"][0], [f"retry{{n}}.{{attempt - 1}}"])
    for n in range(tasks - 4 * fifth):
        seconds = random.Random(n).uniform(1, 12)
        sent.append(signature(step.si(f"eta{{n}}.0"), f"eta{{n}}.0", countdown=seconds))
    random.Random(tasks).shuffle(sent)
    for one in sent:
        one.apply_async()
    return steps
'''


#: What is still on the broker: how many messages, and on Redis their texts, taken ones included.
LEFT = """
channel, texts = app.connection_for_read().default_channel, []
if hasattr(channel, "_size"):
    texts = channel.client.lrange(queue, 0, -1) + channel.client.hvals(channel.unacked_key)
    count = len(texts)
else:
    count = channel.queue_declare(queue, passive=True).message_count
left = count, [text.decode() for text in texts]
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the work.

    Attributes:
        follows: every step, and the steps that it follows.
        lines: what the tasks said: (``start``, ``end`` or ``wrong``, step, worker).
        received: the worker whose log says last that it received a step's message: step → worker.
        popped: steps whose message was in a Redis list last: it was taken and not noted as unacknowledged,
            which Celery's worker does in two steps, and ours in one.
        left: messages that the broker still has in the end.
        held: steps whose message is one of them, where that can be told: they wait, and aren't lost.
        kills: how often each worker was killed.
        seconds: from the first publish to the last word.
    """

    follows: Mapping[str, Sequence[str]]
    lines: Sequence[tuple[str, str, str]]
    received: Mapping[str, str]
    popped: Collection[str]
    left: int
    held: Collection[str]
    kills: Mapping[str, int]
    seconds: float

    def lost(self) -> dict[str, str]:
        """Each step that ought to have run and never did, and the worker that had it last.

        What follows a lost step can't run, and counts no more: only the first of them is listed.
        """
        ended = {step for what, step, _ in self.lines if what == "end"}
        missing = [step for step in self.follows if step not in ended]
        first = [step for step in missing if all(before in ended for before in self.follows[step])]
        return {step: self._laid_to(step) for step in first if step not in self.held}

    def _laid_to(self, step: str) -> str:
        began = [worker for what, name, worker in self.lines if what == "start" and name == step]
        if step in self.popped and (takers := [name for name in self.kills if name.startswith("celery")]):
            return takers[0] if len(takers) == 1 else "celery"
        if began:
            return began[-1]
        if step in self.received:
            return self.received[step]
        before = [worker for what, name, worker in self.lines if what == "end" and name in self.follows[step]]
        return before[-1] if before else "unknown"

    def wrong(self) -> list[str]:
        """The chords whose body got other results than those of its header."""
        return [step for what, step, _ in self.lines if what == "wrong"]

    def shares(self) -> Counter[str]:
        """How many steps each worker has run to their end, repeats included."""
        return Counter(worker for what, _, worker in self.lines if what == "end")

    def repeats(self) -> int:
        """How many steps were run to their end once more than needed."""
        return sum(self.shares().values()) - len({step for what, step, _ in self.lines if what == "end"})

    def __str__(self) -> str:
        shares, lost = self.shares(), self.lost()
        total = sum(shares.values()) or 1
        return "\n".join(
            [
                f"{len(self.follows)} steps in {self.seconds:.0f} s; kills: {dict(self.kills)}",
                "share of each worker: "
                + ", ".join(
                    f"{name} {count} ({100 * count / total:.0f} %)" for name, count in sorted(shares.items())
                ),
                f"run again after a kill: {self.repeats()}; wrong chords: {self.wrong() or 'none'}",
                f"lost: {len(lost)}; by worker: {dict(Counter(lost.values()))}; still there: {self.left}",
                *(f"  {step}: {worker} had it last" for step, worker in itertools.islice(lost.items(), 30)),
            ]
        )


class Fleet:
    """Two workers on the queue of a site. Their names begin with their kind: ``celery0``, ``ours1``."""

    def __init__(self, site: MixedSite, kinds: Sequence[str]) -> None:
        self.site = site
        self.workers: dict[str, Proc] = {}
        #: Lines that tasks had noted when this worker was started.
        self.said: dict[str, int] = {}
        self.logs: list[tuple[str, Path]] = []
        self.kills: Counter[str] = Counter()
        options = {"visibility_timeout": VISIBILITY_S} if site.kind == "redis" else {}
        site.write_project(PROJECT.format(options=options))
        self.tape: Proc | None = None
        if site.kind == "redis":
            port = site.url.rpartition(":")[2].partition("/")[0]
            self.tape = site.procs.start("redis-cli", "-p", port, "monitor", name="monitor", ready="OK")
        for n, kind in enumerate(kinds):
            self._start(f"{kind}{n}")

    def _start(self, name: str) -> None:
        start = self.site.start_celery_worker if name.startswith("celery") else self.site.start_worker
        worker = start("-c", "2", "-n", f"{name}@%h", ready=None)
        self.workers[name] = worker
        self.said[name] = len(self.site.runs())
        self.logs.append((name, worker.log))

    def run(self, tasks: int, *, every_s: float, kills: int, timeout_s: float) -> Report:
        """Publish, kill one worker after the other until all is done (at most so often), wait, report.

        Who is next is killed once it has begun a step: one that is still starting has nothing to lose.
        """
        began = time.monotonic()
        steps: dict[str, tuple[str, list[str]]] = self.site.ask("publish(n)", n=tasks, timeout_s=300)
        deadline = time.monotonic() + timeout_s
        next_kill = time.monotonic() + every_s
        names = itertools.cycle(list(self.workers))
        victim = next(names)
        quiet_since, known = time.monotonic(), 0
        # Kombu looks every 100 s for what has passed the visibility timeout.
        patience_s = 110 + VISIBILITY_S if self.site.kind == "redis" and kills > 100 else 30
        while time.monotonic() < deadline:
            runs = self.site.runs()
            if len(runs) > known:
                quiet_since, known = time.monotonic(), len(runs)
            if set(steps) <= {line.split()[1] for line in runs if line.startswith("end ")}:
                # A message whose worker was killed between its task's end and the ack comes once more.
                if kills > 100:
                    with contextlib.suppress(TimeoutError):  # the report says what is left
                        wait_until(lambda: not self._left()[0], patience_s, interval_s=0.5)
                break
            if time.monotonic() - quiet_since > patience_s:
                break
            due = sum(self.kills.values()) < kills and time.monotonic() >= next_kill
            if due and self._has_begun(victim, runs):
                self._kill(victim)
                victim, next_kill = next(names), time.monotonic() + every_s
            time.sleep(0.05)
        return self._report(steps, quiet_since - began)

    def _left(self) -> tuple[int, list[str]]:
        self.site.ask(LEFT, queue=self.site.queue("celery"))
        left, texts = self.site.ask("left")
        return left, texts

    def _has_begun(self, name: str, runs: Sequence[str]) -> bool:
        return any(line.startswith("start ") and line.split()[2] == name for line in runs[self.said[name] :])

    def _kill(self, name: str) -> None:
        worker = self.workers[name]
        worker.send_signal_to_group(signal.SIGKILL)
        worker.wait()
        self.kills[name] += 1
        self._start(name)

    def _report(self, steps: Mapping[str, tuple[str, list[str]]], seconds: float) -> Report:
        words = [line.split() for line in self.site.runs()]
        left, texts = self._left()
        return Report(
            follows={step: before for step, (_, before) in steps.items()},
            lines=[(word[0], word[1], word[2]) for word in words if word[0] in ("start", "end", "wrong")],
            received=self._received(steps),
            popped=self._popped(steps),
            left=left,
            held={step for step, (task_id, _) in steps.items() if any(task_id in text for text in texts)},
            kills=self.kills,
            seconds=seconds,
        )

    def _received(self, steps: Mapping[str, tuple[str, list[str]]]) -> dict[str, str]:
        # Both kinds of worker say so. An attempt of a retry can't be told from the one before.
        found: dict[str, list[str]] = defaultdict(list)
        for name, log in self.logs:  # in the order of their starts
            for task_id in re.findall(r"\[([0-9a-f-]{36})\] received", log.read_text(errors="replace")):
                found[task_id].append(name)
        return {
            step: found[task_id][-1]
            for step, (task_id, _) in steps.items()
            if task_id in found and not step.startswith("retry")
        }

    def _popped(self, steps: Mapping[str, tuple[str, list[str]]]) -> set[str]:
        # Redis tells every command: a message that was put into a list and later into no hash was popped.
        if self.tape is None:
            return set()
        # What was put back last may also wait there: `queued` says so.
        last: dict[str, str] = {}
        for line in self.tape.output().splitlines():
            found = re.search(r'] "(LPUSH|RPUSH|HSET)" .*correlation_id[^0-9a-f]+([0-9a-f-]{36})', line, re.I)
            if found:
                last[found[2]] = found[1].upper()
        return {step for step, (task_id, _) in steps.items() if last.get(task_id, "").endswith("PUSH")}


@contextlib.contextmanager
def open_fleet(
    kind: str, kinds: Sequence[str], folder: Path, procs: Procs, amqp_url: str = ""
) -> Iterator[Fleet]:
    """A fleet on a broker of this kind."""
    with open_mixed_site(f"genuine-{kind}", folder, procs, unused_port, lambda: amqp_url) as site:
        yield Fleet(site, kinds)


def main() -> None:
    """Run once and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("broker", choices=["redis", "amqp", "emq"])
    parser.add_argument("workers", nargs="+", choices=["celery", "ours"])
    parser.add_argument("-n", type=int, default=2000, help="tasks")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one kill to the next")
    parser.add_argument("--kills", type=int, default=1000, help="at most so many")
    parser.add_argument("--amqp", default=service_url("amqp"), help="RabbitMQ's URL")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "procs").mkdir()
        procs = Procs(folder / "procs")
        try:
            with open_fleet(given.broker, given.workers, folder, procs, given.amqp or "") as fleet:
                print(fleet.run(given.n, every_s=given.every, kills=given.kills, timeout_s=900))
        finally:
            with contextlib.suppress(AssertionError):  # Celery's children that a kill has left behind
                procs.close()


if __name__ == "__main__":
    main()
