"""``celery.app.autoretry``."""

from __future__ import annotations

from typing import Any

__all__ = ["add_autoretry_behaviour"]

_OPTIONS = frozenset(
    {
        "autoretry_for", "dont_autoretry_for", "retry_backoff", "retry_backoff_max", "retry_jitter",
        "retry_kwargs",
    }
)  # fmt: skip


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Have a task retried by itself, as the options of its decorator (``autoretry_for`` …) would."""
    for name in _OPTIONS & set(options):
        setattr(task, name, options[name])
