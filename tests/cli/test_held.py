"""`emq-compat held`."""

from __future__ import annotations

import json

import pytest

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish
from emq_compat.terms import Once, Share
from tests.cli.conftest import Site

pytestmark = [pytest.mark.integration]


@pytest.fixture
def filled(site: Site) -> Site:
    """A unique task that waits for its time, three of one concurrency key, a chord's body; no worker."""
    site.start_broker()
    payload = Job(path="proj", callable="add").encode()
    with Client(site.url) as client:
        unique = Headers(task_id="u1", once=Once(key="proj.add(1)", seconds=60.0).encode(), eta=4e9)
        client.publish(Publish(queue="q", headers=unique, payload=payload))
        for n in range(3):
            keyed = Headers(task_id=f"k{n}", slots=Share(key="user:7").encode())
            client.publish(Publish(queue="q", headers=keyed, payload=payload))
        body = Headers(task_id="b1", awaits="chord:2")
        client.publish(Publish(queue="q", headers=body, payload=payload))
    return site


def test_what_is_held(filled: Site) -> None:
    """Unique keys with their holders, and what is parked; as text and as JSON."""
    text = filled.emq("held", "-b", filled.url)
    assert "1 unique key held, 2 messages parked." in text
    assert "proj.add(1)  u1" in text
    assert "user:7" in text
    assert "b1            0 of 2" in text
    keys = json.loads(filled.emq("held", "-b", filled.url, "--json"))
    assert ("u1", 2) == (keys["unique"][0]["holder"], keys["gates"][0]["parked"])
    assert "2 parked (emq-compat held)" in filled.run("status", "-b", filled.url).stdout


def test_why_a_task_waits(filled: Site) -> None:
    """Of each task id where its message is and what it waits for."""
    lines = filled.emq("held", "-b", filled.url, "u1", "k0", "k2", "nobody").splitlines()
    assert lines[0].startswith("u1: delayed for the queue 'q': due in ")
    assert "k0: waits in the queue 'q', to which no worker listens" == lines[1]
    expected = "k2: parked for the queue 'q': places of the key 'user:7': 0 of 1 run, 2 are parked"
    assert expected == lines[2]
    assert "nobody: the broker has no message of this task" == lines[3]


def test_a_key_is_freed(filled: Site) -> None:
    """--release frees a unique key, and says so where nobody holds it."""
    assert "is free" in filled.emq("held", "-b", filled.url, "--release", "proj.add(1)")
    assert "nobody holds" in filled.emq("held", "-b", filled.url, "--release", "proj.add(1)", status=1)
    assert "takes no task ids" in filled.emq("held", "-b", filled.url, "--release", "k", "u1", status=2)
