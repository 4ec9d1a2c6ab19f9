"""Beats of shim apps on brokers that arbitrate nothing: one leads (case 34)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.leading.beats import Beats, one_of_two_leads, pages_without_a_leader, projects
from tests.processes import Procs

pytestmark = [pytest.mark.integration, pytest.mark.cases]


@pytest.fixture
def beats(procs: Procs, tmp_path: Path) -> Iterator[Callable[..., Beats]]:
    """Makes projects; their queues go with the test."""
    with projects(procs, tmp_path, "emq_compat.celery_shim") as make:
        yield make


@pytest.mark.parametrize(
    "kept",
    [
        "redis+sqlite",
        pytest.param("amqp+redis", marks=pytest.mark.long),
        pytest.param("redis", marks=pytest.mark.long),
    ],
)
def test_one_of_two_leads(
    kept: str, beats: Callable[..., Beats], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Stopped and continued it notices before it sends; killed, the other one goes on; each run is once."""
    redis: str = request.getfixturevalue("redis_url")
    broker = request.getfixturevalue("amqp_url") if kept.startswith("amqp") else redis
    backend = f"db+sqlite:///{tmp_path}/results.db" if kept == "redis+sqlite" else redis
    one_of_two_leads(beats(broker, backend))


def test_without_a_place_for_a_lock_it_is_said(beats: Callable[..., Beats], amqp_url: str) -> None:
    """The last runs are in Celery's file then, and only one beat may run; it answers a ping, too."""
    here = beats(amqp_url, "cache+memory://")
    node = f"{here.name}@here"
    beat = here.start("--enable-remote-control", "-n", node, "--http", "0", ready="run one only")
    here.wait_more(2)
    pages_without_a_leader(here, beat, entries=3)
    ping = here.procs.emq("inspect", "-b", amqp_url, "-d", node, "-t", "5", "ping")
    assert 0 == ping.wait(60), ping.tail()
    assert f"{node}: OK" in ping.output()
    assert 0 == beat.stop()
    assert list(here.folder.glob("home*/celerybeat-schedule*"))
