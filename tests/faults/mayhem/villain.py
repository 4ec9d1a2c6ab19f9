"""Who kills, stops and terminates."""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from tests.faults.mayhem.fleet import Fleet

__all__ = ["DEEDS", "TARGETS", "Villain"]

TARGETS = ("broker", "worker", "child", "zygote", "client", "beat")
#: What is done, and for how long something is held still, as a multiple of the time for which a worker may be
#: silent.
DEEDS = {
    "KILL": (0.0, 0.0),
    "TERM": (0.0, 0.0),
    "STOP short": (0.02, 0.4),
    "STOP long": (1.3, 1.8),
}
#: TERM to a worker and all of its descendants, in whatever order: so systemd ends what is in a unit.
TERM_ALL = "TERM all"
#: The pause after most deeds, and after the others: a second one strikes while the first is being mended.
PAUSE_S, SHORT_PAUSE_S = (0.3, 5.0), (0.0, 0.3)
SHORT_PAUSES = 0.3
#: So many deeds may strike who is only starting.
HASTY = 0.2


@dataclass(frozen=True, kw_only=True)
class _Held:
    """A process that is held still until then (monotonic)."""

    process: psutil.Process
    until: float


class Villain:
    """Does ``rounds`` deeds, each of every target before one is repeated.

    Args:
        pace: of the pauses between two deeds; 1.0: 2 s on average.
    """

    def __init__(
        self,
        fleet: Fleet,
        rounds: int,
        seed: int,
        *,
        pace: float = 1.0,
        targets: Sequence[str] = TARGETS,
    ) -> None:
        self._fleet = fleet
        self._targets = targets
        self._chance = random.Random(seed)
        self._left = itertools.islice(self._deeds(), rounds)
        self._next: tuple[str, str] | None = next(self._left, None)
        self._pace = pace
        self._due = 0.0
        self._hasty = False
        self._held: list[_Held] = []

    def _deeds(self) -> Iterator[tuple[str, str]]:
        while True:
            deeds = [(target, deed) for target in self._targets for deed in DEEDS]
            if "worker" in self._targets:
                deeds.append(("worker", TERM_ALL))
            self._chance.shuffle(deeds)
            yield from deeds

    def turn(self, now: float) -> bool:
        """Do what is due at ``now`` (monotonic); returns whether there is more to come."""
        for held in [held for held in self._held if held.until <= now]:
            self._let_go(held)
        if self._next is not None and self._due <= now and self._do(*self._next, now):
            self._next = next(self._left, None)
            span = SHORT_PAUSE_S if self._chance.random() < SHORT_PAUSES else PAUSE_S
            self._hasty = self._chance.random() < HASTY
            self._due = now + self._pace * self._chance.uniform(*span)
        return self._next is not None or bool(self._held)

    def _do(self, target: str, deed: str, now: float) -> bool:
        """Do it, if there is such a process right now."""
        member = self._fleet.chosen(target, self._chance, starting=self._hasty)
        if member is None or member.proc is None:
            return False
        try:
            if target in ("child", "zygote"):
                processes = member.descendants(target)
                if not processes:
                    return False
                process = self._chance.choice(processes)
            else:
                process = psutil.Process(member.proc.pid)
            name, _, _ = deed.partition(" ")
            hold_s = self._fleet.size.dead_after_s * self._chance.uniform(*DEEDS.get(deed, (0.0, 0.0)))
            self._fleet.diary.write(
                {
                    "what": "deed", "target": target, "deed": deed, "name": member.name, "pid": process.pid,
                    "hold_s": round(hold_s, 3), "at": time.time(),
                }
            )  # fmt: skip
            struck = [process, *process.children(recursive=True)] if deed == TERM_ALL else [process]
            self._chance.shuffle(struck)
            for one in struck:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.Signals[f"SIG{name}"])
        except psutil.NoSuchProcess:
            return False
        if hold_s:
            self._held.append(_Held(process=process, until=now + hold_s))
        return True

    def _let_go(self, held: _Held) -> None:
        self._held.remove(held)
        if any(other.process == held.process for other in self._held):
            return
        try:
            held.process.send_signal(signal.SIGCONT)
        except psutil.NoSuchProcess:
            return
