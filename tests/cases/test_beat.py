"""Beat: restarts, two at once, one beside a worker (case 34)."""

from __future__ import annotations

import json
import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from tests.cases.conftest import pass_s
from tests.processes import Proc, wait_until
from tests.site import NAME, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

MORE = '''
from celery.schedules import crontab
from celery.beat import BeatLazyFunc, PersistentScheduler, Scheduler
from celery.signals import beat_init, beat_embedded_init


@app.task
def run(name, at):
    note(f"run {name} {at!r}")


class Marked(Scheduler):
    """A scheduler of the project's own, which keeps nothing."""

    def apply_async(self, entry, **options):
        note(f"own {entry.name}")
        return super().apply_async(entry, **options)


@beat_init.connect
def began(sender, **_):
    note(f"beat_init {type(sender.scheduler).__name__}")


@beat_embedded_init.connect
def beside(sender, **_):
    note("beat_embedded_init")


def _entry(name, schedule):
    return {"task": run.name, "schedule": schedule, "args": (name, BeatLazyFunc(time.time))}


app.conf.beat_schedule = {"interval": _entry("interval", INTERVAL), "minute": _entry("minute", crontab())}


@app.on_after_configure.connect
def more(sender, **_):
    sender.add_periodic_task(2 * INTERVAL, run.s("added", 0.0), name="added")
'''


class Beats:
    """The beats of a site whose project has an interval, a crontab and an entry added from code."""

    def __init__(self, site: Site, interval_s: float) -> None:
        self.site = site
        self.interval_s = interval_s
        site.write_project(f"INTERVAL = {interval_s}\n{MORE}")
        site.start_broker()

    def start(self, *options: str | Path, ready: str | None = "the broker keeps", **more: object) -> Proc:
        """Start one."""
        return self.site.procs.emq(
            *("beat", "-A", NAME, "-l", "info", *options),
            cwd=self.site.folder, ready=ready, timeout_s=60, **more,
        )  # fmt: skip

    def runs(self, name: str) -> list[float]:
        """When (real time) each run of an entry was published."""
        lines = (line.split() for line in self.site.runs())
        return sorted(float(line[2]) for line in lines if line[:2] == ["run", name])


def test_an_interval_longer_than_the_time_between_restarts(site: Site) -> None:
    """34: beat is ended and started anew all the time; the interval comes through, and no more often."""
    beats = Beats(site, 3.0)
    site.start_worker("-P", "threads")
    began = time.time()
    for number in range(6):
        beat = beats.start("-s", "restarted", ready=None)
        pass_s(1.5)
        beat.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        beat.popen.wait(20)
    beats.start("-s", "restarted")
    site.wait_runs("run interval", 3)
    gaps = [b - a for a, b in pairwise(beats.runs("interval"))]
    assert min(gaps) > 2.8
    assert len(gaps) < (time.time() - began) / 3.0
    assert {f"{NAME}:restarted"} == {row["schedule"] for row in site.client.ask("periodic")}


def test_two_beats_one_killed(site: Site) -> None:
    """34: with two each run is sent once; when one is killed the next run comes from the other, in time."""
    beats = Beats(site, 1.0)
    site.start_worker("-P", "threads")
    killed, _ = beats.start(), beats.start()
    site.wait_runs("run interval", 4)
    killed.send_signal(signal.SIGKILL)
    site.wait_runs("run interval", 8)
    gaps = [b - a for a, b in pairwise(beats.runs("interval"))]
    assert min(gaps) > 0.9
    assert max(gaps) < 4
    site.wait_runs("run added")
    shown = site.procs.emq("schedules", "-b", site.url, ready=lambda: True)
    assert 0 == shown.popen.wait(30)
    assert "siteproj.run" in shown.tail()


def test_a_beat_beside_a_worker(site: Site) -> None:
    """34: -B runs one that ends with its worker, however that ends; a worker whose beat ends does, too."""
    beats = Beats(site, 1.0)
    worker = site.start_worker("-B", "-P", "threads", "--scheduler", "celery.beat:PersistentScheduler")
    site.wait_runs("run interval", 2)
    assert [1, 1] == [site.count("beat_init PersistentScheduler"), site.count("beat_embedded_init")]
    beside = _beat_of(site, worker)
    worker.send_signal(signal.SIGTERM)
    assert 0 == worker.popen.wait(30)
    wait_until(lambda: not _alive(beside), what="the end of the beat with its worker")

    worker = site.start_worker("-B", "-c", "1", "-s", "killed")
    beside = _beat_of(site, worker)
    worker.send_signal(signal.SIGKILL)
    wait_until(lambda: not _alive(beside), what="the end of the beat of a worker that was killed")

    worker = site.start_worker("-B", "-P", "solo")
    (pid,) = _beat_of(site, worker)
    os.kill(pid, signal.SIGKILL)
    assert 1 == worker.popen.wait(30)
    assert "the embedded beat has ended" in worker.tail()
    assert beats.runs("interval")


def test_a_beat_that_is_watched_over(site: Site) -> None:
    """inspect ping finds a beat by its node name, beside workers, as long as it lives."""
    beats = Beats(site, 1.0)
    site.start_worker("-P", "threads", "-n", "w@here")
    beat = beats.start("--enable-remote-control", "-n", "clock@here")

    def ping(*options: str) -> tuple[int, str]:
        asked = site.procs.emq("inspect", "-b", site.url, "ping", "--json", *options)
        return asked.popen.wait(30), asked.output()

    wait_until(lambda: "clock@here" in ping()[1], 30, what="the beat's pong")
    status, said = ping()
    assert 0 == status
    assert {"w@here", "clock@here"} == set(json.loads(said))
    assert 0 == ping("-d", "clock@here")[0]
    active = site.procs.emq("inspect", "-b", site.url, "active")
    assert 0 == active.popen.wait(30)
    assert "clock@here" not in active.output()
    beat.send_signal(signal.SIGKILL)
    beat.popen.wait(20)
    assert 69 == ping("-d", "clock@here")[0]


