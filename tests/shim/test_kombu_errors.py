"""kombu's exceptions catch what publishing raises, and kombu is never imported for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

_SCRIPT = """
import sys
from emq_compat.celery_shim import Celery, EncodeError, NotPublished, OperationalError
from emq_compat.errors import EmqError, QueueFull
from tests.shim.recorder import Recorder

app = Celery("p")
app.client = client = Recorder()

@app.task
def f(x): ...

f.delay(1)
f.apply_async((1,), countdown=1)
assert "kombu" not in sys.modules, "imported for nothing"
{before}

def caught(call, error):
    try:
        call()
    except error as exc:
        return type(exc).__name__
    except Exception as exc:
        return f"not caught: {{type(exc).__mro__}}"

def block():
    with app.pipeline():
        f.delay(1)

def down(*a, **k):
    raise OperationalError("down")

client.failures = [OperationalError("down"), QueueFull("full")]
import kombu.exceptions
names = [caught(lambda: f.delay(1), kombu.exceptions.OperationalError)]
names.append(caught(lambda: f.delay(1), kombu.exceptions.OperationalError))
names.append(caught(lambda: f.delay(object()), kombu.exceptions.EncodeError))
names.append(caught(lambda: f.delay(object()), TypeError))
client.refused = {{0}}
names.append(caught(block, kombu.exceptions.OperationalError))
client.results = client.wait = client.ask = down
names.append(caught(lambda: app.AsyncResult("t").state, kombu.exceptions.OperationalError))
names.append(caught(lambda: app.AsyncResult("t").get(), kombu.exceptions.OperationalError))
names.append(caught(lambda: app.AsyncResult("t").get(), f.OperationalError))
names.append(caught(lambda: app.AsyncResult("t").get(), EmqError))
print(*names)
"""

_NAMES = "OperationalError QueueFull EncodeError EncodeError NotPublished" + " OperationalError" * 4


@pytest.mark.parametrize("before", ["import kombu.exceptions", ""])
def test_kombu_s_exceptions_catch_ours(before: str) -> None:
    """`except kombu.exceptions.OperationalError` around delay() works, whenever kombu was imported."""
    script = _SCRIPT.format(before=before)

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert (_NAMES, "") == (ran.stdout.strip(), ran.stderr)


def test_without_kombu_the_errors_are_ours() -> None:
    """Where kombu isn't installed nothing breaks."""
    script = (
        "import sys\nsys.modules['kombu'] = None\n"
        "from emq_compat.celery_shim import Celery, OperationalError\n"
        "from tests.shim.recorder import Recorder\n"
        "app = Celery('p'); app.client = Recorder()\n"
        "app.client.failures = [OperationalError('down')]\n"
        "@app.task\ndef f(): ...\n"
        "try:\n    f.delay()\nexcept OperationalError as exc:\n    print(exc)\n"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert ("down", "") == (ran.stdout.strip(), ran.stderr)
