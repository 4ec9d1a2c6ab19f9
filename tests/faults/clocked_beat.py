"""A project whose beats read a file as their clock, and whose tasks note when each run was published."""

from __future__ import annotations

import os
import time
from datetime import datetime

from emq_compat.celery_shim import Celery
from emq_compat.shim.beat.entry import BeatLazyFunc
from emq_compat.shim.schedules.cron import crontab
from tests.faults.clock_file import ClockFile

#: Entry → its line. Berlin's clock changes at 01:00 UTC.
LINES = {
    "every minute": "* * * * *",
    "every hour": "2 * * * *",
    "hour 2": "* 2 * * *",
    "once": "1 2 * * *",
    "gap": "30 2 * * *",
}
INTERVAL_S = 2.5


class ClockedApp(Celery):
    """An app's now() is the clock of its schedules."""

    def now(self) -> datetime:
        return ClockFile(os.environ["CLOCK"]).now().astimezone(self.timezone)


app = ClockedApp("clocked", broker=os.environ.get("BROKER", ""))


@app.task(name="clocked.note", ignore_result=True)
def note(entry: str, published: float) -> None:
    """Note a run: its entry, and when (real time) a beat made it."""
    with open(os.environ["RUNS"], "a") as file:
        file.write(f"{entry}\t{published!r}\n")


def _entry(name: str, schedule: object) -> dict[str, object]:
    return {"task": "clocked.note", "schedule": schedule, "args": (name, BeatLazyFunc(time.time))}


app.conf.update(
    timezone="Europe/Berlin",
    beat_schedule={
        **{name: _entry(name, crontab.from_string(line)) for name, line in LINES.items()},
        "interval": _entry("interval", INTERVAL_S),
    },
)
