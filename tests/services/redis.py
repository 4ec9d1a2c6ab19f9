"""A redis-server that keeps nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.services.launch import launch, wait_answer
from tests.services.state import Owned, Service

NAME = "redis"
PACKAGE = "redis-server"


def program() -> str | None:
    """The path of redis-server, or None when it is not installed."""
    return shutil.which("redis-server")


def start(executable: str, port: int, folder: Path) -> Service:
    """Start it on 127.0.0.1:`port` with its data in `folder`.

    :raises NotStarted: when it does not answer.
    """
    log = folder / "redis.log"
    argv = [executable, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    popen = launch([*argv, "--save", "", "--appendonly", "no", "--daemonize", "no"], log, dict(os.environ))
    wait_answer(popen, port, b"PING\r\n", b"+PONG", log, timeout_s=20)
    return Service(
        name=NAME, url=f"redis://127.0.0.1:{port}/0", folder=str(folder), owned=(Owned.of(popen.pid),)
    )
