"""Who counts what happens in a job manager: the contract."""

from __future__ import annotations

from typing import Protocol

from emq_compat.message import Delivery
from emq_compat.pool.base import LossReason

__all__ = ["Watch"]


class Watch(Protocol):
    """Is told in the job manager's loop; a method must be quick, and must not raise."""

    def began(self, delivery: Delivery) -> None:
        """A job has begun to run."""

    def ended(self, delivery: Delivery, state: str, runtime_s: float | None) -> None:
        """A job has ended in this state (message.py); ``runtime_s``: None where it never ran."""

    def lost(self, delivery: Delivery, reason: LossReason) -> None:
        """A run has ended without a reply."""
