"""`emq-compat migrate messages`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish
from emq_compat.transfer import browse, move, on_its_way
from tests.broker_process import Broker
from tests.cli.test_main import emq
from tests.processes import Procs

pytestmark = pytest.mark.integration

PAYLOAD = Job(path="proj", callable="t").encode()


def publish(client: Client, queue: str, *ids: str, task: str = "t", **headers: object) -> None:
    client.publish_all(
        Publish(queue=queue, headers=Headers(task_id=one, task=task, **headers), payload=PAYLOAD)  # type: ignore[arg-type]
        for one in ids
    )


def waiting(client: Client, queue: str) -> list[str]:
    return [found.headers.task_id for found in browse(client, queue)]


def test_messages(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> None:
    """What waits moves, what was cut off before, too; what has to stay is told, with its reason."""
    here, there = (Broker(procs, free_port, tmp_path / name) for name in ("here", "there"))
    for broker in (here, there):
        broker.start("--memory")
    publish(here.client, "a", "a1", "a2", "a3")
    publish(here.client, "a", "other", task="other")
    publish(here.client, "b", "b1", "part", chord="c:0")
    publish(here.client, "c", "cut off")
    move(here.client, "c", [found.msgid for found in browse(here.client, "c")], on_its_way("c"))

    done = emq("migrate", "messages", here.url, there.url, "-Q", "a:z", "-T", "t", "-n", "2")
    assert (0, "") == (done.returncode, done.stderr)
    assert "a → z: 2 messages moved\n2 messages moved\n" == done.stdout
    assert (["a1", "a2"], ["a3", "other"]) == (waiting(there.client, "z"), waiting(here.client, "a"))

    done = emq("migrate", "messages", here.url, there.url)
    assert 3 == done.returncode
    assert [
        "a: 2 messages moved",
        "b: 0 messages moved, 2 stayed",
        "c: 1 message moved",
        "3 messages moved, 2 stayed:",
        "  2: it is part of a chord, or others wait for its end",
    ] == done.stdout.splitlines()
    assert (["a3", "other"], ["cut off"]) == (waiting(there.client, "a"), waiting(there.client, "c"))

    for argv, told in (
        ((here.url, here.url), "are the same broker"),
        ((here.url, there.url, "-Q", "nosuch"), "there is no queue 'nosuch'; there are: a, b, c"),
        (("memory://", there.url), "out of a command's reach"),
        ((here.url, "tcp://127.0.0.1:9"), "stock router"),
    ):
        done = emq("migrate", "messages", *argv)
        assert (1, True) == (done.returncode, told in done.stderr), done.stderr
    here.client.close()
    there.client.close()
