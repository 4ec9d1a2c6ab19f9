"""`emq-compat queue`."""

from __future__ import annotations

import json

import pytest

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish
from tests.cli.conftest import Site

pytestmark = [pytest.mark.integration]


def test_a_queue_is_paused_and_goes_on(site: Site) -> None:
    """Pause and resume say what they did and what waits; status shows the pause; a slip is refused."""
    site.start_broker()
    with Client(site.url) as client:
        client.publish(
            Publish(queue="q", headers=Headers(), payload=Job(path="proj", callable="add").encode())
        )
        assert "q is paused; 1 message waiting." in site.emq("queue", "pause", "q", "-b", site.url)
        assert [True] == [row["paused"] for row in client.ask("queues")]
        assert "q is paused already" in site.emq("queue", "pause", "q", "-b", site.url)
        assert "paused" in site.run("status", "-b", site.url).stdout.splitlines()[-1]
        status = json.loads(site.run("status", "-jb", site.url).stdout)
        assert [True] == [row["paused"] for row in status["queues"]]
        assert "q goes on; 1 message waiting." in site.emq("queue", "resume", "q", "-b", site.url)
        assert [False] == [row["paused"] for row in client.ask("queues")]
    refused = site.emq("queue", "pause", "nope", "-b", site.url, status=1)
    assert "there is no queue 'nope'; there are: q" in refused
