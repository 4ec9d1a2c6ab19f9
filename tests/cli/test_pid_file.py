"""Pid files: who holds one, and when it is stale."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from emq_compat.cli.pid_file import pid_file
from emq_compat.errors import ConfigurationError
from emq_compat.shim.surface.platforms import Pidfile
from tests.processes import wait_until

pytestmark = pytest.mark.integration


def test_who_has_ended_and_is_not_reaped_holds_none(tmp_path: Path) -> None:
    """In a container whose first process reaps nobody, the file of a killed worker or beat is stale, too."""
    path = tmp_path / "w.pid"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        path.write_text(f"{process.pid}\n")
        with pytest.raises(ConfigurationError, match=f"process {process.pid} runs already"), pid_file(path):
            pass
        assert not Pidfile(str(path)).remove_if_stale()

        process.kill()
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)

        with pid_file(path):
            assert f"{os.getpid()}\n" == path.read_text()
        path.write_text(f"{process.pid}\n")
        assert Pidfile(str(path)).remove_if_stale()
