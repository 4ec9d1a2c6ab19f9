"""What eventmq's settings make when nothing else is given: the program, and the upstream's patience."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emq_compat.manager.settings import EventmqSettings
from emq_compat.paths import PathProgram
from emq_compat.upstream.session import Timings

__all__ = ["allowed_paths", "timings"]


def allowed_paths(settings: EventmqSettings, allow: Sequence[str]) -> PathProgram:
    setup = settings.subprocess_setup_func
    if not setup and settings.setup_path and settings.setup_callable:
        setup = f"{settings.setup_path}.{settings.setup_callable}"
    return PathProgram(
        (*allow, *settings.allow),
        setup=setup,
        job_entry=settings.job_entry_func,
        job_exit=settings.job_exit_func,
        limit_s=float(settings.global_timeout) if settings.global_timeout else None,
    )


def timings(settings: EventmqSettings) -> Timings:
    silence_s = float(settings.heartbeat_timeout * settings.heartbeat_liveness)
    return Timings(
        stock_interval_s=max(0.5, float(settings.heartbeat_interval)),
        stock_dead_after_s=math.inf if settings.disable_heartbeats else max(1.0, silence_s),
        backoff_max_s=max(0.1, float(settings.reconnect_timeout)),
    )
