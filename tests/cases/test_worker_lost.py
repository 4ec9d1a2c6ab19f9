"""Children and whole workers that are killed (cases 1, 2 and 4)."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from emq_compat.shim.exceptions import WorkerLostError
from tests.processes import Proc, wait_until
from tests.site import POOLS, Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

SURVIVING = '''
@app.task(acks_late=True, reject_on_worker_lost=True)
def survive(seconds, mark):
    time.sleep(seconds)
    note(f"survived {mark}")
    return mark
'''

#: Each notes whether it was redelivered, and kills its own process when it was not.
SUICIDAL = '''
import signal

from emq_compat.shim.signals import task_failure


@task_failure.connect
def failed(sender, exception, einfo, **kwargs):
    note(f"failed {sender.name} {type(exception).__name__} {os.getpid()}")


def _die_once(task, mark):
    redelivered = task.request.delivery_info["redelivered"]
    note(f"die {mark} {redelivered}")
    if not redelivered:
        os.kill(os.getpid(), signal.SIGKILL)
    return mark


@app.task(bind=True)
def die_early(self):
    return _die_once(self, "early")


@app.task(bind=True, acks_late=True)
def die_late(self):
    return _die_once(self, "late")


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def die_requeued(self):
    return _die_once(self, "requeued")
'''

#: What the zygote forks, which is not a child of the worker itself, dies at once.
STILLBORN = '''
_worker = os.getpid()


def _die():
    if os.getppid() != _worker:
        os._exit(3)


os.register_at_fork(after_in_child=_die)
'''

#: Dies in its start-up signal.
DYING_AT_START = '''
from emq_compat.shim.signals import worker_process_init


@worker_process_init.connect
def die(**kwargs):
    os._exit(3)
'''

LATE_PING = '''
@app.task(acks_late=True)
def ping_late(mark):
    note(f"ping {mark} {time.time()}")
    return mark
'''


def children(site: Site) -> list[psutil.Process]:
    """The living processes that run the tasks of the only worker, as the broker tells them."""
    answers = site.client.ask("inspect", verb="stats", arguments={}, timeout_s=10)
    [answer] = answers.values()
    found = []
    for pid in answer["ok"]["pool"]["processes"]:
        try:
            child = psutil.Process(pid)
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue  # killed a moment ago
    return found


#: Kill their own processes: the one once, the other at each try.
RETRIED = """
import signal


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=0.1)
def die_once(self):
    note(f"try {self.request.retries}")
    return self.request.retries or _die()


@app.task(retry_on_worker_lost=True, default_retry_delay=0, max_retries=2, acks_late=True)
def die_always():
    note("die")
    _die()
