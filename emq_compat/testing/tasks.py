"""``celery.contrib.testing.tasks``: a task that tells that a worker is there."""

from __future__ import annotations

from emq_compat.shim.declare import shared_task

__all__ = ["ping"]


@shared_task(name="celery.ping")
def ping() -> str:
    """Return ``pong``."""
    return "pong"
