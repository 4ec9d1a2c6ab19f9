"""``-D``: the command runs on in the background, once its start has succeeded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from emq_compat.errors import ConfigurationError

__all__ = ["command_line", "for_companion", "go_to_background", "started"]

#: In the environment of the process in the background, until it has started and after.
_VARIABLE = "EMQ_COMPAT_BACKGROUND"
_MARK = b"\0started\0"


def command_line(executable: str | None = None) -> list[str]:
    """Return the command line of this process, with which it can be executed again.

    ``executable`` is the interpreter; None: this one.
    """
    return [executable or sys.executable, *sys.orig_argv[1:]]


def _in_background() -> str:
    # What a task starts inherits the variable, but leads no session.
    return os.environ.get(_VARIABLE, "") if os.getsid(0) == os.getpid() else ""


def go_to_background(executable: str | None = None) -> None:
    """Start this command again in the background, wait for its start, and exit; returns in the background.

    What it writes until then is shown here; the exit status is 0, or its own when it did not start.

    Args:
        executable: the interpreter that runs it there; None: this one.

    Raises:
        ConfigurationError: it can't be executed.
    """
    if _in_background():
        return
    argv = command_line(executable)
    try:
        process = subprocess.Popen(  # noqa: S603 - this very command
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, _VARIABLE: "starting"},
            start_new_session=True,
        )
    except OSError as exc:
        raise ConfigurationError(f"{argv[0]} can't be executed: {exc.strerror or exc}") from exc
    assert process.stdout is not None
    seen = b""
    while part := os.read(process.stdout.fileno(), 1 << 16):
        seen += part
    process.stdout.close()
    said, mark, _ = seen.partition(_MARK)
    click.echo(said.decode("utf-8", "replace"), nl=False)
    if mark:
        sys.exit(0)
    sys.exit(process.wait() or 1)


@contextmanager
def for_companion(log: Path | None) -> Iterator[dict[str, Any]]:
    """Give what subprocess.Popen needs for a process that this one starts beside itself, before ``started``.

    In the background it writes to the log from its beginning: whoever waits in the foreground reads until all
    that have our output have let go of it.
    """
    if _in_background() != "starting":
        yield {}
        return
    environment = {name: value for name, value in os.environ.items() if name != _VARIABLE}
    with open(log or os.devnull, "ab") as output:
        yield {"stdout": output, "stderr": subprocess.STDOUT, "env": environment}


def started(log: Path | None) -> None:
    """Tell whoever waits in the foreground that the start has succeeded; output goes to the log from now on.

    Does nothing in the foreground. Called before any process is forked: those inherit the output.
    """
    if _in_background() != "starting":
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, _MARK)
    os.environ[_VARIABLE] = "started"
    fd = os.open(log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
