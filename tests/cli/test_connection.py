"""What commands that talk to a broker have in common."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Site

pytestmark = [pytest.mark.integration]

COMMANDS = (
    ("call", "proj.add", "-a", "[1, 2]"),
    ("result", "some-id"),
    ("status",),
    ("purge", "-f"),
    ("dead", "list"),
    ("dead", "drop", "--all", "-f"),
)


def test_no_broker_is_one_message_in_time(site: Site) -> None:
    """Where nobody listens, each command ends with 1 and one line that names the address, within seconds."""
    running = [site.procs.emq(*argv, "-A", "proj", cwd=site.folder) for argv in COMMANDS]

    for proc in running:
        assert 1 == proc.wait(40)
        [told] = proc.output().splitlines()
        assert f"127.0.0.1:{site.ports[0]}" in told


def test_which_broker_counts(site: Site) -> None:
    """-b wins over the app's setting, before or behind the command's name, and that over EMQ_BROKER_ADDR."""
    site.start_broker()
    nobody = "emq://127.0.0.1:1024?stock=1"

    assert 69 == site.run("status", "-A", "proj", env={"EMQ_BROKER_ADDR": nobody}).returncode
    assert 69 == site.run("status", env={"EMQ_BROKER_ADDR": site.url}).returncode
    for argv in (("status", "-A", "proj", "-b", nobody), ("-A", "proj", "-b", nobody, "status")):
        assert "tcp://127.0.0.1:1024 is a stock eventmq router" in site.emq(*argv, status=1)
