"""An app of its own for each test, with a client that keeps what is published."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim import current, declare
from emq_compat.shim.program import ShimProgram
from tests.shim.canvases import Tasks
from tests.shim.recorder import Recorder, Worker


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No app is current, and no shared task known, before and after each test."""
    monkeypatch.setattr(declare, "_shared", {})
    monkeypatch.delenv("EMQ_BROKER_ADDR", raising=False)
    current.set_default_app(None)
    yield
    current.set_default_app(None)


@pytest.fixture
def client() -> Recorder:
    """What the app publishes through."""
    return Recorder()


@pytest.fixture
def app(client: Recorder) -> Celery:
    """An app named ``proj``, which is current."""
    made = Celery("proj")
    made.client = client
    return made


@pytest.fixture
def t(app: Celery) -> Tasks:
    """Tasks of the app."""
    return Tasks(app)


@pytest.fixture
def worker(app: Celery, client: Recorder) -> Worker:
    """Runs the app's messages."""
    return Worker(ShimProgram(app), client)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A function that writes an importable module (``pkg.mod``: a package, too), forgotten after the test."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        *packages, last = name.split(".")
        folder = tmp_path
        for package in packages:
            folder /= package
            folder.mkdir(exist_ok=True)
            (folder / "__init__.py").touch()
        (folder / f"{last}.py").write_text(text)
        written.add(name.split(".")[0])

    written: set[str] = set()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    for name in set(sys.modules) - known:
        if name.partition(".")[0] in written:
            del sys.modules[name]
