"""How long results are kept: the setting result_expires."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from emq_compat.shim.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from emq_compat.shim.settings import Settings

__all__ = ["seconds_kept"]


def seconds_kept(conf: Settings) -> float | None:
    """Return how long results are kept: None as the broker is told, 0 without end (result_expires).

    Raises:
        ImproperlyConfigured: the setting is no time.
    """
    if "result_expires" not in conf.changes:
        return None
    value = conf.result_expires
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ImproperlyConfigured(f"result_expires is a number of seconds or a timedelta, not {value!r}")
    return float(value)
