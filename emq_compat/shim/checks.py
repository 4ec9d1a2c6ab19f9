"""What a queue's name, a priority, a time limit and a rate must be, wherever they are said."""

from __future__ import annotations

from typing import Any, Final

from emq_compat.ids import MAX_QUEUE_NAME
from emq_compat.shim.exceptions import ImproperlyConfigured

__all__ = ["check_limits", "interval_of", "limit_of", "priority_of", "queue_name"]


def queue_name(queue: Any) -> str:
    """Return the name of a queue given by name or as a kombu Queue.

    Raises:
        ImproperlyConfigured: the name is empty, holds a control character, or is longer than AMQP allows.
    """
    name = queue if isinstance(queue, str) else getattr(queue, "name", queue)
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ImproperlyConfigured(f"{name!r} can't be a queue's name")
    if len(name) > MAX_QUEUE_NAME:
        raise ImproperlyConfigured(
            f"{name[:40] + '…'!r} can't be a queue's name: it has {len(name)} characters, and the most are "
            f"{MAX_QUEUE_NAME}"
        )
    return name


def limit_of(name: str, value: Any) -> float | None:
    """Return a time limit in seconds; raises ValueError where it is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
    return value


def check_limits(hard_s: float | None, soft_s: float | None) -> None:
    """Raise ValueError for a soft time limit that the hard one cuts off."""
    if hard_s and soft_s and soft_s > hard_s:
        raise ValueError("soft_time_limit must be less than or equal to time_limit")


def interval_of(rate: Any) -> float | None:
    """Return the seconds between two runs that a ``rate_limit`` allows; None: no limit.

    ``rate`` is a number (in a second), or text: ``10``, ``10/s``, ``100/m``, ``5/h``. None and 0: no limit.

    Raises:
        ValueError: it is something else.
    """
    if rate is None:
        return None
    number, slash, unit = str(rate).partition("/")
    try:
        times = float(number)
        per_s = _UNITS_S[unit.strip() if slash else "s"]
    except (ValueError, KeyError):
        times, per_s = -1.0, 1.0
    if not 0 <= times < 1e9:
        raise ValueError(f"rate_limit must be a number, or one with /s, /m or /h, not {rate!r}")
    return per_s / times if times else None


_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def priority_of(value: Any) -> int:
    """Return a priority, 0 to 9; raises ValueError where it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise ValueError(f"priority must be 0 to 9, not {value!r}")
    return value
