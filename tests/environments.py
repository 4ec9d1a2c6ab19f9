"""Virtual environments for what must not be in that of the tests: stock eventmq, genuine Celery."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["EnvironmentMissing", "genuine_celery", "missing", "stock_eventmq"]

ROOT = Path(__file__).resolve().parents[1]
#: What belongs to genuine Celery, and the tests that import it: they are run by this environment's python.
CELERY = (
    "celery[redis,sqlalchemy]==5.7.0",
    "django-celery-beat>=2.8,<3",
    "django-celery-results>=2.5,<3",
    "flower>=2.0,<3",
    "opentelemetry-instrumentation-celery>=0.41b0,<1",
    "sentry-sdk>=2,<3",
    "selenium>=4.18,<5",
)
#: Stock eventmq pins a pyzmq that no Python since 3.8 can build; with today's libraries it runs.
EVENTMQ = "eventmq==0.3.13"
EVENTMQ_LIBRARIES = ("pyzmq<28", "six<2", "future<2", "croniter<8", "psutil<8", "monotonic<2", "redis<9")


class EnvironmentMissing(Exception):
    """An environment could not be made; the message holds the output."""


def environment(folder: Path, installs: Sequence[Sequence[str]]) -> Path:
    """The `bin` folder of the environment in `folder`, made on first use and again when `installs` changes.

    Each of `installs` is what one call of `pip install` gets.

    :raises EnvironmentMissing: when pip could not install it (no network, say).
    """
    metadata = (ROOT / "setup.cfg").read_text()  # entry points and extras, where the project is installed
    wanted = hashlib.sha256(repr((installs, sys.version_info, str(folder), metadata)).encode()).hexdigest()
    stamp = folder / "stamp"
    lock = folder.with_name(folder.name + ".lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # several test processes may want it at once
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", folder)
            for names in installs:
                pip = (folder / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check")
                _run(*pip, "--no-compile", *names)
            stamp.write_text(wanted)
    return folder / "bin"


def _run(*argv: str | Path) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise EnvironmentMissing(f"{argv[0]} ended with {done.returncode}\n{done.stdout}")


def missing(what: str, error: Exception) -> NoReturn:
    """End a test that needs an environment: skipped, and failed where nothing may be left out."""
    told = f"no environment of {what}: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(told)
    pytest.skip(told)


def genuine_celery() -> Path:
    """The `bin` folder of an environment with Celery and this project, cached below the project's folder."""
    try:
        return _with_celery()
    except EnvironmentMissing as error:
        missing("genuine Celery", error)


def _with_celery() -> Path:
    return environment(ROOT / ".celery-venv", (("-e", f"{ROOT}[test]", *CELERY),))


def stock_eventmq(folder: Path = ROOT / ".stock-venv") -> Path:
    """The `bin` folder of an environment with stock eventmq.

    :raises EnvironmentMissing: when pip could not install it.
    """
    return environment(folder, (("setuptools<81", "wheel"), ("--no-deps", EVENTMQ), EVENTMQ_LIBRARIES))


if __name__ == "__main__":
    # All of them, so that no test waits for one; printed is where Celery's is.
    print(_with_celery())
    try:
        stock_eventmq()
    except EnvironmentMissing as error:
        print(error, file=sys.stderr)
