"""Exceptions that are hard to carry (cases 22 and 23)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emq_compat.failures import TEXT_LIMIT
from tests.cases.conftest import POOLS_AND_KINDS
from tests.processes import Proc
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

TASKS = '''
import asyncio, socket, threading


class TwoArguments(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Holder(Exception):
    def __init__(self):
        super().__init__("holds", threading.Lock(), socket.socket())
        self.args[2].close()


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class OwnBase(BaseException):
    pass


def _local():
    class Local(ValueError):
        pass

    return Local("here")


def _deeper():
    _deeper()


_MADE = {
    "long": lambda: RuntimeError("begin \\x00 \\u00e9\\u2603\\U0001f600\\ud800" + "x" * 5_000_000 + "end"),
    "hostile": lambda: Hostile(object()),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "cancelled": lambda: asyncio.CancelledError(),
    "base": lambda: OwnBase("base"),
    "local": _local,
}


def _throw(self, what):
    if what == "deep":
        _deeper()
    if what == "retry":
        raise self.retry(exc=TwoArguments(7, "seven"))
    if what == "chained":
        raise TwoArguments(7, "seven") from Holder()
    raise _MADE[what]() if what in _MADE else TwoArguments(7, "seven")


@app.task(bind=True, max_retries=0)
def throw(self, what):
    _throw(self, what)


@app.task(bind=True, max_retries=0)
async def async_throw(self, what):
    await asyncio.sleep(0)
    _throw(self, what)
'''

#: What is thrown → the name of the class that the caller gets.
ODD = {
    "long": "RuntimeError",
    "deep": "RecursionError",
    "hostile": "Hostile",
    "exit": "SystemExit",
    "interrupt": "KeyboardInterrupt",
    "cancelled": "CancelledError",
    "base": "OwnBase",
    "local": "Local",
}


@pytest.mark.parametrize(("pool", "kind"), POOLS_AND_KINDS)
@pytest.mark.parametrize("serializer", ["json", pytest.param("pickle", marks=pytest.mark.long)])
def test_exceptions(
    site: Site, assert_alive: Callable[[Proc], None], pool: str, kind: str, serializer: str
) -> None:
    """22, 23: each ends its own task in time, under its name and with bounded text, and nothing else."""
    accepted = f"accept_content=['json', 'pickle'], result_serializer={serializer!r}"
    site.write_project(f"{TASKS}\napp.conf.update({accepted})\n")
    site.start_broker()
    worker = site.start_worker("-P", pool)
    tasks = site.tasks
    throw = getattr(tasks, f"{kind}throw")
    pid = tasks.whereabouts.delay().get(timeout=5)[0]

    for what in ("raise", "retry", "chained"):
        result = throw.delay(what)
        with pytest.raises(tasks.TwoArguments, match=r"^7: seven$"):
            result.get(timeout=2)
        assert "FAILURE" == result.state
        assert "TwoArguments: 7: seven" in result.traceback
        assert_alive(worker)
    for what, name in ODD.items():
        result = throw.delay(what)
        raised = result.get(timeout=3, propagate=False)
        assert ("FAILURE", name) == (result.state, type(raised).__name__), what
        assert len(result.traceback) <= 2 * TEXT_LIMIT
        assert "\x00" not in result.traceback
        if what == "long":
            text = str(raised)
            assert (True, True) == (text.startswith("begin"), text.endswith("end"))
            assert len(text) <= TEXT_LIMIT
        assert_alive(worker)

    if pool != "prefork":
        assert pid == tasks.whereabouts.delay().get(timeout=5)[0]
