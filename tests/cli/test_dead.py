"""`emq-compat dead`."""

from __future__ import annotations

import json

import pytest

from emq_compat.client import Client
from tests.cli.conftest import Site
from tests.processes import wait_until

pytestmark = [pytest.mark.integration]


@pytest.fixture
def bereaved(site: Site) -> Site:
    """A site where two tasks have been lost with the whole worker."""
    site.start_broker("--memory", "--dead-after", "2")
    worker = site.start_worker()
    for _ in range(2):
        site.emq("call", "-A", "proj", "proj.sleep", "-a", "[100]")
    with Client(site.url) as client:
        wait_until(
            lambda: len(client.inspect("active").popitem()[1]["ok"]) == 2, 30, what="two running tasks"
        )
        worker.kill()
        wait_until(lambda: client.ask("stats")["dead"] == 2, 40, what="two dead letters")
    return site


def test_dead_letters_are_listed_shown_requeued_and_dropped(bereaved: Site) -> None:
    """What a lost worker held is listed with the reason, shown in full, put back, and dropped."""
    site = bereaved
    first, second = json.loads(site.emq("dead", "list", "-b", site.url, "--json"))
    assert ("proj.sleep", "slow") == (first["task"], first["queue"])
    text = site.emq("dead", "list", "-A", "proj")
    assert first["reason"] in text
    assert second["task_id"] in text
    limited = site.run("dead", "list", "-b", site.url, "--limit", "1")
    assert first["task_id"] in limited.stdout
    assert second["task_id"] not in limited.stdout
    assert f"There are 2 in all; more: --after {first['key']}" in limited.stderr
    after = site.emq("dead", "list", "-b", site.url, "--after", str(first["key"]), "--json")
    assert [second["key"]] == [row["key"] for row in json.loads(after)]

    shown = json.loads(site.emq("dead", "show", str(first["key"]), "-b", site.url, "--json"))
    assert [100] == json.loads(shown["payload"])[1]["args"]
    assert "payload" in site.emq("dead", "show", str(first["key"]), "-b", site.url)

    assert "Put back 1 message." in site.emq("dead", "requeue", str(first["key"]), "-b", site.url)
    with Client(site.url) as client:
        assert 1 == sum(queue["waiting"] for queue in client.ask("queues"))

    site.emq("dead", "drop", "--all", "-b", site.url, stdin="n\n", status=1)
    assert "Dropped 1 dead letter." in site.emq("dead", "drop", "--all", "-b", site.url, stdin="y\n")
    assert "No dead letters." in site.emq("dead", "list", "-b", site.url)


def test_wrong_keys_are_told_and_nothing_is_done(site: Site) -> None:
    """A key that isn't there, none at all, or keys with --all are errors."""
    site.start_broker()
    for verb in ("requeue", "drop"):
        force = ("-f",) if verb == "drop" else ()
        assert "no dead letter 7" in site.emq("dead", verb, "7", *force, "-b", site.url, status=1)
        assert "--all" in site.emq("dead", verb, *force, "-b", site.url, status=2)
        assert "--all" in site.emq("dead", verb, "7", "--all", *force, "-b", site.url, status=2)
    assert "no dead letter 7" in site.emq("dead", "show", "7", "-b", site.url, status=1)
    assert "is not a valid integer" in site.emq("dead", "show", "x", "-b", site.url, status=2)
