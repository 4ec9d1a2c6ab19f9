"""The command itself: its subcommands, its errors, how quickly it is there."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import click
import pytest

from emq_compat.cli.main import COMMANDS

COMMAND = Path(sys.executable).with_name("emq-compat")

pytestmark = pytest.mark.integration


def emq(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([COMMAND, *argv], cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name: str) -> None:
    """A subcommand is the click command of its module that has its name."""
    command = getattr(importlib.import_module(f"emq_compat.cli.{name}"), name)
    assert isinstance(command, click.Command)
    assert (command.help or "").strip()


def test_help_lists_the_commands_without_importing_them() -> None:
    """The list is there without a heavy library."""
    code = (
        "import sys\nfrom emq_compat.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as exc:\n    assert not exc.code\n"
        "heavy = {'zmq', 'kombu', 'celery', 'asyncio', 'multiprocessing', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 0 == done.returncode, done.stderr
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("wroker",), "no command 'wroker'; is worker meant?"),
        (("--nonsense",), "No such option"),
        (("worker",), "worker needs the app: -A proj"),
        (("worker", "-A", "proj", "-B"), "-B: there is no scheduler"),
        (("worker", "-A", "proj", "-l", "loud"), "'loud' is none of debug, info"),
        (("worker", "-A", "proj", "-c", "some"), "'some' is not a valid integer"),
        (("jobmanager", "-c", "0"), "0 is not in the range"),
    ],
)
def test_a_wrong_call_is_a_usage_error(argv: tuple[str, ...], message: str) -> None:
    """What was called wrongly is told in one message, with exit status 2."""
    done = emq(*argv)
    assert 2 == done.returncode
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    """--version tells name and number."""
    assert emq("--version").stdout.startswith("emq-compat 0.")


def test_python_m(tmp_path: Path) -> None:
    """``python -m emq_compat`` is the same command."""
    argv = [sys.executable, "-m", "emq_compat", "wroker"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert 2 == done.returncode
    assert "emq-compat" in done.stderr
