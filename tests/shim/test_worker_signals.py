"""The signals of a worker's parent, and those of a process that runs tasks."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.errors import MessageError
from emq_compat.manager.losses import reply_to_lost, revoked
from emq_compat.message import Delivery, Headers
from emq_compat.pool.base import Lost
from emq_compat.run import TaskPolicy
from emq_compat.shim import signals
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.exceptions import NotRegistered, TimeLimitExceeded, WorkerLostError
from emq_compat.shim.program import ShimProgram
from emq_compat.shim.surface.bootsteps import StartStopStep, Step, Timer
from emq_compat.shim.worker import WorkController
from tests.shim.recorder import Recorder, Worker, delivered

NAMES = (
    "import_modules", "worker_init", "worker_before_create_process", "worker_process_init", "worker_ready",
    "heartbeat_sent", "worker_shutting_down", "worker_process_shutdown", "worker_shutdown", "task_received",
    "task_unknown", "task_rejected", "task_failure", "task_retry", "task_revoked",
)  # fmt: skip

Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """(name, arguments) of each signal that was sent, in order."""
    seen: Heard = []

    def listen(signal: Signal, **named: Any) -> None:
        seen.append((str(signal.name), named))

    for name in NAMES:
        getattr(signals, name).connect(listen)
    yield seen
    for name in NAMES:
        getattr(signals, name).disconnect(listen)


@pytest.fixture
def program(app: Celery) -> ShimProgram:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    return ShimProgram(app, controller=WorkController(app, "w@h", {"queues": "a"}))


def test_a_life(app: Celery, program: ShimProgram, heard: Heard) -> None:
    """Each of a worker's life is sent once, with the worker, its consumer or its name as the sender."""
    onlooker, controller = program.onlooker, program.announcer.controller
    program.load()
    program.announcer.worker_init()
    program.worker_init()
    onlooker.before_child()
    program.child_init()
    onlooker.ready()
    onlooker.heartbeat_sent()
    onlooker.shutting_down("SIGTERM", "Warm", 0)
    program.child_exit()
    onlooker.shut_down()
    consumer = controller.consumer
    assert [
        ("import_modules", {"sender": app}),
        ("worker_init", {"sender": controller}),
        ("worker_before_create_process", {"sender": controller}),
        ("worker_process_init", {"sender": None}),
        ("worker_ready", {"sender": consumer}),
        ("heartbeat_sent", {"sender": consumer}),
        ("worker_shutting_down", {"sender": "w@h", "sig": "SIGTERM", "how": "Warm", "exitcode": 0}),
        ("worker_process_shutdown", {"sender": None, "pid": os.getpid(), "exitcode": 0}),
        ("worker_shutdown", {"sender": controller}),
    ] == heard
    assert ("w@h", app, "w@h", app) == (
        controller.hostname, controller.app, consumer.hostname, consumer.app
    )  # fmt: skip
    assert {"queues": "a"} == controller.options


def test_import_modules_can_fail_the_start(app: Celery, program: ShimProgram) -> None:
    """What a receiver of import_modules raises ends the start, as in Celery."""

    @signals.import_modules.connect
    def fail(**named: Any) -> None:
        raise LookupError("no such project")

    try:
        with pytest.raises(LookupError, match="no such project"):
            program.worker_init()
    finally:
        signals.import_modules.disconnect(fail)


def test_what_is_taken_in(app: Celery, program: ShimProgram, client: Recorder, heard: Heard) -> None:
    """task_received has the request; an unregistered name is task_unknown, no message task_rejected."""
    app.tasks["proj.add"].apply_async((2,), {"y": 3}, task_id="i1", headers={"trace": "t"})
    app.send_task("proj.missing", task_id="i2")
    for message in client.published:
        program.onlooker.received(delivered(message))
    broken = Delivery(msgid="m3", queue="celery", headers=Headers(attempt=1), payload=b"nonsense")
    program.onlooker.received(broken)
    program.onlooker.received(delivered(client.last, concludes=True))

    assert ["task_received", "task_unknown", "task_rejected"] == [name for name, _ in heard]
    received, unknown, rejected = (named for _, named in heard)
    request = received["request"]
    assert program.announcer.controller.consumer is received["sender"]
    assert ("i1", "i1", "proj.add", app.tasks["proj.add"]) == (
        request.id, request.task_id, request.name, request.task
    )  # fmt: skip
    assert ([2], {"y": 3}, "{'y': 3}") == (request.args, request.kwargs, request.kwargsrepr)
    assert {"trace": "t"} == request.headers
    assert "celery" == request.delivery_info["routing_key"]
    assert "proj.add[i1]" == str(request)
    assert ("proj.missing", "i2") == (unknown["name"], unknown["id"])
    assert isinstance(unknown["exc"], NotRegistered)
    assert broken is rejected["message"]
    assert isinstance(rejected["exc"], MessageError)


