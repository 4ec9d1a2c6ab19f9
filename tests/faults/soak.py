"""A broker, a worker that replaces its children, and a client, for millions of tasks: does anything grow?

    python -m tests.faults.soak [-n 3000000] [--rate 1650] [--csv FILE] [--every 5]

Tasks succeed, fail, are tried again and leave memory behind in their children, which are replaced after
20,000 tasks or above a limit of memory. Once in the warm-up the worker stands still until a backlog waits:
a machine that others use makes one at any time, whose memory is taken only once. Every
few seconds the memory (RSS and PSS), the file descriptors and the threads of each process, the size of
the journal, and how much the broker holds (tasks that wait, are delayed, and run, and results) go into a
CSV: a step of memory beside a peak of what is held is no growth. In the end every task must have run as
often as it should; through the memory of each process that lived all the time after the warm-up a line is
fitted, and printed as percents an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from tests.broker_process import Broker
from tests.faults.soak_tasks import runs, runs_of
from tests.processes import Proc, Procs, unused_port, wait_until

REPOSITORY = Path(__file__).parents[2]

#: Results are kept for so long: a few minutes after the start as many go as come.
RESULTS_KEPT_S = 60
#: So much of the run is warm-up, but at most so many seconds: what has a limit in time is full then.
WARM_UP, WARM_UP_S = 0.35, 420.0
#: After so much of the run the worker stands still until so many tasks wait, but not until it counts as lost.
STILL_AT, BACKLOG, STILL_MOST_S = 0.1, 5000, 4.0
FIELDS = (
    *("at_s", "role", "pid", "rss_kb", "anon_kb", "pss_kb", "fds", "threads", "children"),
    *("waiting", "delayed", "in_flight", "results", "journal_kb"),
)


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the broker holds at one time: tasks, results, and the size of its journal (KiB)."""

    waiting: int = 0
    delayed: int = 0
    in_flight: int = 0
    results: int = 0
    journal_kb: int = 0


@dataclass(frozen=True, kw_only=True)
class Sample(Held):
    """One process at one time, and what the broker held then.

    Attributes:
        at_s: seconds since the start.
        rss_kb, anon_kb, pss_kb: resident memory; what of it is no file's; and with its part of what it
            shares with others.
        children: how many direct children it has.
    """

    at_s: float
    role: str
    pid: int
    rss_kb: int
    anon_kb: int
    pss_kb: int
    fds: int
    threads: int
    children: int


@dataclass(frozen=True, kw_only=True)
class Course:
    """What became of one process after the warm-up.

    Attributes:
        rss_mb: median of its resident memory.
        rss_slope, anon_slope: percents an hour; pages of files come and go as the system likes.
        fds, threads: (median of the first third, of the last third, the most).
    """

    role: str
    pid: int
    rss_mb: float
    rss_slope: float
    anon_slope: float
    fds: tuple[float, float, int]
    threads: tuple[float, float, int]

    def __str__(self) -> str:
        return (
            f"{self.role:<9} pid {self.pid:<7} {self.rss_mb:6.1f} MB  RSS {self.rss_slope:+6.2f} %/h  "
            f"of no file {self.anon_slope:+6.2f} %/h  fds {_shown(self.fds)}  threads {_shown(self.threads)}"
        )


def _shown(course: tuple[float, float, int]) -> str:
    first, last, most = course
    return f"{first:g} → {last:g} (most {most})"


