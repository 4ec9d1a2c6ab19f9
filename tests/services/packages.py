"""Debian packages of the servers, installed without letting them start the system's own services."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

POLICY = Path("/usr/sbin/policy-rc.d")  # invoke-rc.d asks it before it starts anything; 101 means "forbidden"
INSTALL_TIMEOUT_S = 900
SYSTEM_USERS = frozenset({"rabbitmq", "redis"})


def can_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(names: Sequence[str]) -> None:
    """Install the packages `names`.

    :raises subprocess.CalledProcessError: when apt-get could not; its output is on standard error.
    """
    with _no_autostart(), _no_stray_daemons():
        _apt_get("update", check=False)  # lists that are only stale may still do
        _apt_get("install", "--yes", "--no-install-recommends", *names, check=True)


def _apt_get(*argv: str, check: bool) -> None:
    subprocess.run(
        ["apt-get", "-qq", *argv],
        check=check,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=INSTALL_TIMEOUT_S,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


@contextmanager
def _no_autostart() -> Iterator[None]:
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


@contextmanager
def _no_stray_daemons() -> Iterator[None]:
    # The packages' scripts may start Erlang's epmd by running RabbitMQ's tools, policy or not.
    before = set(_system_processes())
    try:
        yield
    finally:
        strays = [process for process in _system_processes() if process not in before]
        for process in strays:
            process.terminate()
        psutil.wait_procs(strays, timeout=10)


def _system_processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.username() in SYSTEM_USERS:
                yield process
        except psutil.NoSuchProcess:
            continue