"""


@pytest.mark.parametrize(
    ("tasks", "seconds", "kills"),
    [
        pytest.param(60, 0.02, 3, id="short"),
        pytest.param(200, 0.05, 5, id="full", marks=pytest.mark.long),
    ],
)
def test_children_are_killed(
    site: Site, assert_alive: Callable[[Proc], None], tasks: int, seconds: float, kills: int
) -> None:
    """1: children killed at random, busy or idle, cost no task that is redelivered, and are replaced."""
    chance = random.Random(1)
    site.write_project(SURVIVING)
    site.start_broker()
    worker = site.start_worker("-P", "prefork", "-c", "2")
    with site.tasks.app.pipeline():
        results = [site.tasks.survive.delay(seconds, str(n)) for n in range(tasks)]
    for n in range(kills):
        site.wait_runs("survived", n * tasks // kills)
        chance.choice(wait_until(lambda: children(site))).kill()
    killed = time.monotonic()
    wait_until(
        lambda: 2 == len(children(site)), killed + 5 - time.monotonic(), what="two children are there"
    )

    assert [str(n) for n in range(tasks)] == [result.get(timeout=60) for result in results]
    assert_alive(worker)


@pytest.mark.parametrize("project", [STILLBORN, DYING_AT_START], ids=["fork", "signal"])
def test_children_that_die_at_their_start(site: Site, project: str) -> None:
    """1: a worker whose new children all die gives up with a plain message, and not with 0."""
    site.write_project(project)
    site.start_broker()

    worker = site.start_worker("-P", "prefork", ready=None)

    assert 1 == worker.wait(60)
    output = worker.output()
    assert "the pool can't go on: children end on start-up again and again" in output
    assert "exited with status 3" in output
    assert "Traceback" not in output
    assert len(output.splitlines()) < 100


def test_tasks_that_kill_their_own_process(site: Site, assert_alive: Callable[[Proc], None]) -> None:
    """2: with early and with late acks a task ends as WorkerLostError; what is to be redelivered is."""
    site.write_project(SUICIDAL)
    site.start_broker()
    worker = site.start_worker("-P", "prefork", "-c", "2")
    tasks = site.tasks
    results = [task.delay() for task in (tasks.die_early, tasks.die_late, tasks.die_requeued)]

    for result in results[:2]:
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            result.get(timeout=10)
        assert "FAILURE" == result.state
    assert "requeued" == results[2].get(timeout=10)

    assert ["die early False"] == [line for line in site.runs() if line.startswith("die early")]
    assert ["die late False"] == [line for line in site.runs() if line.startswith("die late")]
    assert ["die requeued False", "die requeued True"] == [
        line for line in site.runs() if line.startswith("die requeued")
    ]
    # The task's process being gone, the signal comes from the worker's.
    assert {
        f"failed siteproj.die_early WorkerLostError {worker.pid}",
        f"failed siteproj.die_late WorkerLostError {worker.pid}",
    } == {line for line in site.runs() if line.startswith("failed")}
    assert 2 == site.count("failed")
    assert (0, 0) == (site.queue()["waiting"], site.queue()["in_flight"])
    assert_alive(worker)


@pytest.mark.parametrize(
    ("pool", "countdown_s"),
    [
        pytest.param("prefork", 3, id="short"),
        *(pytest.param(pool, 10, id=f"full-{pool}", marks=pytest.mark.long) for pool in POOLS),
    ],
)
def test_the_whole_worker_is_killed(site: Site, pool: str, countdown_s: float) -> None:
    """4: what waited runs on the next worker, at its time, and only what was interrupted runs twice."""
    site.write_project(LATE_PING)
    site.start_broker()
    first = site.start_worker("-P", pool, "-c", "1")
    site.tasks.sleep_late.delay(30, "long")
    site.wait_runs("start long")
    for n in range(4):
        site.tasks.ping_late.delay(f"reserved{n}")
    due = time.time() + countdown_s
    for n in range(5):
        site.tasks.ping_late.apply_async((f"eta{n}",), countdown=countdown_s)
    first.send_signal_to_group(signal.SIGKILL)
    first.wait()
    killed = time.monotonic()

    second = site.start_worker("-P", "threads" if pool == "solo" else pool, "-c", "2")

    for n in range(4):
        site.wait_runs(f"ping reserved{n}", timeout_s=killed + 15 - time.monotonic())
    site.wait_runs("start long", 2, timeout_s=killed + 15 - time.monotonic())
    for n in range(5):
        site.wait_runs(f"ping eta{n}", timeout_s=countdown_s + 10)
    times = [float(line.split()[2]) for line in site.runs() if line.startswith("ping eta")]
    assert due <= min(times)
    assert max(times) < due + 3
    assert 9 == site.count("ping")
    assert 2 == site.count("start long")
    second.kill()


def test_a_task_whose_process_was_lost_is_tried_again(site: Site) -> None:
    """With retry_on_worker_lost the task comes again, as by retry(), until its retries have run out."""
    site.write_project(RETRIED)
    site.start_broker()
    site.start_worker("-c", "1")
    once, always = site.tasks.die_once.delay(), site.tasks.die_always.delay()

    assert 1 == once.get(timeout=20)
    with pytest.raises(WorkerLostError):
        always.get(timeout=20)
    assert [1, 1, 3] == [site.count(what) for what in ("try 0", "try 1", "die")]
