"""The contract of an upstream: where a job manager's deliveries come from and its replies go to.

One upstream is one connection to a broker. It is driven by the job manager's loop, in one thread: ``fds`` and
``deadline`` say when, ``step`` does what is due and returns what happened. No call blocks; a lost
connection is the upstream's own affair (back-off, failover, telling the broker again what is held).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from emq_compat.frozen import quickly_made
from emq_compat.message import Delivery, Reply

__all__ = ["Asked", "Connected", "Delivered", "Disconnected", "Key", "Told", "Upstream", "UpstreamEvent"]

#: (msgid, attempt): the name of one hand-out.
Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The broker has acknowledged this worker; the job manager now gives its credit with ``ready``."""

    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The broker is silent or gone; the upstream tries again by itself. All credit is void.

    ``cut`` is False where the connection stands and its broker is only told anew who this is.
    """

    reason: str
    cut: bool = True


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """A message to be run; its (msgid, attempt) must be answered by ``reply`` or ``nack``, once."""

    delivery: Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The broker asks this worker to leave (DISCONNECT): a warm shutdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Remote control: answer with ``answer(asked, …)``. verb and arguments as in docs/protocol.md."""

    asked: str
    verb: str
    arguments: Mapping[str, Any]


UpstreamEvent: TypeAlias = Connected | Disconnected | Delivered | Told | Asked


class Upstream(ABC):
    """Where deliveries come from. Every method is called from the job manager's loop only."""

    @abstractmethod
    def start(self) -> None:
        """Open the connection. Called after the pool has forked. Returns at once; Connected follows."""

    @abstractmethod
    def fds(self) -> Sequence[int]:
        """Return the file descriptors whose readability calls for ``step``."""

    @abstractmethod
    def deadline(self) -> float | None:
        """Return the monotonic time at which ``step`` must be called though nothing is readable."""

    @abstractmethod
    def step(self, now: float) -> list[UpstreamEvent]:
        """Receive what is there (a bounded batch), beat, reconnect; ``now`` is monotonic."""

    @abstractmethod
    def ready(self, count: int) -> None:
        """Give the broker credit for ``count`` further deliveries."""

    @abstractmethod
    def reply(self, key: Key, reply: Reply) -> None:
        """Answer a delivery. Kept, and sent again after a reconnect, until the broker has acknowledged it."""

    @abstractmethod
    def update(self, key: Key, state: str, body: bytes) -> None:
        """Tell a state that isn't final."""

    @abstractmethod
    def nack(self, keys: Sequence[Key]) -> None:
        """Give back deliveries that never began."""

    @abstractmethod
    def began(self, keys: Sequence[Key]) -> None:
        """Note that these have begun: they are no longer listed as not begun."""

    @abstractmethod
    def answer(self, asked: str, body: bytes) -> None:
        """Answer an Asked with a JSON document."""

    @abstractmethod
    def unacknowledged(self) -> int:
        """Return how many replies the broker has not acknowledged yet."""

    @property
    def takes_back(self) -> bool:
        """True when ``nack`` costs nothing, so that more may be asked for than can begin at once."""
        return True

    @property
    def limits(self) -> bool:
        """True where the broker keeps to ``limit``: otherwise what comes too early waits here."""
        return self.takes_back

    @property
    def max_losses(self) -> int:
        """How often a message may go back after its run was lost; 0: any number, or the broker counts."""
        return 0

    def recall(self) -> bool:
        """Take all credit back; False: this upstream can't. What is on its way comes all the same."""
        return False

    @property
    def remembers(self) -> bool:
        """True where the broker knows after a cut what this worker holds.

        Otherwise it hands all of it out again: what has not begun here is forgotten, when it is Disconnected.
        """
        return True

    def epilogues(self) -> list[Delivery]:
        """Return the epilogues (Headers.concludes) that are due, at the end, when there are no children.

        They are answered by ``reply``, as if they had been delivered.
        """
        return []

    @property
    def keeps_revokes(self) -> bool:
        """True where the broker keeps revokes in mind, and stores that a task was revoked."""
        return True

    def scheduled(self) -> list[Delivery]:
        """Return what is held here until its time; where the broker keeps it, nothing."""
        return []

    def stats(self) -> dict[str, Any]:
        """Return what people want to know of it."""
        return {}

    def listen(self, queues: Sequence[tuple[int, str]]) -> bool:
        """Listen on these (weight, name) instead; False: this upstream can't change while it runs.

        True is followed by Disconnected and Connected where credit was void meanwhile.
        """
        return False

    def limit(self, task: str, interval_s: float | None) -> None:  # noqa: B027 - it may do nothing
        """Have no more than one message of this task every so many seconds; None: as many as there are.

        Where an upstream can't do it, it does nothing: the job manager keeps to the limit by itself.
        """

    def resize(self, slots: int) -> None:  # noqa: B027 - it may do nothing
        """Have the broker know that so many jobs run at once from now on."""

    @property
    def announces(self) -> bool:
        """True where ``announce`` has a meaning to the broker that is connected."""
        return False

    def announce(self, topic: str, payload: bytes) -> bool:
        """Tell the topic's subscribers; False: there is no broker now, or it is none that could.

        Nothing is kept, and nobody confirms it.
        """
        return False

    def hear_ends(self, hears: bool) -> None:  # noqa: B027 - it may do nothing
        """Have the broker tell this worker, or no more, what ends before any worker has it (``ended``)."""

    @abstractmethod
    def leave(self) -> None:
        """Say that no more work is wanted: credit is withdrawn, what runs goes on."""

    @abstractmethod
    def stop(self, timeout_s: float) -> None:
        """Flush replies (until acknowledged, at most ``timeout_s``), say goodbye, close."""
