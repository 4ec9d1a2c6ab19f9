"""The contract of counting a chord's parts in a result store, where the broker counts none.

A store that has it is told of each part's end by whoever ran the part, ours or a worker of Celery's; the one
that is told of the last one publishes the body. For the others somebody asks again and again whether all
parts have ended (the task celery.chord_unlock).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emq_compat.backends.base import Tree

__all__ = ["ChordCounter", "Claim", "PartResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That all parts of a chord have ended, and that who has it publishes its body.

    Attributes:
        chord: the chord's id, that of its header's group.
        token: names the claim.
    """

    chord: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """What a part came to: ``result`` as a record of Celery's has it."""

    task_id: str
    state: str
    result: Any


class ChordCounter(ABC):
    """All methods may raise OperationalError: the store can't be reached."""

    @abstractmethod
    def begin(self, chord: str, size: int, tree: Tree | None) -> None:
        """Say how many parts a chord has, before its last one is published.

        Args:
            tree: its header's results, where one of them is a group's: the body gets lists in a list.
        """

    @abstractmethod
    def grow(self, chord: str) -> None:
        """Add one to the number of parts."""

    @abstractmethod
    def ended(self, chord: str, part: PartResult, index: int | None) -> Claim | None:
        """Count the end of a part, once however often it is told; None: the body is not the caller's.

        A part that is told again while another has the claim waits until the body is published, or the claim
        has run out: who has it may be the worker that died over this part.

        Args:
            index: its place in the header.
        """

    @abstractmethod
    def results(self, claim: Claim) -> Sequence[PartResult]:
        """Return what the parts came to, in the order of their places."""

    @abstractmethod
    def extend(self, claim: Claim, seconds: float) -> bool:
        """Keep a claim for so long; False: another one has it."""

    @abstractmethod
    def finish(self, claim: Claim) -> None:
        """Forget a chord whose body was published; a part that ends once more changes nothing."""

    @abstractmethod
    def abandon(self, chord: str) -> None:
        """Have a chord that failed not fail once more."""
