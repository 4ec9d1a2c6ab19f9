"""`emq-compat top`: on a terminal, and printed once."""

from __future__ import annotations

import curses
import json
import os
import signal
from collections.abc import Callable

import pytest
from pytest_mock import MockerFixture

from emq_compat.curses_terminal import coloured
from tests.cli.conftest import Site
from tests.cli.screen import Screen

pytestmark = [pytest.mark.integration]


def test_on_a_terminal(site: Site, on_screen: Callable[..., Screen]) -> None:
    """It begins without its broker, shows what is there once it is, fits a new size, and ends by q."""
    screen = on_screen("top", "-b", site.url, "-d", "0.1")
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


def test_it_ends_in_order(site: Site, on_screen: Callable[..., Screen]) -> None:
    """TERM ends it as q does; NO_COLOR has it use none; a terminal that isn't known is said."""
    site.start_broker()
    screen = on_screen("top", "-b", site.url, NO_COLOR="1")
    unknown = on_screen("top", "-b", site.url, TERM="no-such-terminal")
    screen.wait("No worker is connected")
    assert not screen.coloured
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


def test_a_terminal_without_default_colours(mocker: MockerFixture) -> None:
    """Its colours stand on black."""
    of_curses = mocker.patch(
        "emq_compat.curses_terminal.curses", error=curses.error, COLOR_BLACK=curses.COLOR_BLACK
    )
    of_curses.use_default_colors.side_effect = curses.error
    of_curses.color_pair.return_value = 7
    assert {"red": 7} == coloured({"red": curses.COLOR_RED}, wanted=True)
    of_curses.init_pair.assert_called_once_with(1, curses.COLOR_RED, curses.COLOR_BLACK)
