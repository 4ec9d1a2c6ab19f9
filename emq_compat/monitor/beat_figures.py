"""The metrics of a beat: which there are, and how what is known of it is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from emq_compat.monitor.figures import Family, Figures, Names
from emq_compat.shim.beat.watch import BeatWatch

__all__ = ["BEAT_FAMILIES", "BeatCounts"]

#: Entries that have series of their own.
MOST_NAMES: Final = 200

BEAT_FAMILIES: Final = (
    Family("emq_beat_entries", "gauge", "Entries of the schedule."),
    Family("emq_beat_next_due_seconds", "gauge", "Until the next of them is due."),
    Family("emq_beat_messages_sent_total", "counter", "Runs that this beat has sent.", ("entry",)),
    Family("emq_beat_send_failures_total", "counter", "Runs that could not be sent.", ("entry",)),
    Family("emq_beat_ticks_total", "counter", "Looks at the schedule."),
    Family("emq_beat_last_tick_seconds", "gauge", "Since the last of them."),
    Family("emq_beat_leads", "gauge", "1; 0 while another beat leads."),
    Family("emq_beat_broker_answers", "gauge", "1; 0 while the broker doesn't answer."),
    Family("emq_beat_uptime_seconds", "gauge", "Since its start."),
)


class BeatCounts:
    """The figures of a beat.

    Args:
        watch: what is known of it.
        clock: monotonic seconds.
    """

    def __init__(self, watch: BeatWatch, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch = watch
        self._clock = clock
        self._names = Names(MOST_NAMES)
        self._began = clock()

    def figures(self, *, broker_answers: bool | None) -> Figures:
        """Return all figures; what isn't known has none. ``broker_answers``: None: it can't be asked."""
        watch, now = self._watch, self._clock()
        due_at, ticked_at, leads = watch.due_at, watch.ticked_at, watch.leads
        plain: dict[str, float | None] = {
            "emq_beat_entries": watch.entries,
            "emq_beat_next_due_seconds": None if due_at is None else max(0.0, due_at - now),
            "emq_beat_ticks_total": watch.ticks,
            "emq_beat_last_tick_seconds": None if ticked_at is None else now - ticked_at,
            "emq_beat_leads": leads,
            "emq_beat_broker_answers": broker_answers,
            "emq_beat_uptime_seconds": now - self._began,
        }
        return {
            **{name: {(): float(value)} for name, value in plain.items() if value is not None},
            "emq_beat_messages_sent_total": self._named(watch.sent),
            "emq_beat_send_failures_total": self._named(watch.failed),
        }

    def _named(self, counts: Mapping[str, int]) -> dict[tuple[str, ...], float]:
        found: dict[tuple[str, ...], float] = {}
        for entry, count in dict(counts).items():  # the loop goes on meanwhile
            label = (self._names.label(entry),)
            found[label] = found.get(label, 0) + count
        return found
