"""Beats of which one leads, in processes: of genuine apps and of the shim's, on brokers of kombu's."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from kombu import Connection

from emq_compat.ids import new_id
from emq_compat.monitor.address import HttpAddress
from tests.monitor.pages import address_of, metrics, page
from tests.processes import Proc, Procs, wait_until

EVERY_S = 0.5
LEASE_S = 1.5

PROJECT = """
import time
from {celery} import Celery
from {celery}.beat import BeatLazyFunc, Scheduler
from {celery}.schedules import crontab

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
    """The beats of a project with a queue that nobody else reads.

    Args:
        celery: the package that the project imports: Celery's, or the shim.
    """

    def __init__(self, procs: Procs, folder: Path, celery: str, broker: str, backend: str | None) -> None:
        self.procs = procs
        self.folder = folder
        self.name = f"beats-{new_id()}"
        text = PROJECT.format(celery=celery, name=self.name, broker=broker, backend=backend, every=EVERY_S)
        (folder / "proj.py").write_text(text)
        self.broker = broker
        self.backend = backend
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

    def pause(self, beat: Proc) -> None:
        """Stop one, but not within a transaction of SQLite's: its lock would keep the others out."""
        _, found, file = (self.backend or "").partition("sqlite:///")

        def paused() -> bool:
            beat.send_signal(signal.SIGSTOP)
            wait_until(lambda: psutil.Process(beat.pid).status() == psutil.STATUS_STOPPED)
            if not found:
                return True
            with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as db:
                try:
                    db.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    beat.send_signal(signal.SIGCONT)
                    return False
                db.execute("ROLLBACK")
            return True

        wait_until(paused, 30, interval_s=0.05)

    def sent(self, mark: str) -> list[float]:
        """When each run of an entry was made, so far."""
        with Connection(self.broker) as connection:
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
        with Connection(self.broker) as connection:
            channel: Any = connection.channel()
            channel.queue_delete(self.name)


@contextmanager
def projects(procs: Procs, folder: Path, celery: str) -> Iterator[Callable[[str, str | None], Beats]]:
    """Give what makes projects by the URLs of broker and result backend; their queues go at the end."""
    made: list[Beats] = []

    def make(broker: str, backend: str | None) -> Beats:
        made.append(Beats(procs, folder, celery, broker, backend))
        return made[-1]

    yield make
    procs.close()
    for one in made:
        if not one.broker.startswith("emq"):  # that has ended, too
            one.delete()


def one_of_two_leads(here: Beats) -> None:
    """Have the leader stopped, continued and killed: another one leads, and each run is sent once."""
    first = here.start("--http", "0")
    second = here.start("--http", "0", ready="standing by")
    here.wait_more(3)
    _pages_say_who_leads(here, address_of(first), address_of(second))
    here.pause(first)
    second.wait_line("beat: leads", 30)
    here.wait_more(3)
    first.send_signal(signal.SIGCONT)
    first.wait_line("standing by", 30)
    here.wait_more(3)
    assert second.kill() == -signal.SIGKILL
    first.wait_line("beat: leads", 30, count=2)
    here.wait_more(3)
    wait_until(lambda: _told(address_of(first), leads=True), 60)
    assert 0 == first.stop()
    third = here.start()
    here.wait_more(2)
    assert 0 == third.stop()
    gaps = [b - a for a, b in pairwise(here.sent("often"))]
    assert min(gaps) > 0.8 * EVERY_S
    assert max(gaps) < 30
    assert len(here.sent("added")) > 2
    assert [] == here.sent("yearly")


#: What a beat tells of the entry that is sent most often.
SENT = 'emq_beat_messages_sent_total{entry="often"}'


def _pages_say_who_leads(here: Beats, leader: HttpAddress, other: HttpAddress) -> None:
    """The leader counts what it sends, and knows what is due next; the other one is ready to."""
    cleans_up = not (here.backend or "").startswith("redis")  # an entry more: Redis does that by itself
    found = wait_until(lambda: _told(leader, leads=True), 60)
    assert 3 + cleans_up == found["emq_beat_entries"]
    assert 0 <= found["emq_beat_next_due_seconds"] <= EVERY_S
    before, counted, after = len(here.sent("often")), metrics(leader)[SENT], len(here.sent("often"))
    assert before <= counted <= after + 1
    found = wait_until(lambda: _told(other, leads=False), 60)
    assert found["emq_beat_ticks_total"] > 0
    assert not [name for name in found if name.startswith(("emq_beat_messages_sent", "emq_beat_next"))]


def _told(address: HttpAddress, *, leads: bool) -> dict[str, float] | None:
    """A beat's figures, once its pages agree; a machine with too much to do may have it lose its term."""
    before, found, after = page(address, "/ready"), metrics(address), page(address, "/ready")
    agreed = {before.document["leads"], found["emq_beat_leads"], after.document["leads"]} == {leads}
    return found if agreed and not before.wrong and ("emq_beat_entries" in found) == leads else None


def pages_without_a_leader(here: Beats, beat: Proc, *, entries: int) -> None:
    """A beat that has no lock counts as any, and tells of no leader."""
    http = address_of(beat)
    wait_until(lambda: page(http, "/ready").wrong == {}, 30)
    assert page(http, "/ready").document["leads"] is None
    found = metrics(http)
    assert 2 <= found[SENT] <= len(here.sent("often")) + 1
    assert (entries, 1) == (found["emq_beat_entries"], found["emq_beat_broker_answers"])
    assert found["emq_beat_last_tick_seconds"] < 10
    assert "emq_beat_leads" not in found
