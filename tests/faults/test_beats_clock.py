"""Two beats, one killed again and again, under a clock that is put to and fro over a change of its zone."""

from __future__ import annotations

import random
import signal
import sys
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from emq_compat.client import Client
from emq_compat.shim.schedules.cron import crontab
from tests.faults.clock_file import ClockFile
from tests.faults.clocked_beat import INTERVAL_S, LINES
from tests.processes import Proc, Procs, wait_until
from tests.real_minutes import minutes_named

pytestmark = [pytest.mark.integration, pytest.mark.faults]

REPOSITORY = Path(__file__).parents[2]
ZONE = ZoneInfo("Europe/Berlin")
SPRING = datetime(2026, 3, 29, 1, 0, tzinfo=timezone.utc)
AUTUMN = datetime(2026, 10, 25, 1, 0, tzinfo=timezone.utc)

#: A run may come so much later than its minute, on a machine that does other things, too.
LATE_S = 10.0
#: Between the decision on a run and its note of the time.
BLUR_S = 0.25
#: How long the clock is left alone: a beat looks at it once a second.
LEFT_ALONE_S = 3.0
#: What is shown so long must be seen by a beat.
SEEN_S = 2.5


class Story:
    """What was done to the clock: from which real time on it was how much ahead."""

    def __init__(self, clock: ClockFile) -> None:
        self._clock = clock
        self.since: list[float] = []
        self.ahead: list[float] = []

    def put(self, shows: float) -> None:
        """Have the clock show this unix time."""
        now = time.time()
        self.since.append(now)
        self.ahead.append(shows - now)
        self._clock.put(shows - now)

    def shown(self, real: float) -> float:
        """What the clock showed at a real time."""
        return real + self.ahead[max(0, bisect_right(self.since, real) - 1)]

    def most_shown(self, real: float) -> float:
        """The latest that it showed just before a real time."""
        edges = [since for since in self.since if real - BLUR_S < since <= real]
        return max(self.shown(at) for at in (real, real - BLUR_S, *(edge - 1e-6 for edge in edges), *edges))

    def first_shown(self, moment: float, until: float) -> float | None:
        """The real time at which the clock first showed this moment or a later one long enough to be seen."""
        ends = [*self.since[1:], until]
        for since, ahead, end in zip(self.since, self.ahead, ends, strict=True):
            if max(since, moment - ahead) <= end - SEEN_S:
                return max(since, moment - ahead)
        return None


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        pytest.param(AUTUMN, 12, id="back"),
        pytest.param(SPRING, 60, id="on, a minute", marks=pytest.mark.long),
        pytest.param(AUTUMN, 60, id="back, a minute", marks=pytest.mark.long),
    ],
)
def test_no_run_is_missed_and_none_is_sent_twice(
    change: datetime, seconds: int, procs: Procs, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Each minute that an entry names is covered by one run, in time; an interval is one of real time."""
    clock, runs = ClockFile(tmp_path / "clock"), tmp_path / "runs"
    runs.touch()
    story = Story(clock)
    start = change - timedelta(seconds=100)
    story.put(start.timestamp())
    ports = [free_port() for _ in range(3)]
    sockets = [f"tcp://127.0.0.1:{port}" for port in ports]
    url = f"emq://127.0.0.1:{ports[0]}?worker_port={ports[1]}"
    env = {"CLOCK": str(clock.path), "RUNS": str(runs), "BROKER": url}
    procs.start(
        *(sys.executable, "-m", "tests.faults.clocked_broker"),
        *(clock.path, *sockets, tmp_path / "data"),
        name="broker",
        cwd=REPOSITORY,
        ready="serving",
    )
    project = ("-A", "tests.faults.clocked_beat")
    procs.emq("worker", *project, "-P", "threads", "-c", "4", cwd=REPOSITORY, env=env, ready="is ready")

    def beat() -> Proc:
        return procs.emq("beat", *project, "-l", "info", cwd=REPOSITORY, env=env, ready=None)

    beats = [beat(), beat()]
    with Client(url) as client:
        wait_until(lambda: len(client.ask("periodic")) == len(LINES) + 1, 60, what="the beats' entries")
    began = time.time()
    dice, put_at = random.Random(seconds), 0.0
    while (passed_s := time.time() - began) < seconds:
        which = int(passed_s > seconds / 2)
        beats[which].send_signal(signal.SIGKILL)
        beats[which].popen.wait()
        beats[which] = beat()
        if time.time() >= put_at:
            story.put(change.timestamp() + dice.uniform(-90, 60 + 3 * passed_s))
            put_at = time.time() + LEFT_ALONE_S
        again_at = time.time() + 1
        wait_until(lambda again_at=again_at: time.time() >= again_at, 10, interval_s=0.02)  # type: ignore[misc]
    until = time.time()

    def checked() -> list[tuple[float, str]]:
        noted = (line.split("\t") for line in runs.read_text().splitlines())
        sent = sorted((float(real), entry) for entry, real in noted)
        for name, line in LINES.items():
            of_entry = [real for real, entry in sent if entry == name]
            due = [at.timestamp() for at in minutes_named(crontab.from_string(line), ZONE, start, 24 * 60)]
            _check_minutes(name, of_entry, due, story, until)
        return sent

    def all_there() -> bool:
        with suppress(AssertionError):
            return time.time() > until + LEFT_ALONE_S and bool(checked())
        return False

    with suppress(TimeoutError):
        wait_until(all_there, LATE_S)
    sent = checked()
    gaps = [b - a for a, b in pairwise(real for real, entry in sent if entry == "interval")]
    assert min(gaps) > INTERVAL_S - BLUR_S
    assert max(gaps) < INTERVAL_S + LATE_S
    assert "every minute" in {entry for _, entry in sent}


def _check_minutes(name: str, sent: list[float], due: list[float], story: Story, until: float) -> None:
    covered = 0
    for real in sent:
        shown = bisect_right(due, story.most_shown(real))
        assert shown > covered, f"{name}: nothing new was due at {real}, the clock showed {story.shown(real)}"
        covered = shown
    for moment in due:
        first = story.first_shown(moment, until)
        if first is None:
            break
        after = [real for real in sent if real >= first - BLUR_S]
        assert after, f"{name}: {moment} was shown at {first}, and nothing was sent"
        assert after[0] - first < LATE_S, f"{name}: {moment} was shown at {first}, and sent at {after[0]}"
