"""Beats of genuine apps, of which one leads: killed, stopped and continued, and asked to end."""

from __future__ import annotations

import os
import shelve
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from celery.beat import ScheduleEntry

from tests.broker_process import Broker
from tests.leading.beats import Beats, one_of_two_leads, pages_without_a_leader, projects
from tests.processes import Procs

pytestmark = pytest.mark.integration


@pytest.fixture
def beats(procs: Procs, tmp_path: Path) -> Iterator[Callable[..., Beats]]:
    """Makes projects; their queues go with the test."""
    with projects(procs, tmp_path, "celery") as make:
        yield make


@pytest.mark.parametrize(
    "kept",
    [
        "amqp+redis",
        pytest.param("emq", marks=pytest.mark.long),
        pytest.param("redis+sqlite", marks=pytest.mark.long),
        pytest.param("redis", marks=pytest.mark.long),
        pytest.param("redis broker", marks=pytest.mark.long),
    ],
)
def test_one_of_two_leads(
    kept: str, beats: Callable[..., Beats], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Stopped and continued it notices before it sends; killed, the other one goes on; each run is once."""
    if kept == "emq":
        ours: Broker = request.getfixturevalue("broker")
        ours.start()
        one_of_two_leads(beats(ours.url, None))
        return
    redis: str = request.getfixturevalue("redis_url")
    broker = request.getfixturevalue("amqp_url") if kept.startswith("amqp") else redis
    backend = {"redis+sqlite": f"db+sqlite:///{tmp_path}/results.db", "redis broker": None}.get(kept, redis)
    here = beats(broker, backend)
    one_of_two_leads(here)


def test_last_runs_in_celerys_file_are_taken_over(beats: Callable[..., Beats], redis_url: str) -> None:
    """What Celery's own beat has left counts for the first of ours; the file stays as it is."""
    here = beats(redis_url, redis_url)
    file = here.folder / "before"
    long_ago = datetime.now(timezone.utc) - timedelta(days=400)
    with shelve.open(str(file)) as kept:
        kept["entries"] = {
            "yearly": ScheduleEntry("yearly", "t", last_run_at=long_ago, total_run_count=4, schedule=60.0)
        }
    beat = here.start("-s", str(file))
    beat.wait_line("Sending due task yearly", 30)
    again = here.start("-s", str(file), ready="standing by")
    assert 0 == beat.stop()
    again.wait_line("beat: leads", 30)
    here.wait_more(2)
    assert 0 == again.stop()
    assert 0 == again.output().count("due task yearly")
    assert [0.0] == here.sent("yearly")
    with shelve.open(str(file), flag="r") as kept:
        assert long_ago == kept["entries"]["yearly"].last_run_at


def test_a_scheduler_of_the_projects_own_is_used(beats: Callable[..., Beats], redis_url: str) -> None:
    """Its methods are called, and its runs go on where another beat has left them."""
    here = beats(redis_url, redis_url)
    beat = here.start("-S", "proj:Own")
    beat.wait_line("own often", 30)
    assert 0 == beat.stop()


def test_without_a_place_for_a_lock_it_is_said(beats: Callable[..., Beats], amqp_url: str) -> None:
    """Celery's own file is used then, and only one beat may run."""
    here = beats(amqp_url, None)
    beat = here.start("--http", "0", ready="run one only")
    here.wait_more(2)
    pages_without_a_leader(here, beat, entries=4)
    assert 0 == beat.stop()
    assert list(here.folder.glob("home*/celerybeat-schedule*"))


def test_what_cant_be_used_is_an_error_of_one_line(
    procs: Procs, beats: Callable[..., Beats], redis_url: str
) -> None:
    """A lease that is none, and a scheduler that there isn't; it names them."""
    here = beats(redis_url, redis_url)
    beat = procs.emq(
        *("beat", "-A", "proj"),
        cwd=here.folder,
        env={"EMQ_BEAT_LEASE": "soon", "PYTHONPATH": os.fspath(here.folder)},
    )
    assert 1 == beat.wait(30)
    assert "EMQ_BEAT_LEASE is 'soon'" in beat.tail(1)
    beat = procs.emq("beat", "-A", "proj", "-S", "proj:None.at", cwd=here.folder)
    assert 1 == beat.wait(30)
    assert "the scheduler 'proj:None.at' can't be imported" in beat.tail(1)
