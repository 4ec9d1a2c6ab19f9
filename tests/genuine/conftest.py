"""Collects nothing where genuine Celery isn't installed: `make test` runs this folder by another python."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("celery") else ["test_*.py", "backend"]


@pytest.fixture(autouse=True)
def no_task_runs_here() -> Iterator[None]:
    """What a test made of this process, one that runs tasks and may not wait for results, ends with it."""
    yield
    if find_spec("celery"):
        from celery._state import _set_task_join_will_block

        _set_task_join_will_block(False)
