"""`emq-compat purge`."""

from __future__ import annotations

import pytest

from emq_compat.client import Client
from tests.cli.conftest import Site

pytestmark = [pytest.mark.integration]


@pytest.fixture
def filled(site: Site) -> Site:
    """Two messages in `celery`, one of them delayed, one in `a` and one in `b`; no worker."""
    site.start_broker()
    for options in ((), ("--countdown", "3600"), ("-Q", "a"), ("-Q", "b")):
        site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 2]", *options)
    return site


def waiting(site: Site) -> dict[str, int]:
    with Client(site.url) as client:
        return {queue["name"]: queue["waiting"] + queue["delayed"] for queue in client.ask("queues")}


def test_purge_asks_first(filled: Site) -> None:
    """Without -f it asks; no answer, or no, drops nothing."""
    assert "Drop 1 message of the queue a for good?" in filled.emq(
        "purge", "-b", filled.url, "-Q", "a", status=1
    )
    filled.emq("purge", "-b", filled.url, "-Q", "a", stdin="n\n", status=1)
    assert {"celery": 2, "a": 1, "b": 1} == waiting(filled)

    assert "Dropped 1 message" in filled.emq("purge", "-b", filled.url, "-Q", "a", stdin="y\n")
    assert {"celery": 2, "a": 0, "b": 1} == waiting(filled)


def test_purge_takes_the_apps_queue_or_all(filled: Site) -> None:
    """With -A it is the app's queue, delayed messages included; without it all queues but those left out."""
    assert "Dropped 2 messages of the queue celery" in filled.emq("purge", "-A", "proj", "-f")
    assert {"celery": 0, "a": 1, "b": 1} == waiting(filled)
    assert "Nothing waits" in filled.emq("purge", "-A", "proj", "-f")

    assert "Dropped 1 message of the queues a, celery" in filled.emq(
        "purge", "-b", filled.url, "-f", "-X", "b"
    )
    assert {"celery": 0, "a": 0, "b": 1} == waiting(filled)


def test_purge_takes_the_queues_that_the_app_names(filled: Site) -> None:
    """Where the app has task_queues, these are its queues."""
    with (filled.folder / "proj.py").open("a") as file:
        file.write("\nfrom kombu import Queue\napp.conf.task_queues = [Queue('a'), Queue('b')]\n")

    assert "Dropped 2 messages of the queues a, b" in filled.emq("purge", "-A", "proj", "-f")
    assert {"celery": 2, "a": 0, "b": 0} == waiting(filled)


def test_purge_of_no_queue_is_told(filled: Site) -> None:
    """A queue that isn't there is an error that names those that are, and nothing is dropped."""
    told = filled.emq("purge", "-b", filled.url, "-f", "-Q", "a,nothere", status=1)
    assert "there is no queue 'nothere'; there are: a, b, celery" in told
    assert {"celery": 2, "a": 1, "b": 1} == waiting(filled)
