"""Beats of genuine apps, of which one leads: killed, stopped and continued, and asked to end."""

from __future__ import annotations

import os
import shelve
import signal
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry

from emq_compat.ids import new_id
from tests.processes import Proc, Procs, wait_until

pytestmark = pytest.mark.integration

EVERY_S = 0.5
LEASE_S = 1.5

PROJECT = """
import time
from celery import Celery
from celery.beat import BeatLazyFunc, Scheduler
from celery.schedules import crontab

app = Celery({name!r}, broker={broker!r}, backend={backend!r})
app.conf.task_default_queue = {name!r}

@app.task(name="t")
def t(*args):
    pass

class Own(Scheduler):
    '''A scheduler of the project's own, which keeps nothing.'''

    def apply_async(self, entry, **options):
        print(f"own {{entry.name}}", flush=True)
        return super().apply_async(entry, **options)

app.conf.beat_schedule = {{
    "often": {{"task": "t", "schedule": {every}, "args": ("often", BeatLazyFunc(time.time))}},
    "yearly": {{
        "task": "t",
        "schedule": crontab("0", "0", day_of_month="1", month_of_year="1"),
        "args": ("yearly", 0.0),
    }},
}}

@app.on_after_configure.connect
def more(sender, **_):
    sender.add_periodic_task(2 * {every}, t.s("added", 0.0), name="added")
"""


class Beats:
    """The beats of a project with a queue that nobody else reads."""

    def __init__(self, procs: Procs, folder: Path, broker: str, backend: str | None) -> None:
        self.procs = procs
        self.folder = folder
        self.name = f"beats-{new_id()}"
        text = PROJECT.format(name=self.name, broker=broker, backend=backend, every=EVERY_S)
        (folder / "proj.py").write_text(text)
        self._app = Celery(self.name, broker=broker, set_as_current=False)
        self._sent: list[tuple[str, float]] = []

    def start(self, *options: str, ready: str | None = "beat: leads") -> Proc:
        """Start one in a folder of its own, as on another machine."""
        home = self.folder / f"home{len(self.procs.started)}"
        home.mkdir()
        return self.procs.emq(
            *("beat", "-A", "proj", "-l", "info", *options),
            cwd=home,
            env={"PYTHONPATH": str(self.folder), "EMQ_BEAT_LEASE": str(LEASE_S)},
            ready=ready,
            timeout_s=60,
        )

    def sent(self, mark: str) -> list[float]:
        """When each run of an entry was made, so far."""
        with self._app.connection_for_read() as connection:
            queue = connection.SimpleQueue(self.name)
            while True:
                try:
                    message = queue.get_nowait()
                except queue.Empty:
                    break
                args = message.payload[0]
                self._sent.append((args[0], args[1]))
                message.ack()
            queue.close()
        return sorted(at for name, at in self._sent if name == mark)

    def wait_more(self, count: int) -> None:
        """Wait until the entry `often` has been sent so many times more."""
        so_far = len(self.sent("often"))
        wait_until(lambda: len(self.sent("often")) >= so_far + count, 60, interval_s=0.1)

    def delete(self) -> None:
        with self._app.connection_for_write() as connection:
            channel: Any = connection.channel()
            channel.queue_delete(self.name)
        self._app.close()


@pytest.fixture
def beats(procs: Procs, tmp_path: Path) -> Iterator[Callable[..., Beats]]:
    """Makes projects; their queues go with the test."""
    made: list[Beats] = []

    def make(broker: str, backend: str | None) -> Beats:
        made.append(Beats(procs, tmp_path, broker, backend))
        return made[-1]

    yield make
    procs.close()
    for one in made:
        one.delete()


@pytest.mark.parametrize(
    "kept",
    [
        "amqp+redis",
        "redis+sqlite",
        pytest.param("redis", marks=pytest.mark.long),
        pytest.param("redis broker", marks=pytest.mark.long),
    ],
)
def test_one_of_two_leads(
    kept: str, beats: Callable[..., Beats], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Stopped and continued it notices before it sends; killed, the other one goes on; each run is once."""
    redis: str = request.getfixturevalue("redis_url")
    broker = request.getfixturevalue("amqp_url") if kept.startswith("amqp") else redis
    backend = {"redis+sqlite": f"db+sqlite:///{tmp_path}/results.db", "redis broker": None}.get(kept, redis)
    here = beats(broker, backend)
    first = here.start()
    second = here.start(ready="standing by")
    here.wait_more(3)
    first.send_signal(signal.SIGSTOP)
    second.wait_line("beat: leads", 30)
    here.wait_more(3)
    first.send_signal(signal.SIGCONT)
    first.wait_line("standing by", 30)
    here.wait_more(3)
    assert second.kill() == -signal.SIGKILL
    first.wait_line("beat: leads", 30, count=2)
    here.wait_more(3)
    assert 0 == first.stop()
    third = here.start()
    here.wait_more(2)
    assert 0 == third.stop()
    gaps = [b - a for a, b in pairwise(here.sent("often"))]
    assert min(gaps) > 0.8 * EVERY_S
    assert max(gaps) < 30
    assert len(here.sent("added")) > 2
    assert [] == here.sent("yearly")


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
    beat = here.start(ready="run one only")
    here.wait_more(2)
    assert 0 == beat.stop()
    assert list(here.folder.glob("home*/celerybeat-schedule*"))


def test_a_lease_that_is_none_is_an_error_of_one_line(
    procs: Procs, beats: Callable[..., Beats], redis_url: str
) -> None:
    """It names the variable."""
    here = beats(redis_url, redis_url)
    beat = procs.emq(
        *("beat", "-A", "proj"),
        cwd=here.folder,
        env={"EMQ_BEAT_LEASE": "soon", "PYTHONPATH": os.fspath(here.folder)},
    )
    assert 1 == beat.wait(30)
    assert "EMQ_BEAT_LEASE is 'soon'" in beat.tail(1)
