"""The registered tasks."""

from __future__ import annotations

import pytest

from emq_compat.celery_shim import Celery

pytestmark = [pytest.mark.unit]


def test_attributes_without_effect_are_told() -> None:
    """What Celery acts upon and this release doesn't is named for each task that has it, and for no other."""
    app = Celery("told", set_as_current=False)

    @app.task(name="plain", max_retries=5, acks_late=True)
    def plain() -> None: ...

    @app.task(name="limited", rate_limit="1/s", pydantic=True)
    def limited() -> None: ...

    expected = ["task limited: rate_limit, pydantic without effect in this release"]
    assert expected == app.tasks.problems()
