"""`emq-compat result`."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Site

pytestmark = [pytest.mark.integration]


def test_results_are_read_later_and_from_elsewhere(site: Site) -> None:
    """`result` prints a value as JSON, an error on demand with its traceback, and tells an unknown id."""
    site.start_broker()
    site.start_worker()
    good = site.emq("call", "-A", "proj", "proj.add", "-a", '["ü", "é"]').strip()
    bad = site.emq("call", "-A", "proj", "proj.fail", "-a", '["no"]').strip()

    assert '"üé"\n' == site.emq("result", "-A", "proj", good, "--wait", "30")
    assert "FAILURE: ValueError: no" in site.emq("result", "-b", site.url, bad, "-t", "30", status=1)

    assert '"üé"\n' == site.emq("result", "-b", site.url, good)
    traced = site.run("result", "-b", site.url, bad, "--traceback")
    assert 1 == traced.returncode
    assert "in fail" in traced.stderr
    document = json.loads(site.run("result", "-b", site.url, bad, "--json").stdout)
    assert ("FAILURE", bad, "ValueError") == (document["state"], document["id"], document["error"]["type"])
    unknown = site.emq("result", "-b", site.url, "no-such-id", status=1)
    assert "no result of no-such-id" in unknown


def test_waiting_ends_in_time(site: Site) -> None:
    """A task that nobody runs: --wait ends after its seconds and says so."""
    site.start_broker()
    waiting = site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 2]").strip()

    told = site.emq("result", "-b", site.url, waiting, "--wait", "0.5", status=1)
    assert "after 0.5 s: it waits in the queue 'celery', to which no worker listens" in told


def test_result_needs_a_broker_of_ours(site: Site) -> None:
    """A stock router, and what is no address, are one message each."""
    assert "stock eventmq router" in site.emq("result", "-b", "tcp://127.0.0.1:1024", "some-id", status=1)
    assert "has no scheme" in site.emq("result", "-b", "localhost", "some-id", status=1)
