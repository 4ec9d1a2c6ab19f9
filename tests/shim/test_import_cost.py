"""What importing the shim must not bring along."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

_HEAVY = ("zmq", "kombu", "asyncio", "sqlalchemy", "redis", "pydantic", "psutil", "click", "croniter")


def test_the_import_is_cheap() -> None:
    """ZeroMQ, kombu, asyncio and what only some projects need are imported when they are first used."""
    code = f"import sys, emq_compat.celery_shim; print([name for name in {_HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ("[]", "") == (done.stdout.strip(), done.stderr)