@pytest.mark.parametrize(("reason", "kind"), [("died", WorkerLostError), ("time-limit", TimeLimitExceeded)])
def test_failure_of_a_lost_task(
    app: Celery, program: ShimProgram, client: Recorder, heard: Heard, reason: Any, kind: type[Exception]
) -> None:
    """task_failure of a task that gave no reply has the exception that its result has."""
    app.tasks["proj.add"].apply_async((2, 3), task_id="i1")
    delivery = delivered(client.last)
    lost = Lost(key=("m", 1), reason=reason, detail="killed by SIGKILL", pid=1)
    program.onlooker.unattended(delivery, reply_to_lost(lost, delivery, TaskPolicy(), 5.0))

    [(name, named)] = heard
    assert ("task_failure", app.tasks["proj.add"], "i1") == (name, named["sender"], named["task_id"])
    assert kind is type(named["exception"])
    assert ([2, 3], {}) == (named["args"], named["kwargs"])
    assert kind.__name__ in str(named["einfo"])
    assert named["traceback"] is not None


def test_a_lost_task_that_is_tried_again(
    app: Celery, program: ShimProgram, client: Recorder, heard: Heard
) -> None:
    """task_retry tells of the WorkerLostError, as of what a task gives to retry()."""
    app.tasks["proj.add"].apply_async((2, 3), task_id="i1")
    delivery = delivered(client.last)
    lost = Lost(key=("m", 1), reason="died", detail="killed by SIGKILL", pid=1)
    reply = reply_to_lost(lost, delivery, TaskPolicy(lost_retry_s=180.0), None)
    program.onlooker.unattended(delivery, reply)

    [(name, named)] = heard
    assert ("task_retry", app.tasks["proj.add"], "i1") == (name, named["sender"], named["request"].id)
    assert WorkerLostError is type(named["reason"].exc)
    assert 180 == named["reason"].when


def test_what_goes_back_is_no_failure(
    app: Celery, program: ShimProgram, client: Recorder, heard: Heard
) -> None:
    """A lost task that is to be redelivered sends nothing."""
    app.tasks["proj.add"].delay(2, 3)
    delivery = delivered(client.last)
    policy = TaskPolicy(acks_late=True, reject_on_worker_lost=True)
    lost = Lost(key=("m", 1), reason="died", detail="", pid=1)
    program.onlooker.unattended(delivery, reply_to_lost(lost, delivery, policy, None))
    assert not heard


@pytest.mark.parametrize(
    ("why", "signum", "flags"),
    [("revoked", None, (False, None, False)), ("terminated", 15, (True, 15, False))],
)
def test_revoked(
    app: Celery, program: ShimProgram, client: Recorder, heard: Heard, why: str, signum: Any, flags: Any
) -> None:
    """task_revoked tells whether the task was terminated, and by which signal."""
    app.tasks["proj.add"].apply_async((2, 3), task_id="i1")
    program.onlooker.unattended(delivered(client.last), revoked(why), signum=signum)
    [(name, named)] = heard
    assert ("task_revoked", app.tasks["proj.add"], "i1") == (name, named["sender"], named["request"].id)
    assert flags == (named["terminated"], named["signum"], named["expired"])


