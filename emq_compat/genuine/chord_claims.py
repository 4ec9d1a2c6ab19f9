"""Celery's claim to a chord in Redis, where it outlives the worker that had it.

Whoever ends a chord's last part claims it (the key ``.c``, for some 6 to 21 s), publishes the body and sets
the claim to ``done``. A worker that dies meanwhile leaves its claim, and a broker that delivers the part
again at once has it end again: Celery then finds the chord claimed, publishes nothing, and the part is
acknowledged. Nothing would come of that chord any more. So a part that was delivered again waits for the
other's claim, and ends once more when that has run out.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["outlive"]

#: How often it is asked whether another's claim has ended.
_LOOK_S: Final = 0.2


def outlive(backend: Any) -> None:
    """Have this result backend's class complete such chords; nothing is changed where it knows no claims."""
    kind = type(backend)
    told = kind.on_chord_part_return
    if hasattr(kind, "_chord_claim_extend_script") and not hasattr(told, "_emq_outlives"):
        kind.on_chord_part_return = _outliving(told)


def _outliving(told: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(told)
    def on_chord_part_return(backend: Any, request: Any, state: str, result: Any, **kwargs: Any) -> Any:
        returned = told(backend, request, state, result, **kwargs)
        came_again = (getattr(request, "delivery_info", None) or {}).get("redelivered")
        if came_again and request.group and request.id and _is_left(backend, request.group):
            return told(backend, request, state, result, **kwargs)
        return returned

    on_chord_part_return._emq_outlives = True  # type: ignore[attr-defined]
    return on_chord_part_return


def _is_left(backend: Any, group: str) -> bool:
    """Wait while somebody has the claim; returns whether the chord is still there then, and nobody's."""
    claim, size = (backend.get_key_for_group(group, kind) for kind in (".c", ".s"))
    while (owner := backend.client.get(claim)) is not None:
        if owner in (b"done", "done"):
            return False
        time.sleep(_LOOK_S)
    return bool(backend.client.exists(size))