def test_a_beat_beside_other_code(site: Site) -> None:
    """EmbeddedService is a beat in a process of its own, which ends when it is told to."""
    Beats(site, 1.0)
    site.start_worker("-P", "threads")
    (site.folder / "beside.py").write_text(
        "from siteproj import app\n"
        "from celery.beat import EmbeddedService\n"
        "import os, time\n"
        "beat = EmbeddedService(app)\n"
        "beat.start()\n"
        "while not os.path.exists('enough'):\n"
        "    time.sleep(0.05)\n"
        "beat.stop()\n"
        "beat.join(10)\n"
        "print('alive', beat.is_alive())\n"
    )
    text = "from emq_compat.celery_shim import install; install(); import beside"
    other = site.procs.python("-c", text, cwd=site.folder)
    site.wait_runs("run interval", 2)
    assert 1 == site.count("beat_embedded_init")
    (site.folder / "enough").touch()
    assert 0 == other.popen.wait(30), other.tail()
    assert "alive False" in other.output()


def _beat_of(site: Site, worker: Proc) -> list[int]:
    def found() -> list[int]:
        children = psutil.Process(worker.pid).children(recursive=True)
        return [child.pid for child in children if "--embedded" in child.cmdline()]

    return wait_until(found, 30, what="a beat beside the worker")


def _alive(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_what_a_beat_is_told_on_its_command_line(site: Site, tmp_path: Path) -> None:
    """A scheduler by its class, a pid file that keeps a second one out, the background, errors."""
    beats = Beats(site, 1.0)
    site.start_worker("-P", "threads")
    pid, log = tmp_path / "beat.pid", tmp_path / "beat.log"
    own = beats.start("-S", f"{NAME}:Marked", "--max-interval", "1", "--pidfile", pid, ready="Starting")
    site.wait_runs("own interval")
    assert f"{own.pid}\n" == pid.read_text()
    second = beats.start("--pidfile", pid, ready=None)
    assert 1 == second.popen.wait(30)
    assert f"process {own.pid} runs already" in second.tail()
    own.send_signal(signal.SIGINT)
    assert 0 == own.popen.wait(30)
    assert not pid.exists()
    assert [] == site.client.ask("periodic")

    wrong = beats.start("-S", "nowhere.at:All", ready=None)
    assert 1 == wrong.popen.wait(30)
    assert "Error: the scheduler 'nowhere.at:All' can't be imported" in wrong.tail()
    assert "Traceback" not in wrong.tail()

    behind = beats.start("--detach", "--logfile", log, "--pidfile", pid, ready=None, may_orphan=True)
    assert 0 == behind.popen.wait(30)
    wait_until(lambda: "the broker keeps" in log.read_text(), 30, what="the beat in the background")
    os.kill(int(pid.read_text()), signal.SIGTERM)
    wait_until(lambda: not pid.exists(), 30, what="the end of the beat in the background")


def test_a_worker_with_beat_and_broker_in_the_background(site: Site, tmp_path: Path) -> None:
    """-D returns once all of it has started; what they write is in the log, and they end with the worker."""
    site.write_project(f"INTERVAL = 1.0\n{MORE}")
    pid, log = tmp_path / "worker.pid", tmp_path / "worker.log"
    files = ("--logfile", log, "--pidfile", pid, "--embed-broker", tmp_path / "data")
    argv = ("worker", "-A", NAME, "-B", "-D", "-P", "threads", "-c", "1", "-l", "info", *files)
    foreground = site.procs.emq(*argv, cwd=site.folder, may_orphan=True)
    assert 0 == foreground.popen.wait(40), foreground.tail()
    site.wait_runs("run interval", 2)
    worker = psutil.Process(int(pid.read_text()))
    family = [worker, *worker.children(recursive=True)]
    worker.send_signal(signal.SIGTERM)
    assert [] == psutil.wait_procs(family, 30)[1]
    told = log.read_text()
    assert [] == [text for text in ("clients tcp", "the broker keeps", "succeeded in") if text not in told]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_restarts_and_two_beats_in_full(site: Site) -> None:
    """34: 20 s restarted every 7 s for 70 s; a crontab restarted 5 s after its run; two for 3 minutes."""
    beats = Beats(site, 20.0)
    site.start_worker("-P", "threads")
    beat = beats.start()
    began = time.time()
    while time.time() - began < 70:
        pass_s(7)
        beat.send_signal(signal.SIGTERM)
        beat.popen.wait(20)
        beat = beats.start(ready=None)
    assert 3 == len([at for at in beats.runs("interval") if at < began + 70])

    minutes = site.count("run minute")
    for _ in range(2):
        site.wait_runs("run minute", minutes + 1, timeout_s=90)
        pass_s(5)
        beat.send_signal(signal.SIGTERM)
        beat.popen.wait(20)
        beat = beats.start()
        minutes += 1
    assert minutes == site.count("run minute")

    other = beats.start()
    began = time.time()
    pass_s(90)
    beat.send_signal(signal.SIGKILL)
    pass_s(90)
    sent = [at for at in beats.runs("minute") if began <= at < began + 180]
    assert 3 == len(sent)
    assert max(at % 60 for at in sent) < 5
    intervals = [at for at in beats.runs("interval") if began <= at < began + 180]
    assert len(intervals) in (8, 9)
    assert other.alive()
