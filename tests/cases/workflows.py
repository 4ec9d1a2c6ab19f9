"""The tasks of the workflow cases, and a site of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.processes import Procs, unused_port
from tests.site import Site, open_site

__all__ = ["TASKS", "open_workflow_site"]

TASKS = '''
from emq_compat.celery_shim import chain, chord, group, signature


@app.task
def add(x, y=0):
    return x + y


@app.task
def total(values):
    return sum(values)


@app.task
def same(value):
    return value


@app.task
def marked(value, mark):
    """The value, with a line in the file of runs."""
    note(f"ran {mark} {value}")
    return value


@app.task
def boom(*args):
    note("boom")
    raise ValueError("boom")


@app.task
def lost(*args):
    """Ends the process that runs it."""
    os.kill(os.getpid(), 9)


@app.task(time_limit=1)
def too_long(*args):
    time.sleep(30)


@app.task
def boom_later(pause_s):
    time.sleep(pause_s)
    raise ValueError("boom")


@app.task(bind=True)
def flaky(self, value, times=1):
    """The value, after so many retries; each attempt is noted with its message's options."""
    request = self.request
    info = request.delivery_info
    note(
        f"attempt {request.retries} {info['routing_key']} {info['priority']}"
        f" {(request.headers or {}).get('own')} {request.root_id}"
    )
    if request.retries < times:
        raise self.retry(countdown=0.2)
    return value


@app.task(bind=True, max_retries=None)
def late(self):
    note("late")
    raise self.retry(countdown=3)


@app.task(bind=True)
def replaced(self, sig):
    return self.replace(signature(sig, app=app))


@app.task(bind=True)
def growing(self, value, more):
    self.add_to_chord(same.s(more))
    return value


@app.task
def new_errback(request, exc, traceback):
    note(f"new {request.id} {type(exc).__name__} {bool(traceback)}")


@app.task
def typed_errback(request, exc, traceback, given):
    note(f"typed {request.id} {given!r}")


@app.task
def looking_errback(request, exc, traceback):
    result = app.AsyncResult(request.id)
    error = result.get(timeout=5, propagate=False, disable_sync_subtasks=False)
    other = app.AsyncResult("unknown").state
    note(f"looked {request.id} {result.state} {result.ready()} {type(error).__name__} {other}")


@app.task
def old_errback(task_id):
    note(f"old {task_id}")


@app.task(bind=True)
def context(self, *args):
    request = self.request
    return {
        "id": request.id, "root": request.root_id, "parent": request.parent_id, "group": request.group,
        "index": request.group_index, "priority": request.delivery_info["priority"],
        "stamps": request.stamps, "args": list(args),
    }
'''


@contextmanager
def open_workflow_site(folder: Path, pool: str, result_backend: str = "") -> Iterator[Site]:
    """A site with a broker and one worker that runs the tasks above; the broker has results unless told."""
    logs = folder / "procs"
    logs.mkdir()
    processes = Procs(logs)
    try:
        with open_site(folder, processes, unused_port) as site:
            backend = f"\napp.conf.result_backend = {result_backend!r}\n" if result_backend else ""
            site.write_project(TASKS + backend)
            site.start_broker()
            site.start_worker("-P", pool, "-Q", "celery,q2")
            yield site
    finally:
        processes.close()
