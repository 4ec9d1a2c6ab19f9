"""The shim for coroutines: a direct call of an ``async def`` task."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from emq_compat.shim.current import Frame, frame_var

__all__ = ["inside"]

T = TypeVar("T")


async def inside(frame: Frame, awaitable: Awaitable[T]) -> T:
    """Await what a task's body returned, in the body's frame."""
    token = frame_var.set(frame)
    try:
        return await awaitable
    finally:
        frame_var.reset(token)
