"""Overviews of one broker, one after the other: rates between them, what has failed, whether all is well."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from emq_compat.monitor.overview.failures import Groups
from emq_compat.monitor.overview.verdict import BAD, verdict

__all__ = ["POINTS", "History", "away"]

#: Points of a sparkline, one a second.
POINTS = 90
#: Rates are means over so many seconds: one second alone jumps.
_MEAN_S = 5.0
_LATELY_S = 300.0
#: Nobody has looked for so long: what was counted before tells nothing of the last minutes.
_GAP_S = 30.0
#: Past so many queues those that are gone are forgotten.
_FORGET = 2000
_TOTALS = ("waiting", "delayed", "held", "in_flight", "dead", "chords")

Overview = Mapping[str, Any]


class _Rate:
    """The mean rate of a number that grows, and its last points."""

    __slots__ = ("_known", "points")

    def __init__(self) -> None:
        self._known: deque[tuple[float, int]] = deque()
        self.points: deque[float] = deque(maxlen=POINTS)

    def note(self, at: float, number: int) -> float:
        """Note a number at a time (seconds); returns the mean rate."""
        known = self._known
        if known and (at <= known[-1][0] or at - known[-1][0] > 3 * _MEAN_S):
            known.clear()
        if known:
            last_at, last = known[-1]
            self.points.append(round(max(0.0, (number - last) / (at - last_at)), 1))
        known.append((at, number))
        while len(known) > 2 and at - known[1][0] >= _MEAN_S:
            known.popleft()
        if len(known) < 2:
            return 0.0
        return round(max(0.0, (number - known[0][1]) / (at - known[0][0])), 1)


class _Queue:
    __slots__ = ("came", "handed_out", "moved_at", "out")

    def __init__(self, at: float) -> None:
        self.came = _Rate()
        self.out = _Rate()
        self.handed_out = -1
        self.moved_at = at


class History:
    """What is known of a broker while somebody looks."""

    def __init__(self) -> None:
        self._broker = ""
        self._queues: dict[str, _Queue] = {}
        self._totals = {name: _Rate() for name in ("published", "finished", "failed")}
        self._failed: deque[tuple[float, int]] = deque()
        self._groups = Groups()
        #: The number of the last failure that was told of.
        self.failures_after = 0

    def note(self, overview: Overview, *, everything: bool = True) -> dict[str, Any]:
        """Take in an overview; returns the sections of the page, as JSON values.

        Unless ``everything`` is wanted, ``failures`` is missing where nothing has changed in it.
        """
        sections: dict[str, Any] = {"failures": []} if everything else {}
        if overview["broker"] != self._broker:
            self._begin(overview)
            sections["failures"] = []
        at = overview["uptime_s"]
        if self._groups.add(overview["failures"]):
            self.failures_after = max(failure["number"] for failure in overview["failures"])
            sections["failures"] = []
        if "failures" in sections:
            sections["failures"] = self._groups.listed(overview["failed_by_task"])
        queues = [self._queue(queue, at) for queue in overview["queues"]]
        if len(self._queues) > _FORGET:
            self._queues = {queue["name"]: self._queues[queue["name"]] for queue in queues}
        counters = overview["counters"]
        rates = {name: rate.note(at, counters[name]) for name, rate in self._totals.items()}
        still = {name: at - queue.moved_at for name, queue in self._queues.items()}
        present = [worker for worker in overview["workers"] if worker["present"]]
        sections["verdict"] = verdict(overview, failed_lately=self._lately(at, overview), still_s=still)
        sections["totals"] = {
            **{name: overview[name] for name in _TOTALS},
            "published_s": rates["published"],
            "finished_s": rates["finished"],
            "failed_s": rates["failed"],
            "failed": counters["failed"],
            "finished": counters["finished"],
            "workers": overview["workers_total"],
            "queues": overview["queues_total"],
            "slots": sum(worker["slots"] for worker in present),
            "busy": sum(worker["busy"] for worker in present),
        }
        sections["queues"] = queues
        sections["workers"] = sorted(overview["workers"], key=lambda worker: str(worker["name"]))
        sections["broker"] = {
            "at": overview["at"],
            "id": self._broker,
            "version": overview["version"],
            "uptime_s": overview["uptime_s"],
        }
        if "schedules" in overview:
            sections["schedules"] = _schedules(overview)
        return sections

    def _begin(self, overview: Overview) -> None:
        self._broker = overview["broker"]
        self._groups.restarted()
        self._failed.clear()
        self._queues.clear()
        self.failures_after = 0

    def sparks(self) -> dict[str, Any]:
        """Return the points of all sparklines: what each queue handed out a second, and the totals."""
        return {
            "queues": {name: list(queue.out.points) for name, queue in self._queues.items()},
            "totals": {name: list(rate.points) for name, rate in self._totals.items()},
        }

    def _queue(self, queue: Mapping[str, Any], at: float) -> dict[str, Any]:
        known = self._queues.get(queue["name"])
        if known is None:
            known = self._queues[queue["name"]] = _Queue(at)
        if queue["handed_out"] != known.handed_out or not queue["waiting"]:
            known.handed_out, known.moved_at = queue["handed_out"], at
        # What has come since the start is what is here and what has left.
        came = sum(queue[name] for name in ("waiting", "delayed", "held", "parked", "handed_out"))
        out = known.out.note(at, queue["handed_out"])
        return {
            **queue,
            "in_s": known.came.note(at, came),
            "out_s": out,
            "point": known.out.points[-1] if known.out.points else 0,
        }

    def _lately(self, at: float, overview: Overview) -> int:
        failed = self._failed
        # With the first look, what failed before counts by the times of the failures that are told.
        if failed and at - failed[-1][0] > _GAP_S:
            failed.clear()
        if not failed:
            recent = sum(overview["at"] - one["at"] <= _LATELY_S for one in overview["failures"])
            failed.append((at, overview["counters"]["failed"] - recent))
        failed.append((at, overview["counters"]["failed"]))
        while len(failed) > 1 and at - failed[1][0] > _LATELY_S:
            failed.popleft()
        return failed[-1][1] - failed[0][1]


def away(error: str) -> dict[str, Any]:
    """Return the sections that change when the broker doesn't answer."""
    return {
        "verdict": {
            "level": BAD,
            "text": "The broker doesn't answer",
            "reasons": [{"level": BAD, "text": error, "section": "queues"}],
            "away": True,
        }
    }


_FREQUENCY = re.compile(r"<freq: (?:1\.00 )?(.*)>")
_CRONTAB = re.compile(r"<crontab: (.*) \(m/h/[^)]*\)>")


def _when(shown: str) -> str:
    """Return a schedule, as Celery shows it, in words."""
    if found := _FREQUENCY.fullmatch(shown):
        return f"every {found[1].replace('.00 ', ' ')}"
    if found := _CRONTAB.fullmatch(shown):
        return f"cron {found[1]}"
    return shown


def _schedules(overview: Overview) -> list[dict[str, Any]]:
    """Return what beats and the broker send, the next one first."""
    rows = [
        {
            "name": row["name"],
            "task": row["task"],
            "when": _when(str(row["shown"])),
            "last": row["last"],
            "next": row["next"],
            "runs": row["total"],
            "by": f"beat ({row['schedule']})",
        }
        for row in overview["periodic"]
    ]
    rows += [
        {
            "name": row["task"],
            "task": row["task"],
            "when": row["shown"],
            "last": None,
            "next": row["next"],
            "runs": None,
            "by": "broker",
        }
        for row in overview["schedules"]
    ]
    return sorted(rows, key=lambda row: (row["next"] is None, row["next"] or 0, str(row["name"])))
