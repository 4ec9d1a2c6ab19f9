"""The registered tasks."""

from __future__ import annotations

import pytest

from emq_compat.celery_shim import Celery

pytestmark = [pytest.mark.unit]


def test_rate_limits_and_pydantic_are_no_problem() -> None:
    """A worker has nothing to say against attributes that have their effect."""
    app = Celery("told", set_as_current=False)

    @app.task(name="limited", rate_limit="1/s", pydantic=True)
    def limited() -> None: ...

    assert [] == app.problems()
