"""A shim app on RabbitMQ and on Redis, its workers beside genuine Celery's (cases 2, 13, 16, 17 and 28)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.environments import genuine_celery
from tests.mixed_site import NAME, MixedSite, Raised
from tests.processes import Procs, unused_port, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.cases]

#: In an environment with genuine Celery the app is Celery's, else the shim's.
EITHER = """
try:
    from celery import Celery, chain, chord, group, signals
except ImportError:
    from emq_compat.celery_shim import Celery, chain, chord, group
    from emq_compat.shim import signals

KIND = Celery.__module__.partition(".")[0]
"""
TASKS = '''
import signal


@app.task
def who(*args):
    return KIND


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
def boom(*args):
    raise ValueError("boom")


@app.task
def noted(*args):
    note(f"noted {args}")


@app.task
def on_error(request, exc, traceback):
    note(f"error {type(exc).__name__} {request.id}")


@app.task(bind=True, max_retries=20)
def flaky(self, value, times=2, countdown=0):
    """Notes what each attempt sees; tried again so many times."""
    request = self.request
    where = request.delivery_info
    seen = [where["routing_key"], where.get("priority"), request.root_id, getattr(request, "tag", None)]
    note(f"flaky {value} {KIND} {seen}")
    if request.retries < times:
        raise self.retry(countdown=countdown)
    return value


def _die_once(task, mark):
    redelivered = bool(task.request.delivery_info["redelivered"])
    note(f"die {mark} {redelivered}")
    if not redelivered:
        os.kill(os.getpid(), signal.SIGKILL)
    return mark


@signals.task_failure.connect
def failed(sender=None, exception=None, **kwargs):
    note(f"failed {sender.name} {type(exception).__name__}")


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


class Both(MixedSite):
    """The project as the shim's app; Celery's worker listens on a queue of its own, and on a shared one.

    Attributes:
        shim, celery, shared: the queue of our worker, of Celery's, of both.
    """

    def write_project(self, more: str = "", **settings: Any) -> None:
        super().write_project(TASKS + more, **settings)
        path = self.folder / f"{NAME}.py"
        path.write_text(path.read_text().replace("from emq_compat.celery_shim import Celery\n", EITHER))

    def start_all(self) -> None:
        self.shim, self.celery, self.shared = (self.queue(kind) for kind in ("celery", "genuine", "shared"))
        self.start_worker("-c", "2", "-Q", f"{self.shim},{self.shared}")
        self._worker(
            genuine_celery() / "celery", "-A", NAME, "worker",
            *self._usual(["-Q", f"{self.celery},{self.shared}"]),
            ready=" ready.",
        )  # fmt: skip
        self.ask("None")
        self.ask("pass", shim=self.shim, celery_queue=self.celery, shared=self.shared)

    def ask_celery(self, code: str) -> Any:
        """Evaluate an expression in a process of genuine Celery that has imported the project."""
        names = f"shim, celery_queue, shared = {self.shim!r}, {self.celery!r}, {self.shared!r}"
        text = f"import json; from {NAME} import *; {names}; print('->' + json.dumps({code}))"
        done = subprocess.run(
            [genuine_celery() / "python", "-c", text],
            cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert 0 == done.returncode, done.stderr
        return json.loads(done.stdout.rpartition("->")[2])


@contextmanager
def open_both(request: pytest.FixtureRequest, folder: Path, **settings: Any) -> Iterator[Both]:
    """A site on the broker that the parameter names, with both workers."""
    procs = Procs(folder)
    try:
        site = Both(
            "shim", request.param, folder=folder, procs=procs, free_port=unused_port,
            amqp_url=lambda: request.getfixturevalue("amqp_url"),
        )  # fmt: skip
        try:
            site.start_broker()
            site.write_project(**settings)
            site.start_all()
            yield site
        finally:
            site.close()
    finally:
        procs.close()
        if request.session.testsfailed:
            print(procs.report())


@pytest.fixture(scope="module", params=["redis", "amqp"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with open_both(request, tmp_path_factory.mktemp(f"both-{request.param}")) as site:
        yield site


@pytest.fixture(params=["redis", pytest.param("amqp", marks=pytest.mark.long)])
def by_rpc(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Both]:
    """The same with results by messages."""
    with open_both(request, tmp_path, result_backend="rpc://") as site:
        yield site


@pytest.fixture(params=["redis", pytest.param("amqp", marks=pytest.mark.long)])
def in_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Both]:
    """The same with results in an SQL database."""
    backend = f"db+sqlite:///{tmp_path / 'results.db'}"
    with open_both(request, tmp_path, result_backend=backend, result_chord_retry_interval=0.3) as site:
        yield site


#: Canvas → its value, wherever its tasks run.
CANVAS = {
    "add.s(1, 2) | add.s(3)": 6,
    "chord([add.s(i, i) for i in range(4)], total.s())": 12,
    "group(chain(add.s(1, 1), group(add.s(2), add.s(3)), total.s()), add.s(5, 5)) | same.s()": [9, 10],
    "chord([chain(add.s(1, 1), group(add.s(2), add.s(3))), add.s(5, 5)], same.s())": [[4, 5], 10],
    "chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(5, 5)], total.s())": 16,
    "chord([flaky.s(i, times=i % 2) for i in range(5)], same.s())": [0, 1, 2, 3, 4],
    "chord([add.s(1, 1), add.s(2, 2)], group(total.s(), same.s()))": [6, [2, 4]],
    "chord([add.s(i) for i in range(100)], total.s())": 4950,
}


@pytest.mark.parametrize("canvas", CANVAS)
@pytest.mark.parametrize("queue", ["shim", "celery_queue", "shared"])
def test_a_canvas_has_its_value(both: Both, canvas: str, queue: str) -> None:
    """16: workflows of a shim client end as Celery's, on our worker, on Celery's, and on both at once."""
    both.ask(f"app.conf.task_default_queue = {queue}")
    try:
        assert CANVAS[canvas] == both.ask(f"({canvas}).apply_async().get(timeout=20)")
    finally:
        both.ask("app.conf.task_default_queue = shim")


def test_celery_s_clients_and_ours_are_served_alike(both: Both) -> None:
    """What genuine Celery publishes runs here, chords and their errors included, and it reads the results."""
    canvas = list(CANVAS)[2:6]
    asked = ", ".join(f"({one}).apply_async().get(timeout=20)" for one in canvas)

    found = both.ask_celery(f"[who.delay().get(timeout=20), {asked}]")

    assert ["emq_compat", *(CANVAS[one] for one in canvas)] == found


@pytest.mark.parametrize("queue", ["shim", "celery_queue"])
def test_the_parts_of_one_chord_run_on_both_kinds_of_worker(both: Both, queue: str) -> None:
    """Who ends the last part publishes the body, whoever ran the others."""
    parts = "[who.s().set(queue=q) for q in (shim, celery_queue) * 3]"

    both.ask(f"r = chord({parts}, same.s().set(queue={queue})).apply_async()")

    assert ["emq_compat", "celery"] * 3 == both.ask("r.get(timeout=20)")
    assert ["emq_compat", "celery"] * 3 == both.ask("r.parent.join(timeout=20)")


@pytest.mark.parametrize("queue", ["shim", "celery_queue"])
@pytest.mark.parametrize(
    "failing", ["chain(same.s(1), boom.s(), same.s())", "chord([boom.s(), same.s(1)], same.s())", "boom.s()"]
)
def test_a_failing_part_fails_its_chord_and_what_comes_after_it(
    both: Both, failing: str, queue: str
) -> None:
    """17: the body ends as a ChordError, its errback is called, and nothing runs that comes after it."""
    steps = f"group({failing}, same.s(2)).set(queue={queue}), noted.s().on_error(on_error.s()), noted.s()"
    both.ask(f"r = chain({steps}).apply_async(queue={queue})")
    with pytest.raises(Raised, match=r"ChordError|boom"):
        both.ask("r.get(timeout=20)")
    if queue == "celery_queue":
        return  # Celery's worker tells only the last of what never began, and calls no errback of the others
    body = both.ask("(r.parent.get(timeout=20, propagate=False, follow_parents=False), r.parent.id)")
    assert "ChordError" in repr(body[0])
    both.wait_runs(f"error ChordError {body[1]}")
    assert 0 == both.count("noted")


def test_a_retry_keeps_what_the_call_said(both: Both) -> None:
    """13: each attempt has the same queue, priority, header and root; what follows gets the value."""
    both.ask(
        "r = chain(same.s('kept'), flaky.s(times=2, countdown=1)"
        ".set(queue=shim, priority=5, headers={'tag': 'x'}), same.s()).apply_async()"
    )

    assert "kept" == both.ask("r.get(timeout=30)")

    seen = [line.partition("kept emq_compat ")[2] for line in both.runs() if line.startswith("flaky kept")]
    assert 3 == len(seen)
    assert 1 == len(set(seen))
    root = both.ask("r.parent.parent.id")
    priority = 5
    assert str([both.shim, priority, root, "x"]) == seen[0]


def test_a_retry_that_is_too_late_is_revoked(both: Both) -> None:
    """13: a message that expires in 2 s is not tried again after 3: it ends REVOKED, and ran once."""
    both.ask("r = flaky.apply_async(('late', 5, 3), expires=2, queue=shim)")

    wait_until(lambda: both.ask("r.state") == "REVOKED", 20)
    assert 1 == both.count("flaky late")


def test_retries_hop_between_both_kinds_of_worker(both: Both) -> None:
    """A task on a shared queue is tried again by whichever worker has time, and ends with its value."""
    # Celery's worker notes a retry after it has published it: at once is too soon for it.
    both.ask("rs = [flaky.apply_async((f'hop{i}', 4, 0.3), queue=shared) for i in range(10)]")

    assert [f"hop{i}" for i in range(10)] == both.ask("[r.get(timeout=30) for r in rs]")
    runs = [line.split()[2] for line in both.runs() if line.startswith("flaky hop")]
    assert 10 * 5 == len(runs)
    assert {"emq_compat", "celery"} == set(runs)


def test_a_child_that_is_killed(both: Both) -> None:
    """2: acknowledged early or late a task ends as WorkerLostError; it runs again where it asks for that."""
    both.ask("rs = [t.apply_async(queue=shim) for t in (die_early, die_late, die_requeued)]")

    for number in (0, 1):
        with pytest.raises(Raised, match="WorkerLostError"):
            both.ask(f"rs[{number}].get(timeout=20)")
    assert "requeued" == both.ask("rs[2].get(timeout=20)")
    assert ["die early False"] == [line for line in both.runs() if line.startswith("die early")]
    assert ["die late False"] == [line for line in both.runs() if line.startswith("die late")]
    assert ["die requeued False", "die requeued True"] == [
        line for line in both.runs() if line.startswith("die requeued")
    ]
    both.wait_runs(f"failed {NAME}.die_early WorkerLostError")
    both.wait_runs(f"failed {NAME}.die_late WorkerLostError")
    assert 0 == both.count(f"failed {NAME}.die_requeued")


def test_a_lost_part_fails_its_chord(both: Both) -> None:
    """A part whose process is killed fails its chord at once: another process tells the backend."""
    both.ask("r = chord([die_early.s(), same.s(1)], same.s()).apply_async(queue=shim)")

    with pytest.raises(Raised, match=r"WorkerLostError|ChordError"):
        both.ask("r.get(timeout=20)")
    wait_until(lambda: both.ask("r.state") == "FAILURE", 10)


def test_an_unknown_name(both: Both) -> None:
    """28: a task that no worker knows ends as NotRegistered, and the log names near ones."""
    both.ask(f"r = app.send_task('{NAME}.tota', queue=shim)")

    with pytest.raises(Raised, match="NotRegistered"):
        both.ask("r.get(timeout=10)")
    assert f"{NAME}.total" in both.workers[0].tail(200)


def test_own_features_say_what_they_need(both: Both) -> None:
    """A unique call, and others that our broker is needed for, are refused by name."""
    with pytest.raises(Raised, match=r"ImproperlyConfigured.*need an emq:// broker"):
        both.ask("same.apply_async((1,), unique_for=10)")


def test_results_by_messages(by_rpc: Both) -> None:
    """rpc:// takes results to whoever asked, ours or Celery's, from either worker; it has no chords."""
    for queue, kind in (("shim", "emq_compat"), ("celery_queue", "celery")):
        asked = f"who.apply_async(queue={queue}).get(timeout=20)"
        assert kind == by_rpc.ask(asked) == by_rpc.ask_celery(asked)
        chained = f"chain(add.s(1, 2), add.s(3)).apply_async(queue={queue}).get(timeout=20)"
        assert 6 == by_rpc.ask(chained) == by_rpc.ask_celery(chained)
        with pytest.raises(Raised, match="ValueError: boom"):
            by_rpc.ask(f"boom.apply_async(queue={queue}).get(timeout=20)")
    assert [0, 2, 4] == by_rpc.ask("group(add.s(i, i) for i in range(3)).apply_async().get(timeout=20)")
    with pytest.raises(Raised, match="NotImplementedError"):
        by_rpc.ask("chord([add.s(1)], total.s()).apply_async()")


