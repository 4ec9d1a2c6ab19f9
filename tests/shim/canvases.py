"""Tasks to compose, and what a message says of a composition."""

from __future__ import annotations

import json
from typing import Any

from emq_compat.celery_shim import Celery

__all__ = ["Tasks", "celery_part"]


class Tasks:
    """Two tasks of an app: the sum of two numbers, and of a list."""

    def __init__(self, app: Celery) -> None:
        @app.task(name="add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        @app.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        self.add: Any = add
        self.total: Any = total


def celery_part(message: Any) -> Any:
    """What a message says beside the call."""
    return json.loads(message.payload)[1]["celery"]
