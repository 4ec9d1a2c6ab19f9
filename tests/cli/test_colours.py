"""Colours are for terminals, and for those who want some: all commands that have any."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import emq_compat
from emq_compat.cli.context import root_context
from emq_compat.cli.main import cli
from emq_compat.cli.terminal import Terminal
from tests.cli.conftest import Site
from tests.cli.screen import Screen

#: What makes something coloured, in the code.
MAKES_COLOURS = re.compile(
    r"\.style\(|secho\(|context(\(\))?\.(OK|ERROR)\b|\.pretty\(|coloured\(|use_color\b"
)
#: Modules that do, and what shows below that they leave it when they should.
SHOWN_BY = {
    "cli/amqp.py": "amqp",
    "cli/context.py": "inspect",
    "cli/multi.py": "multi",
    "cli/remote.py": "inspect",
    "cli/terminal.py": "dev",
    "cli/top.py": "top",
    "cli/top_screen.py": "screen of top",
    "curses_terminal.py": "screen of top",
    "shim/events/screen.py": "screen of events",
    "shim/log.py": "log",
    "shim/loggers.py": "log",
}


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has said that there are to be no colours; what a command says to its children ends with it."""
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.unit
def test_every_module_that_colours_is_tried_here() -> None:
    """What makes colours anywhere stands in the table above."""
    package = Path(emq_compat.__file__).parent
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if MAKES_COLOURS.search(file.read_text()) and "dashboard" not in file.parts
    }
    assert {*SHOWN_BY} == found


def ways(argv: list[str]) -> dict[str, Result]:
    """Run a command on a terminal, with what says that there are to be no colours, and into a pipe."""
    return {
        "terminal": CliRunner().invoke(cli, argv, color=True),
        "-C": CliRunner().invoke(cli, ["-C", *argv], color=True, env={"NO_COLOR": ""}),
        "NO_COLOR": CliRunner().invoke(cli, argv, color=True, env={"NO_COLOR": "1"}),
        "NO_COLOR=0": CliRunner().invoke(cli, argv, color=True, env={"NO_COLOR": "0"}),
        "NO_COLOR=anything": CliRunner().invoke(cli, argv, color=True, env={"NO_COLOR": "anything"}),
        "pipe": CliRunner().invoke(cli, argv),
    }


def coloured(argv: list[str]) -> set[str]:
    """In which of these ways a command writes colours; each says the same, but for times, and none fails."""
    found = ways(argv)
    said = {re.sub(r"\x1b\[[\d;]*m|\d", "", result.output).split("\n")[0] for result in found.values()}
    assert 1 == len(said), said
    assert {0} == {result.exit_code for result in found.values()}
    return {way for way, result in found.items() if "\x1b[" in result.output}


@pytest.mark.unit
def test_multi_and_dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of multi, and the lines of dev."""

    @click.command()
    def lines() -> None:
        Terminal(root_context()).say("changed: proj.py")

    monkeypatch.setattr("emq_compat.cli.main.plugin_command", {"lines": lines}.get)
    monkeypatch.setattr("emq_compat.cli.main.plugin_names", lambda but: {"lines": "here"})
    assert {"terminal"} == coloured(["multi", "kill", "none", f"--pidfile={tmp_path}/%n.pid"])
    assert {"terminal"} == coloured(["lines"])


@pytest.mark.integration
def test_commands_that_ask(site: Site) -> None:
    """What workers answer, what the broker is told, and how it is."""
    site.start_broker()
    site.start_worker("-P", "solo")
    assert {"terminal"} == coloured(["inspect", "-b", site.url, "-t", "5", "ping"])
    assert {"terminal"} == coloured(["amqp", "-b", site.url, "queue.declare", "celery"])
    assert {"terminal"} == coloured(["top", "-b", site.url, "--once", "-d", "0.1"])


@pytest.mark.integration
def test_screens_and_logs(site: Site, on_screen: Callable[..., Screen]) -> None:
    """On a terminal there are some, unless NO_COLOR, whatever it holds, says that there are to be none."""
    site.start_broker()
    commands = {
        ("top", "-b", site.url): "No worker",
        ("beat", "-A", "proj", "-l", "debug"): "Ticking with max interval",
    }
    for command, said in commands.items():
        screens = (
            on_screen(*command),
            on_screen(*command, NO_COLOR="0"),
            on_screen("-C", *command),
        )
        for screen in screens:
            screen.wait(said)
        assert [True, False, False] == [screen.coloured for screen in screens], command
