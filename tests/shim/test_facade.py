"""``emq_compat.celery_shim`` is what ``import celery`` is, without ``install()``."""

from __future__ import annotations

import sys

import pytest

from emq_compat import celery_shim
from emq_compat.celery_shim.utils.log import get_task_logger
from emq_compat.shim import loggers, signals

pytestmark = [pytest.mark.unit]


def test_modules_are_attributes() -> None:
    """What `import celery` has, its modules and theirs included, is there; `celery` isn't imported by it."""
    before = "celery" in sys.modules
    assert celery_shim.signals.task_prerun is signals.task_prerun
    assert celery_shim.schedules.crontab
    assert celery_shim.utils.log.get_task_logger is loggers.get_task_logger
    assert celery_shim.__version__
    assert get_task_logger is loggers.get_task_logger
    assert before == ("celery" in sys.modules)


def test_what_is_not_there() -> None:
    """A name that isn't there is an AttributeError, and an ImportError where it is imported."""
    assert not hasattr(celery_shim, "nothing")
    assert not hasattr(celery_shim, "__nothing__")
    for statement in (
        "from emq_compat.celery_shim import nothing",
        "from emq_compat.celery_shim.signals import nothing",
        "import emq_compat.celery_shim.nothing",
    ):
        with pytest.raises(ImportError, match="nothing"):
            exec(statement, {})
