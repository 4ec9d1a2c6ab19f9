"""`emq-compat events` on a terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.cli.conftest import Site
from tests.cli.screen import Screen

pytestmark = [pytest.mark.integration]


def test_colours_are_used_unless_there_should_be_none(site: Site, on_screen: Callable[..., Screen]) -> None:
    """States stand there in colours, with NO_COLOR in none; q and TERM put the terminal in order."""
    site.start_broker()
    command = ("events", "-A", "proj")
    screens = coloured, plain = on_screen(*command), on_screen(*command, NO_COLOR="1")
    for screen in screens:
        screen.wait("No workers discovered")
    site.start_worker("-E", "-P", "solo")
    site.emq("call", "proj.add", "-b", site.url, "-a", "[1, 2]")
    for screen in screens:
        screen.wait("SUCCESS")
    assert [True, False] == [screen.coloured for screen in screens]
    os.write(coloured.fd, b"q")
    plain.process.send_signal(signal.SIGTERM)
    assert [0, 0] == [screen.ended() for screen in screens]


def test_a_terminal_that_is_not_known_is_said(site: Site, on_screen: Callable[..., Screen]) -> None:
    """It ends with one line that says what to do instead."""
    site.start_broker()
    screen = on_screen("events", "-b", site.url, TERM="no-such-terminal")
    assert 1 == screen.ended()
    said = screen.read()
    assert "TERM=no-such-terminal" in said
    assert "--dump writes lines" in said
    assert "Traceback" not in said