def test_chords_by_results_in_a_database(in_database: Both) -> None:
    """Celery's task that polls runs on either worker, and a part that failed ends the chord."""
    parts = "[who.s().set(queue=q) for q in (shim, celery_queue) * 2]"
    for queue in ("shim", "celery_queue"):
        found = in_database.ask(f"chord({parts}, same.s().set(queue={queue})).apply_async().get(timeout=20)")
        assert ["emq_compat", "celery"] * 2 == found
        in_database.ask(f"r = chord([same.s(1), boom.s()], noted.s().set(queue={queue})).apply_async()")
        with pytest.raises(Raised, match=r"ChordError|boom"):
            in_database.ask("r.get(timeout=20)")
        wait_until(lambda: in_database.ask("r.state") == "FAILURE", 10)
    assert 0 == in_database.count("noted")


@pytest.mark.parametrize("named", [True, False], ids=["with a main name", "without"])
def test_a_module_that_is_run_as_a_script(both: Both, named: bool) -> None:
    """28: its task is its app's, and runs; without a main name nobody knows it, and near ones are told."""
    printed = both.run_as_script(named=named)

    assert (f"{NAME}.ping script" if named else "__main__.ping NotRegistered") == printed
    if not named:
        both.workers[0].wait_line("no task '__main__.ping' is registered here; near it: ")