@dataclass(kw_only=True)
class Report:
    """What the soak came to.

    Attributes:
        tasks, seconds: how many were published, and in how long.
        missed, doubled: numbers of tasks that ran less, or more often, than they should.
        said: the client's last line.
        courses: of each process that lived from the warm-up to the end.
        recycled: how many children there were in all.
        journal: bytes of the journal at each sample after the warm-up.
        left: what the broker has left in the end.
        read: how many results the client has read.
        held: what the broker held at each sample after the warm-up.
        ended: processes that ended before their time.
    """

    tasks: int
    seconds: float
    missed: Sequence[int]
    doubled: Sequence[int]
    said: str
    courses: Sequence[Course]
    recycled: int
    journal: Sequence[int]
    left: Mapping[str, int]
    read: int = 0
    ended: Sequence[str] = field(default_factory=list)
    held: Sequence[Held] = field(default_factory=list)

    def __str__(self) -> str:
        mb = [size / 2**20 for size in self.journal] or [0.0]
        third = max(len(mb) // 3, 1)
        lines = [
            f"{self.tasks} tasks in {self.seconds:.0f} s ({self.tasks / self.seconds:.0f} a second), "
            f"{self.recycled} children; missed {len(self.missed)}, doubled {len(self.doubled)}; {self.said}",
            f"journal {statistics.median(mb[:third]):.0f} → {statistics.median(mb[-third:]):.0f} MB "
            f"(most {max(mb):.0f}); left in the broker: {dict(self.left)}",
        ]
        for name in ("waiting", "delayed", "in_flight", "results"):
            lines.append(f"{name} {_shown(_course([getattr(held, name) for held in self.held] or [0]))}")
        return "\n".join([*lines, *map(str, self.courses), *self.ended])


class Soak:
    """The processes, and what is noted of them."""

    def __init__(self, procs: Procs, folder: Path, *, memory_kb: int = 52_000, tasks_per_child: int = 20_000):
        self.samples: list[Sample] = []
        self.held: list[tuple[float, Held]] = []
        self.runs = folder / "runs"
        self.broker = Broker(procs, unused_port, folder / "data")
        self._procs = procs
        env = {"RUNS": str(self.runs), "SOAK_RESULT_EXPIRES": str(RESULTS_KEPT_S)}
        self._env = env
        self.broker.start("--result-expires", str(RESULTS_KEPT_S))
        self.worker = procs.emq(
            "worker", "-A", "tests.faults.soak_tasks", "-b", self.broker.url, "-c", "2", "-l", "error",
            "--max-tasks-per-child", str(tasks_per_child), "--max-memory-per-child", str(memory_kb),
            cwd=REPOSITORY, env=env,
        )  # fmt: skip
        wait_until(lambda: self.broker.client.ask("workers"), 30, what="the worker")
        self._children: set[int] = set()
        self._began = time.monotonic()

    def run(self, tasks: int, rate: float, every_s: float, note: Callable[[Sample], object]) -> Report:
        """Publish so many tasks at this rate, take samples, and wait until all have run."""
        self._began = time.monotonic()
        publisher = self._procs.python(
            "-m", "tests.faults.soak_publisher", self.broker.url, str(tasks), str(rate),
            name="publisher", cwd=REPOSITORY, env=self._env,
        )  # fmt: skip
        next_sample = self._began + every_s
        still_at = self._began + STILL_AT * tasks / rate
        while publisher.alive():
            for sample in self._sample(publisher):
                self.samples.append(sample)
                note(sample)
            while publisher.alive() and time.monotonic() < next_sample:
                self._children.update(child.pid for child in self._forked())
                if time.monotonic() >= still_at:
                    self._stand_still(min(BACKLOG, tasks // 20))
                    still_at = math.inf
                time.sleep(0.2)
            next_sample += every_s
        seconds = time.monotonic() - self._began
        assert 0 == publisher.wait(), publisher.tail()
        self._await_end()
        return self._report(tasks, seconds, publisher)

    def _stand_still(self, backlog: int) -> None:
        """Stop the worker until so many tasks wait."""
        self.worker.send_signal(signal.SIGSTOP)
        with contextlib.suppress(TimeoutError):  # on a slow machine fewer do
            wait_until(lambda: self._held().waiting >= backlog, STILL_MOST_S)
        self.worker.send_signal(signal.SIGCONT)

    def _await_end(self) -> None:
        def left() -> int:
            stats = self.broker.client.ask("queues")
            return sum(row["waiting"] + row["delayed"] + row["in_flight"] for row in stats)

        wait_until(lambda: left() == 0, 120, what="an empty broker")

    def _forked(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.worker.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _sample(self, publisher: Proc) -> Iterator[Sample]:
        assert self.broker.proc is not None
        at_s = time.monotonic() - self._began
        held = self._held()
        self.held.append((at_s, held))
        yield from _sample_of("broker", self.broker.proc.pid, at_s, held)
        yield from _sample_of("client", publisher.pid, at_s, held)
        yield from _sample_of("worker", self.worker.pid, at_s, held)
        for child in self._forked():
            self._children.add(child.pid)
            yield from _sample_of("forked", child.pid, at_s, held)

    def _held(self) -> Held:
        rows = self.broker.client.ask("queues", timeout_s=60)
        size = sum(file.stat().st_size for file in self.broker.data.glob("journal.*"))
        return Held(
            **{name: sum(row[name] for row in rows) for name in ("waiting", "delayed", "in_flight")},
            results=self.broker.client.ask("stats", timeout_s=60)["results"],
            journal_kb=size >> 10,
        )

    def _report(self, tasks: int, seconds: float, publisher: Proc) -> Report:
        counts = Counter(runs(self.runs))
        warm = min(seconds * WARM_UP, WARM_UP_S)
        stats = self.broker.client.ask("stats")
        return Report(
            tasks=tasks,
            seconds=seconds,
            missed=[n for n in range(tasks) if counts[n] < runs_of(n)],
            doubled=[n for n in range(tasks) if counts[n] > runs_of(n)],
            said=(said := publisher.output().splitlines()[-1]),
            read=int(re.findall(r"read (\d+)", said)[0]),
            courses=courses([sample for sample in self.samples if sample.at_s >= warm]),
            recycled=len(self._children),
            journal=[held.journal_kb << 10 for at_s, held in self.held if at_s >= warm],
            held=[held for at_s, held in self.held if at_s >= warm],
            left={name: stats[name] for name in ("results", "dead", "journal_bytes") if name in stats},
            ended=[
                f"{proc.name} ended with {proc.returncode}: {proc.tail(3)}"
                for proc in (self.broker.proc, self.worker)
                if proc is not None and not proc.alive()
            ],
        )


def _sample_of(role: str, pid: int, at_s: float, held: Held) -> Iterator[Sample]:
    try:
        process = psutil.Process(pid)
        memory = process.memory_full_info()
        yield Sample(
            at_s=round(at_s, 1),
            role=role,
            pid=pid,
            rss_kb=memory.rss >> 10,
            anon_kb=anonymous_kb(pid),
            pss_kb=memory.pss >> 10,
            fds=process.num_fds(),
            threads=process.num_threads(),
            children=len(process.children()),
            **asdict(held),
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return


def anonymous_kb(pid: int) -> int:
    """What a process has resident that is no file's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0


def courses(samples: Sequence[Sample]) -> list[Course]:
    """Fit a line through the memory of each process that is in all of the samples but the last two."""
    times = sorted({sample.at_s for sample in samples})
    by_pid: dict[int, list[Sample]] = {}
    for sample in samples:
        by_pid.setdefault(sample.pid, []).append(sample)
    return [
        Course(
            role=own[0].role,
            pid=pid,
            rss_mb=statistics.median(sample.rss_kb for sample in own) / 1024,
            rss_slope=slope([(sample.at_s, sample.rss_kb) for sample in own]),
            anon_slope=slope([(sample.at_s, sample.anon_kb) for sample in own]),
            fds=_course([sample.fds for sample in own]),
            threads=_course([sample.threads for sample in own]),
        )
        for pid, own in by_pid.items()
        if len(own) >= max(len(times) - 2, 3)
    ]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Percents an hour by which the fitted line rises, of its height in the middle."""
    at, heights = [p[0] for p in points], [p[1] for p in points]
    rise, _ = statistics.linear_regression(at, heights)
    return 100 * 3600 * rise / statistics.fmean(heights)


def _course(counts: Sequence[int]) -> tuple[float, float, int]:
    third = max(len(counts) // 3, 1)
    return statistics.median(counts[:third]), statistics.median(counts[-third:]), max(counts)


def soak(tasks: int, rate: float, every_s: float, file: Path, **more: int) -> Report:
    """Run it, with the samples in a CSV file."""
    with tempfile.TemporaryDirectory() as name, file.open("w", newline="") as out:
        folder = Path(name)
        (folder / "procs").mkdir()
        procs = Procs(folder / "procs")
        table = csv.writer(out)
        table.writerow(FIELDS)

        def note(sample: Sample) -> None:
            table.writerow([getattr(sample, column) for column in FIELDS])
            out.flush()

        try:
            return Soak(procs, folder, **more).run(tasks, rate, every_s, note)
        except BaseException:
            print(procs.report(), file=sys.stderr)
            raise
        finally:
            procs.close()


def main() -> None:
    """Run once and print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=3_000_000, help="tasks")
    parser.add_argument("--rate", type=float, default=1650.0, help="tasks a second")
    parser.add_argument("--every", type=float, default=5.0, help="seconds from one sample to the next")
    parser.add_argument("--csv", type=Path, default=Path("soak.csv"), help="file for the samples")
    given = parser.parse_args()
    print(soak(given.n, given.rate, given.every, given.csv), flush=True)


if __name__ == "__main__":
    main()
