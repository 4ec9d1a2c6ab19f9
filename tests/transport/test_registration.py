"""How kombu learns of `emq://`."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def _said(code: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ("", 0) == (done.stderr, done.returncode)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "imports",
    [
        "from kombu import Connection, Producer",
        "import kombu.serialization; from kombu import Connection",
        "from kombu import Connection; import emq_compat",
        "import emq_compat.registration; from kombu import Connection",
    ],
)
def test_by_url(imports: str) -> None:
    """The URL is enough wherever kombu has loaded its serializers, or emq_compat is imported after it."""
    made = "c = Connection('emq://127.0.0.1:1'); print(c.transport.driver_type, c.as_uri())"
    said = _said(f"{imports}; {made}")
    assert "emq emq://127.0.0.1:1" == said


def test_costs_nothing() -> None:
    """Telling kombu of the transport loads neither ZeroMQ nor anything else of ours."""
    said = _said(
        "import sys, kombu.serialization as s; "
        "print(sorted(m for m in sys.modules if m.partition('.')[0] in ('zmq', 'emq_compat')), "
        "'emq' in s.registry._encoders)"
    )
    assert "['emq_compat', 'emq_compat.registration'] False" == said