def test_expired(app: Celery, client: Recorder, worker: Worker, program: ShimProgram, heard: Heard) -> None:
    """A task that is found to be expired by the process that was to run it is revoked, expired."""
    app.tasks["proj.add"].apply_async((2, 3), expires=1)
    delivery = delivered(client.last, expires=1.0)
    program.onlooker.unattended(delivery, program.work(delivery, lambda state, body: None))
    [(name, named)] = heard
    assert ("task_revoked", False, True) == (name, named["terminated"], named["expired"])


def test_an_onlooker_that_fails_does_no_harm(
    app: Celery, program: ShimProgram, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be told is logged: the loop that tells it must go on."""
    broken = Delivery(msgid="m3", queue="celery", headers=Headers(attempt=1), payload=b"nonsense")
    program.onlooker.unattended(broken, revoked("revoked"))
    assert not heard
    assert "Announcer.unattended failed" in caplog.text


def test_steps_of_a_project(app: Celery, program: ShimProgram) -> None:
    """Steps of the worker are made before its processes, started when it is ready, and stopped in reverse."""
    told: list[tuple[str, Any]] = []

    class First(StartStopStep):
        requires = {"celery.worker.components:Timer"}  # noqa: RUF012 - as projects write it

        def __init__(self, parent: Any, **kwargs: Any) -> None:
            told.append(("made", kwargs["queues"]))

        def create(self, parent: Any) -> None:
            told.append(("create", parent.hostname))

        def start(self, parent: Any) -> None:
            told.append(("start", parent.hostname))

        def stop(self, parent: Any) -> None:
            told.append(("stop", "first"))

    class Again(StartStopStep):
        requires = (First,)

        def create(self, parent: Any) -> Any:
            told.append(("create", "again"))
            return self

        def start(self, parent: Any = None) -> None:
            self.beat = threading.Event()
            parent.timer.call_repeatedly(0.01, self.beat.set)

        def stop(self, parent: Any = None) -> None:
            raise RuntimeError("can't")

    class Never(Step):
        def include_if(self, parent: Any) -> bool:
            return False

        def create(self, parent: Any) -> None:
            raise AssertionError

    app.steps["worker"] |= {Again, First, Never}
    onlooker, controller = program.onlooker, program.announcer.controller
    program.worker_init()
    assert [("made", "a"), ("create", "w@h"), ("create", "again")] == told
    onlooker.ready()
    assert ("start", "w@h") == told[-1]
    (again,) = [step for steps in controller._steps for step in steps._steps if isinstance(step, Again)]
    assert again.beat.wait(10)
    onlooker.shut_down()
    assert ("stop", "first") == told[-1]


def test_steps_of_the_consumer(app: Celery, program: ShimProgram) -> None:
    """Steps of app.steps["consumer"] come after the worker's and end before them; they get the consumer."""
    told: list[Any] = []

    class OfWorker(StartStopStep):
        def start(self, parent: Any) -> None:
            told.append(("start", parent))

        def stop(self, parent: Any) -> None:
            told.append(("stop", parent))

    class OfConsumer(OfWorker):
        requires = ("celery.worker.consumer:Connection",)

    app.steps["worker"].add(OfWorker)
    app.steps["consumer"].add(OfConsumer)
    onlooker, controller = program.onlooker, program.announcer.controller
    program.worker_init()
    onlooker.ready()
    onlooker.shut_down()
    both = [controller, controller.consumer]
    assert [("start", one) for one in both] + [("stop", one) for one in reversed(both)] == told
    assert ("w@h", app) == (controller.consumer.hostname, controller.consumer.app)
    assert controller.timer is controller.consumer.timer


def test_calls_of_a_timer() -> None:
    """A timer calls once or again and again from its begin on; one that raises stops no other."""
    timer, calls = Timer(), queue.SimpleQueue[str]()
    timer.call_after(0, calls.put, ("once",))
    timer.call_after(0, int, ("no number",))
    beat = timer.call_repeatedly(0.001, calls.put, kwargs={"item": "beat"})
    assert calls.empty()
    timer.begin()
    assert "once" == calls.get(timeout=10)
    assert ["beat", "beat"] == [calls.get(timeout=10), calls.get(timeout=10)]
    beat.cancel()
    timer.stop()
    assert timer._thread is not None
    timer._thread.join(10)
    assert not timer._thread.is_alive()
