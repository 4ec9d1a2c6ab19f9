"""Locks, forks and processes of the tasks' own (case 44)."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.processes import wait_until
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

#: A thread of the worker takes and frees a lock all the time; the tasks take it, too.
LOCKED = '''
import threading

_lock = threading.Lock()


def _take_and_free():
    while True:
        with _lock:
            time.sleep(0.0005)
        time.sleep(0.0005)


threading.Thread(target=_take_and_free, daemon=True, name="locker").start()


@app.task
def locked(n):
    with _lock:
        note(f"locked {n} {os.getpid()}")
    return n
'''

#: Works, and work that goes on when the task's process is gone.
FAMILIES = '''
import multiprocessing, subprocess, sys
from concurrent.futures import ProcessPoolExecutor


def _square(n):
    note(f"helper {os.getpid()}")
    return n * n


def _linger(n):
    note(f"helper {os.getpid()}")
    time.sleep(60)


@app.task
def squares(how):
    if how == "Pool":
        with multiprocessing.Pool(2) as pool:
            return pool.map(_square, range(5))
    if how == "ProcessPoolExecutor":
        with ProcessPoolExecutor(2) as pool:
            return list(pool.map(_square, range(5)))
    program = "print([n * n for n in range(5)])"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    return eval(done.stdout)


@app.task
def lingers(how):
    if how == "Pool":
        with multiprocessing.Pool(2) as pool:
            return pool.map(_linger, range(2), chunksize=1)
    if how == "ProcessPoolExecutor":
        with ProcessPoolExecutor(2) as pool:
            return list(pool.map(_linger, range(2)))
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    note(f"helper {child.pid}")
    return child.wait()
'''

HOWS = ("Pool", "ProcessPoolExecutor", "subprocess")

#: What can't be pickled stands in the settings.
LAMBDA = '''
app.conf.worker_pool_start_method = {method!r}
app.conf.task_default_priority = 3
app.conf.update(our_rule=lambda n: n + 1)


@app.task
def ruled(n):
    return [app.conf.our_rule(n), app.conf.task_default_priority]
'''


@pytest.mark.parametrize(
    ("count", "within_s"),
    [pytest.param(10, 30, id="short"), pytest.param(200, 60, id="full", marks=pytest.mark.long)],
)
def test_a_lock_that_a_thread_of_the_worker_holds(site: Site, count: int, within_s: float) -> None:
    """44: it blocks no child, though each task has a child of its own."""
    site.write_project(LOCKED)
    site.start_broker()
    site.start_worker("-P", "prefork", "-c", "2", "--max-tasks-per-child", "1")
    began = time.monotonic()
    with site.tasks.app.pipeline():
        results = [site.tasks.app.send_task(f"{site.tasks.__name__}.locked", (n,)) for n in range(count)]

    for n, result in enumerate(results):
        assert n == result.get(timeout=began + within_s - time.monotonic())

    pids = {line.split()[2] for line in site.runs()}
    assert (count, count) == (len(site.runs()), len(pids))


def test_tasks_that_start_processes(site: Site) -> None:
    """44: their results are right, and when the worker is killed nothing of them is left."""
    site.write_project(FAMILIES)
    site.start_broker()
    worker = site.start_worker("-P", "prefork", "-c", "3")
    tasks = site.tasks
    for how in HOWS:
        assert [0, 1, 4, 9, 16] == tasks.squares.delay(how).get(timeout=30), how
    before = site.count("helper")
    for how in HOWS:
        tasks.lingers.delay(how)
    site.wait_runs("helper", before + 5)
    helpers = [int(line.split()[1]) for line in site.runs()[before:]]
    assert all(psutil.pid_exists(pid) for pid in helpers)

    worker.kill()

    site.procs.assert_none_left_of(worker, timeout_s=5)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in helpers), 5, what="no helper is left")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_start_methods(site: Site, method: str) -> None:
    """44: with either, children have the app and its settings, also what can't be pickled."""
    site.write_project(LAMBDA.format(method=method))
    site.start_broker()
    site.start_worker("-P", "prefork", "-c", "2")
    with site.tasks.app.pipeline():
        results = [site.tasks.ruled.delay(n) for n in range(20)]

    assert [[n + 1, 3] for n in range(20)] == [result.get(timeout=30) for result in results]
