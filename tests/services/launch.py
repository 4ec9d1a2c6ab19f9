"""Starting a server in a session of its own and waiting until it answers; ending it by pid."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from tests.processes import wait_until
from tests.services.state import Service


class NotStarted(Exception):
    """A server did not come up; the message holds its last words."""


def launch(argv: Sequence[str], log: Path, env: Mapping[str, str]) -> psutil.Popen:
    """Start `argv` in a session of its own, its output appended to `log`."""
    with log.open("ab") as out:
        return psutil.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )


def wait_answer(
    popen: psutil.Popen, port: int, question: bytes, answer: bytes, log: Path, timeout_s: float
) -> None:
    """Wait until the server on `port` answers `question` with something that starts with `answer`.

    :raises NotStarted: when it ends, or the time passes, before.
    """

    def answered_or_ended() -> bool:
        return popen.poll() is not None or _ask(port, question, len(answer)) == answer

    try:
        wait_until(answered_or_ended, timeout_s, interval_s=0.05)
    except TimeoutError as error:
        popen.kill()
        raise NotStarted(f"{error}\n{_last_words(log)}") from None
    if popen.poll() is not None:
        raise NotStarted(f"ended with {popen.returncode}\n{_last_words(log)}")


def end(service: Service, timeout_s: float) -> None:
    """TERM to each of the service's processes, one after the other, then KILL; its data goes with it."""
    family: list[psutil.Process] = []
    for owned in service.owned:
        process = owned.process()
        if process is None:
            continue
        family += [process, *process.children(recursive=True)]
        process.terminate()
        psutil.wait_procs([process], timeout=timeout_s)
    for process in family:
        if process.is_running():
            process.kill()
    psutil.wait_procs(family, timeout=timeout_s)
    shutil.rmtree(service.folder, ignore_errors=True)


def _ask(port: int, question: bytes, size: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(question)
            return connection.recv(size)
    except OSError:
        return b""


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
