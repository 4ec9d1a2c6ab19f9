"""The file that tells a worker's pid, and keeps a second one from starting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emq_compat.errors import ConfigurationError

__all__ = ["pid_file", "read_pid"]


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold the file during the block; one that a dead process left is taken over. None: no file.

    Raises:
        ConfigurationError: another process, which is alive, holds it, or it can't be written.
    """
    if path is None:
        yield
        return
    try:
        _write(path)
    except OSError as exc:
        raise ConfigurationError(f"the pid file {path} can't be written: {exc.strerror or exc}") from exc
    try:
        yield
    finally:
        if read_pid(path) == os.getpid():
            path.unlink(missing_ok=True)


def _write(path: Path) -> None:
    holder = read_pid(path)
    if holder is not None and holder != os.getpid():
        from emq_compat.shim.surface.processes import is_alive  # noqa: PLC0415 - psutil stays in memory

        if is_alive(holder):
            raise ConfigurationError(f"{path}: process {holder} runs already")
    path.unlink(missing_ok=True)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise ConfigurationError(f"{path}: another worker starts in this moment") from None
    with os.fdopen(fd, "w") as file:
        file.write(f"{os.getpid()}\n")


def read_pid(path: Path) -> int | None:
    """Return the pid in a file; None: there is no such file, or no number in it."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
