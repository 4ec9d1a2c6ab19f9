"""`emq-compat dashboard`: what it starts with, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from tests.cli.conftest import Site
from tests.processes import wait_until

pytestmark = [pytest.mark.integration]


def test_it_refuses_to_be_open(site: Site) -> None:
    """At another address than this machine's it wants a token, and says how one is given."""
    said = site.emq("dashboard", "-b", site.url, "--listen", "0.0.0.0:0", status=1)
    assert "--token-file FILE, or EMQ_DASHBOARD_TOKEN" in said
    (site.folder / "empty").write_text("\n")
    said = site.emq("dashboard", "-b", site.url, "--token-file", "empty", status=1)
    assert "the file empty holds no token" in said


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("-b", "amqp://127.0.0.1//"), 1, "is no broker of emq-compat"),
        (("-b", "tcp://127.0.0.1:47290"), 1, "is no broker of emq-compat"),
        (("--listen", "8420"), 2, "--listen takes HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), 2, "--listen takes HOST:PORT"),
        (("--listen", "nowhere.invalid:1", "--token-file", "token"), 1, "--listen nowhere.invalid:1"),
    ],
)
def test_what_cant_be(site: Site, options: tuple[str, ...], status: int, said: str) -> None:
    """Other brokers, and addresses that are none, are refused in one line."""
    (site.folder / "token").write_text("a-token-that-is-long-enough")
    assert said in site.emq(
        "dashboard", *(() if "-b" in options else ("-b", site.url)), *options, status=status
    )


def test_it_waits_for_its_broker(site: Site, free_port: Callable[[], int]) -> None:
    """Without a broker it starts and says so; its port is its own, and TERM ends it while a page is open."""
    port = free_port()
    argv = ("dashboard", "-b", site.url, "--listen", f"127.0.0.1:{port}")
    running = site.procs.emq(*argv, ready="The dashboard of", timeout_s=60)
    assert "the page says so until it does" in running.output()
    assert f"--listen 127.0.0.1:{port}: the address is in use; is it" in site.emq(*argv, status=1)
    url = f"http://127.0.0.1:{port}/api/"
    with urllib.request.urlopen(url + "session", timeout=10) as answer:
        assert site.url == json.load(answer)["url"]
    other = urllib.request.Request(url + "session", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(other, timeout=10)
    with urllib.request.urlopen(url + "updates", timeout=20) as updates:
        lines = iter(updates.readline, b"")
        assert "answer" in next(line for line in lines if line.startswith(b"data:")).decode()
        running.stop(10)


def test_an_interrupt_ends_it_in_order(site: Site) -> None:
    """Ctrl-C ends it with 0, without a word."""
    running = site.procs.emq("dashboard", "-b", site.url, "--listen", "127.0.0.1:0", ready="The dashboard of")
    wait_until(lambda: "is at http" in running.output())
    os.kill(running.pid, signal.SIGINT)
    assert 0 == running.wait(20)
    assert "Aborted" not in running.output()
