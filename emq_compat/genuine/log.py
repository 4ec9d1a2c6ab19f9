"""The log of a genuine app's processes in JSON (json_lines.py), where Celery has set it up."""

from __future__ import annotations

import logging
from typing import Any

from celery._state import get_current_task
from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter, task_logger

from emq_compat import json_lines

__all__ = ["in_json"]


def in_json() -> None:
    """Have what Celery's own formatters write be JSON, if that is wanted."""
    if json_lines.wanted():
        handlers = (*logging.getLogger().handlers, *task_logger.handlers)
        json_lines.in_json(handlers, (ColorFormatter, TaskFormatter), _running)


def _running() -> dict[str, Any]:
    """Return what lines tell of the task that runs."""
    task = get_current_task()
    if task is None or not task.request.id:
        return {}
    told = {"task_id": task.request.id, "task_name": task.name}
    queue = (task.request.delivery_info or {}).get("routing_key")
    return {**told, "queue": queue} if queue else told
