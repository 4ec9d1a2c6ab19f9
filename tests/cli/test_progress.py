"""What takes long, and how far it is."""

from __future__ import annotations

import io
import os
import pty
import select
import sys
from typing import Any

import pytest

from emq_compat.cli import dead
from emq_compat.cli.progress import progress

pytestmark = pytest.mark.unit


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there is a bar; what is soon done has none."""
    ours, terminal = pty.openpty()
    with open(terminal, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress("Few", 10) as tell:
            tell(10)
        with progress("Dropping", 2000) as tell:
            tell(2000)
        stderr.flush()
        written = ""
        while "2000/2000" not in written and select.select([ours], [], [], 10)[0]:
            written += os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "Few" not in written
    assert written.lstrip("\r\x1b[?25l").startswith("Dropping")
    assert "2000/2000" in written


def test_no_bar_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a file nothing is written."""
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    with progress("Dropping", 2000) as tell:
        tell(2000)
    assert "" == file.getvalue()


class Dead:
    """A broker whose dead letters die again as soon as they are put back; one in ten stays."""

    def __init__(self, count: int) -> None:
        self.keys = list(range(1, count + 1))
        self.last = count
        self.sizes: list[int] = []

    def ask(self, verb: str, **arguments: Any) -> Any:
        if verb == "stats":
            return {"dead": len(self.keys)}
        if verb == "dead_list":
            behind = [key for key in self.keys if key > arguments["after"]]
            return [{"key": key} for key in behind[: arguments["limit"]]]
        assert "dead_requeue" == verb
        self.sizes.append(len(arguments["keys"]))
        again = [key for key in arguments["keys"] if key % 10]
        self.keys = [key for key in self.keys if key not in {*again}]
        self.keys += range(self.last + 1, self.last + 1 + len(again))
        self.last += len(again)
        return len(again)


def test_all_dead_letters_are_those_that_were_there() -> None:
    """They are put back by the page, each once, though some stay and others come to lie there meanwhile."""
    broker = Dead(2500)
    assert 2250 == dead._each(broker, "dead_requeue", "Putting back", ())
    assert [1000, 1000, 500] == broker.sizes
    assert 2500 == len(broker.keys)
