"""`emq-compat top`: on a terminal, and printed once."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Site
from tests.processes import wait_until

pytestmark = [pytest.mark.integration]

START_S = 30.0


class Screen:
    """A command in a pseudo-terminal."""

    def __init__(self, *argv: str, folder: Path, size: tuple[int, int] = (24, 80), **env: str) -> None:
        self.fd, terminal = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(terminal)
        self.process = subprocess.Popen(
            [COMMAND, *argv],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", **env},
            start_new_session=True,
        )
        self.terminal = terminal
        self.written = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def forget(self) -> None:
        self.read()
        self.written = ""

    def read(self) -> str:
        """Return all that was written, without what moves the cursor."""
        while select.select([self.fd], [], [], 0)[0]:
            self.written += os.read(self.fd, 1 << 16).decode()
        return re.sub(r"\x1b(\[[?\d;]*[a-zA-Z]|[()]B|[=>])", " ", self.written)

    def wait(self, text: str) -> None:
        """Wait until a text was written."""
        pattern = re.compile(r"\s+".join(map(re.escape, text.split())))
        try:
            wait_until(lambda: pattern.search(self.read()), START_S, what=text)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in:\n{self.read()}") from None

    def ended(self) -> int:
        """Return the exit status; the terminal is in order again."""
        # Read, too: what doesn't fit the terminal's buffer would hold it up.
        wait_until(lambda: self.read() is not None and self.process.poll() is not None, START_S)
        assert self.before == termios.tcgetattr(self.terminal)
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)
        os.close(self.terminal)


@pytest.fixture
def screens() -> Iterator[list[Screen]]:
    found: list[Screen] = []
    yield found
    for screen in found:
        screen.close()


def test_on_a_terminal(site: Site, screens: list[Screen]) -> None:
    """It begins without its broker, shows what is there once it is, fits a new size, and ends by q."""
    screen = Screen("top", "-b", site.url, "-d", "0.1", folder=site.folder)
    screens.append(screen)
    screen.wait("The broker doesn't answer")
    broker = site.start_broker()
    screen.wait("No worker is connected")
    site.emq("call", "proj.add", "-b", site.url, "-a", "[1, 2]")
    screen.wait("No worker takes from celery")
    assert "\x1b[31" in screen.written
    screen.forget()
    screen.resize(40, 120)
    os.killpg(screen.process.pid, signal.SIGWINCH)
    screen.wait("queue waiting oldest running in/s out/s workers")
    screen.wait("q quit")
    broker.kill()
    screen.wait("answer")
    os.write(screen.fd, b"q")
    assert 0 == screen.ended()


def test_it_ends_in_order(site: Site, screens: list[Screen]) -> None:
    """TERM ends it as q does; NO_COLOR has it use none; a terminal that isn't known is said."""
    site.start_broker()
    screen = Screen("top", "-b", site.url, folder=site.folder, NO_COLOR="1")
    unknown = Screen("top", "-b", site.url, folder=site.folder, TERM="no-such-terminal")
    screens += [screen, unknown]
    screen.wait("No worker is connected")
    assert not re.search(r"\x1b\[[\d;]*3[1-7]m", screen.written)
    screen.process.send_signal(signal.SIGTERM)
    assert 0 == screen.ended()
    assert 1 == unknown.ended()
    assert "TERM=no-such-terminal" in unknown.read()


def test_printed_once(site: Site) -> None:
    """Without a terminal it is text, or a JSON object; no broker is an error; others' brokers are refused."""
    assert "no broker within" in site.emq("top", "-b", site.url, "--once", status=1)
    site.start_broker()
    said = site.emq("top", "-b", site.url, "-d", "0.1")
    assert "No worker is connected" in said
    assert "\x1b" not in said
    told = json.loads(site.emq("top", "-b", site.url, "-d", "0.1", "--json"))
    assert ["url", "broker", "verdict", "totals", "queues", "workers", "failures"] == list(told)
    assert ("warn", 0) == (told["verdict"]["level"], told["totals"]["waiting"])
    assert "is no broker of emq-compat" in site.emq("top", "-b", "amqp://127.0.0.1//", status=1)
