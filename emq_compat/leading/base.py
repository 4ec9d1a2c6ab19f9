"""Ledger: what the beats of one schedule share, whatever keeps it."""

from __future__ import annotations

import math
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from emq_compat.errors import ConfigurationError
from emq_compat.ids import new_id

__all__ = ["Held", "LastRun", "Ledger", "life_from", "new_owner"]

#: How long a leader is one without a word, in seconds, unless EMQ_BEAT_LEASE says so; and the least of it.
_LIFE_S = 15.0
_LEAST_S = 1.0


class Held(Enum):
    """What a beat hears when it asks for the lock."""

    NO = "another beat has it"
    KEPT = "it has had it all along"
    TAKEN = "it has it from now on"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """When an entry was sent last.

    Attributes:
        at: unix seconds, by the clock of the beat that sent it.
        total: how often it was sent.
        age_s: seconds since it was noted, by the store's clock where it has one.
    """

    at: float
    total: int
    age_s: float = 0.0


class Ledger(ABC):
    """The lock of one schedule and the last runs of its entries.

    The lock is a lease: who has it says so again within ``life_s`` seconds, or another one takes it. Last
    runs are noted by who has it, and the store looks whether he has in the same step.

    Args:
        schedule: its name.
        owner: this beat, as no other is called.
        life_s: seconds.

    Attributes:
        where: the store in words, without passwords.
        shown: entry → its task and its schedule in words, for those who look into a store that shows them.
    """

    where: str

    def __init__(self, schedule: str, owner: str, life_s: float) -> None:
        self.schedule = schedule
        self.owner = owner
        self.life_s = life_s
        self.shown: dict[str, tuple[str, str]] = {}

    @abstractmethod
    def lead(self) -> Held:
        """Take the lock, if it is free or this beat's, for ``life_s`` from now on.

        Raises:
            OperationalError: the store doesn't answer.
        """

    @abstractmethod
    def resign(self) -> None:
        """Free the lock, if it is this beat's. Raises as ``lead``."""

    @abstractmethod
    def runs(self, names: Collection[str]) -> dict[str, LastRun]:
        """Return what is known of these entries; unknown ones are missing. Raises as ``lead``."""

    @abstractmethod
    def begin(self, entries: Mapping[str, LastRun], *, only: bool) -> None:
        """Add entries that are not known yet; ``only``: forget the others. Raises as ``lead``."""

    @abstractmethod
    def note(self, name: str, run: LastRun) -> bool:
        """Note a run, and have the lock for ``life_s`` more; False: it is another's, nothing was noted.

        Raises as ``lead``.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections that are this ledger's own."""


def new_owner() -> str:
    """Return a name for this beat: machine, process, and an id."""
    return f"{socket.gethostname()[:60]}:{os.getpid()}:{new_id()}"


def life_from(environ: Mapping[str, str]) -> float:
    """Return how long a leader is one without a word, in seconds: EMQ_BEAT_LEASE, or 15.

    Raises:
        ConfigurationError: it is no number of at least 1.
    """
    given = environ.get("EMQ_BEAT_LEASE") or str(_LIFE_S)
    try:
        life_s = float(given)
    except ValueError:
        life_s = 0.0
    if not _LEAST_S <= life_s < math.inf:
        raise ConfigurationError(f"EMQ_BEAT_LEASE is {given!r}, not a number of seconds from 1 on")
    return life_s
