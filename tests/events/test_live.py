"""Events of real workers, on a real broker: the sequence of each kind of end, in two pools."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from emq_compat.shim.events.receiver import EventReceiver
from tests.processes import Procs, unused_port, wait_until
from tests.site import Site, open_site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

_TASKS = """
import signal
from emq_compat.celery_shim import Ignore, Reject

app.conf.task_send_sent_event = True


@app.task
def add(x, y):
    return (x, y)


@app.task(bind=True)
def again(self):
    if not self.request.retries:
        raise self.retry(exc=KeyError("k"), countdown=0)
    self.send_event("task-progress", done=3)


@app.task(acks_late=True, bind=True)
def reject(self, requeue):
    if not self.request.delivery_info["redelivered"]:
        raise Reject("no", requeue=requeue)


@app.task
def ignore():
    raise Ignore


@app.task
def killed():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(acks_late=True, reject_on_worker_lost=True, bind=True)
def killed_once(self):
    if not self.request.delivery_info["redelivered"]:
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def limited():
    time.sleep(30)


@app.task(soft_time_limit=1)
def limited_softly():
    for _ in range(3000):
        time.sleep(0.01)


@app.task(send_events=False)
def silent():
    pass
"""


class Watch:
    """Takes in all events of a site in a thread."""

    def __init__(self, site: Site) -> None:
        self.events: list[dict[str, Any]] = []
        app = site.tasks.app
        handlers = {"*": self.events.append}
        self.receiver: EventReceiver = app.events.Receiver(app.connection(), handlers=handlers)
        self.receiver.queue.declare()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.receiver.capture()

    def close(self) -> None:
        self.receiver.should_stop = True
        self._thread.join(10)
        self.receiver.close()
        assert not self._thread.is_alive()

    def of(self, uuid: str) -> list[dict[str, Any]]:
        """The events of a task, in the order of their clocks."""
        found = [event for event in self.events if event.get("uuid") == uuid]
        return sorted(found, key=lambda event: int(event["clock"]))

    def types(self, uuid: str) -> str:
        """Their types, without the group: ``sent received …``."""
        return " ".join(event["type"].removeprefix("task-") for event in self.of(uuid))

    def wait(self, uuid: str, expected: str) -> list[dict[str, Any]]:
        """Wait until the events of a task are these; returns them."""
        with suppress(TimeoutError):
            wait_until(lambda: self.types(uuid) == expected, timeout_s=20)
        assert expected == self.types(uuid)
        return self.of(uuid)

    def workers(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == f"worker-{type_}"]


@pytest.fixture(scope="module", params=["prefork", "threads"])
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Watch, str]]:
    """A site with a worker that sends events, all of which are taken in from its start on."""
    folder = tmp_path_factory.mktemp(f"events-{request.param}")
    logs = folder / "procs"
    logs.mkdir()
    procs = Procs(logs)
    try:
        with open_site(folder, procs, unused_port) as site:
            site.write_project(_TASKS)
            site.start_broker()
            watch = Watch(site)
            site.start_worker("-P", request.param, "-c", "2", "-E")
            yield site, watch, request.param
            watch.close()
    finally:
        procs.close()


Live = tuple[Site, Watch, str]


def test_a_success(live: Live) -> None:
    """A task that returns; its events agree with what it was, and come from its worker."""
    site, watch, _ = live
    result = site.tasks.add.delay(1, 2)
    sent, received, started, succeeded = watch.wait(result.id, "sent received started succeeded")
    assert ("(1, 2)", "(1, 2)", "(1, 2)") == (sent["args"], received["args"], succeeded["result"])
    assert started["hostname"] == received["hostname"] == succeeded["hostname"] != sent["hostname"]
    assert 0 < succeeded["runtime"] < 10


def test_a_failure(live: Live) -> None:
    """A task that raises."""
    site, watch, _ = live
    result = site.tasks.fail.delay("why")
    failed = watch.wait(result.id, "sent received started failed")[-1]
    assert "ValueError('why')" == failed["exception"]
    assert "raise ValueError" in failed["traceback"]


def test_a_retry(live: Live) -> None:
    """A task that is tried again, and then sends an event of its own."""
    site, watch, _ = live
    result = site.tasks.again.delay()
    wait_until(lambda: {"task-progress", "task-succeeded"} <= {e["type"] for e in watch.of(result.id)})
    events = watch.of(result.id)
    # What the task itself sends may be ahead of what its worker tells of it.
    types = [event["type"].removeprefix("task-") for event in events]
    of_task = [type_ for type_ in types if type_ in ("sent", "progress")]
    assert ["sent", "sent", "progress"] == of_task
    of_worker = " ".join(type_ for type_ in types if type_ not in of_task)
    assert "received started retried received started succeeded" == of_worker
    retried = next(event for event in events if event["type"] == "task-retried")
    assert "KeyError('k')" == retried["exception"]
    assert [0, 0, 1, 1] == [event["retries"] for event in events if "retries" in event]


def test_a_rejection(live: Live) -> None:
    """A task that rejects its message, for good, and for another time."""
    site, watch, _ = live
    result = site.tasks.reject.delay(False)
    assert False is watch.wait(result.id, "sent received started rejected")[-1]["requeue"]
    result = site.tasks.reject.delay(True)
    events = watch.wait(result.id, "sent received started rejected received started succeeded")
    assert events[3]["requeue"]


def test_an_ignored_task(live: Live) -> None:
    """A task that raises Ignore ends in silence."""
    site, watch, _ = live
    result = site.tasks.ignore.delay()
    later = site.tasks.add.delay(1, 1)
    watch.wait(later.id, "sent received started succeeded")
    assert "sent received started" == watch.types(result.id)


def test_a_silent_task(live: Live) -> None:
    """A task with send_events=False has no events of a worker."""
    site, watch, _ = live
    result = site.tasks.silent.delay()
    result.get(timeout=20)
    later = site.tasks.add.delay(1, 1)
    watch.wait(later.id, "sent received started succeeded")
    assert "sent" == watch.types(result.id)


def test_before_any_worker_had_it(live: Live) -> None:
    """A task that expires, or is revoked, while it waits in the broker."""
    site, watch, _ = live
    expired = site.tasks.ping.apply_async(("x",), countdown=1.5, expires=1)
    revoked = site.tasks.ping.apply_async(("x",), countdown=1)
    revoked.revoke()
    event = watch.wait(expired.id, "sent revoked")[-1]
    assert (True, False, None) == (event["expired"], event["terminated"], event["signum"])
    event = watch.wait(revoked.id, "sent revoked")[-1]
    assert (False, False, None) == (event["expired"], event["terminated"], event["signum"])


def test_over_the_limits(live: Live) -> None:
    """A task that is ended at its hard limit, and one that doesn't catch its soft limit."""
    site, watch, _ = live
    hard, soft = site.tasks.limited.delay(), site.tasks.limited_softly.delay()
    failed = watch.wait(hard.id, "sent received started failed")[-1]
    assert failed["exception"].startswith("TimeLimitExceeded(1")
    failed = watch.wait(soft.id, "sent received started failed")[-1]
    assert failed["exception"].startswith("SoftTimeLimitExceeded(")


def test_a_lost_child(live: Live) -> None:
    """A task whose process dies, and one that is then put back and runs again."""
    site, watch, pool = live
    if pool != "prefork":
        pytest.skip("the tasks run in the worker itself")
    result = site.tasks.killed.delay()
    failed = watch.wait(result.id, "sent received started failed")[-1]
    assert failed["exception"].startswith("WorkerLostError(")
    result = site.tasks.killed_once.delay()
    watch.wait(result.id, "sent received started rejected received started succeeded")


def test_a_lost_worker(live: Live) -> None:
    """A task whose whole worker is killed: the broker tells what becomes of it."""
    site, watch, pool = live
    worker = site.start_worker("-P", pool, "-E", "-Q", "doomed")
    result = site.tasks.sleep.apply_async((60,), {"mark": "doomed"}, queue="doomed")
    site.wait_runs("start doomed")
    watch.wait(result.id, "sent received started")
    worker.kill()
    failed = watch.wait(result.id, "sent received started failed")[-1]
    assert failed["exception"].startswith("WorkerLostError('the worker ")
    assert watch.of(result.id)[1]["hostname"] == failed["hostname"]


def test_a_terminated_task(live: Live) -> None:
    """A task that is revoked while it runs, and ended."""
    site, watch, pool = live
    if pool != "prefork":
        pytest.skip("a thread can't be ended")
    result = site.tasks.sleep.delay(30, mark="to be terminated")
    site.wait_runs("start to be terminated")
    result.revoke(terminate=True)
    event = watch.wait(result.id, "sent received started revoked")[-1]
    assert (True, int(signal.SIGTERM), False) == (event["terminated"], event["signum"], event["expired"])


def test_the_worker(live: Live) -> None:
    """A worker is online, and its heartbeats come; a receiver has them come at once."""
    site, watch, _ = live
    assert 1 == len([event for event in watch.workers("online") if event["pid"] == site.workers[0].pid])
    wait_until(lambda: len(watch.workers("heartbeat")) > 1, timeout_s=20)
    beat = next(e for e in reversed(watch.workers("heartbeat")) if e["pid"] == site.workers[0].pid)
    assert 2.0 == beat["freq"]
    app = site.tasks.app
    seen: list[Any] = []
    app.events.Receiver(app.connection(), {"worker-heartbeat": seen.append}, routing_key="worker.#").capture(
        limit=1, timeout=10
    )
    assert [beat["hostname"]] == [event["hostname"] for event in seen]


def test_a_state_of_it_all(live: Live) -> None:
    """A State that is given the events knows the tasks as they were."""
    site, watch, _ = live
    result = site.tasks.add.delay(5, 6)
    watch.wait(result.id, "sent received started succeeded")
    state = site.tasks.app.events.State()
    for event in list(watch.events):
        state.event(dict(event))
    task = state.tasks[result.id]
    assert ("SUCCESS", "(5, 6)", f"{site.tasks.add.name}") == (task.state, task.result, task.name)
    assert result.id == next(iter(state.tasks_by_time()))[0]
    assert task.worker in list(state.alive_workers())


def test_events_off_and_on(live: Live) -> None:
    """Disabled at run time nothing is told of tasks; enabled again all is, ends in the broker included."""
    site, watch, _ = live
    control = site.tasks.app.control
    assert control.disable_events(reply=True, timeout=10)
    result = site.tasks.add.delay(1, 1)
    result.get(timeout=20)
    assert control.enable_events(reply=True, timeout=10)
    later = site.tasks.ping.apply_async(("x",), countdown=1, expires=0.5)
    watch.wait(later.id, "sent revoked")
    assert "sent" == watch.types(result.id)


def test_an_event_of_ones_own(live: Live) -> None:
    """A program sends an event; a routing key says which are wanted; a limit and a timeout are kept to."""
    site, _, _ = live
    app = site.tasks.app
    seen: list[Any] = []
    receiver = app.events.Receiver(app.connection(), {"*": seen.append}, routing_key="mine.two")
    receiver.queue.declare()
    with app.events.default_dispatcher() as dispatcher:
        for number in range(3):
            dispatcher.send("mine-one", number=number)
            dispatcher.send("mine-two", number=number)
    receiver.capture(limit=2, timeout=10, wakeup=False)
    assert [0, 1] == [event["number"] for event in seen]
    begun = time.monotonic()
    receiver.queue.declare()
    with pytest.raises(TimeoutError):
        for _ in receiver.itercapture(timeout=0.3, wakeup=False):
            pass
    assert time.monotonic() - begun < 10
    assert [0, 1, 2] == [event["number"] for event in seen]
    receiver.close()


def test_dumped(live: Live) -> None:
    """`emq-compat events --dump`, or without a terminal, writes a line for each event until Ctrl-C."""
    site, _, _ = live
    procs = [
        site.procs.emq("-A", "siteproj", "events", *options, cwd=site.folder, ready="heartbeat")
        for options in (("--dump",), ())
    ]
    result = site.tasks.add.delay(1, 2)
    for proc in procs:
        proc.wait_line(f"task succeeded: siteproj.add({result.id}) args=(1, 2)")
    assert 0 == procs[0].stop(signum=signal.SIGINT)
    assert 0 == procs[1].stop(signum=signal.SIGTERM)


_CAMERA = """
from celery.events.snapshot import Polaroid


class Camera(Polaroid):
    def on_shutter(self, state):
        print("picture", [worker.hostname for worker in state.alive_workers()], flush=True)
"""


def test_a_camera_in_the_background(live: Live) -> None:
    """`emq-compat events -c` runs a project's camera, in the background, too, with a pid file."""
    site, watch, _ = live
    (site.folder / "camera.py").write_text(_CAMERA)
    argv = ["-A", "siteproj", "events", "-c", "camera.Camera", "-F", "0.2", "--pidfile", "cam.pid"]
    assert 0 == site.procs.emq(*argv, "-D", "-f", "cam.log", cwd=site.folder).wait()
    pid = int((site.folder / "cam.pid").read_text())
    try:
        second = site.procs.emq(*argv, cwd=site.folder)
        assert 1 == second.wait()
        assert f"process {pid} runs already" in second.output()
        name = watch.workers("heartbeat")[-1]["hostname"]
        log = site.folder / "cam.log"
        wait_until(lambda: f"picture ['{name}']" in log.read_text(), timeout_s=30)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (site.folder / "cam.pid").exists(), timeout_s=20)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-c", "nowhere.Camera"], "'nowhere.Camera' can't be imported"),
        (["-c", "json"], "'json' is no camera: name its class"),
        (["-c", "json.JSONDecoder", "-r", "often"], "'often' is no rate such as 10/m"),
        (["--maxrate", "1/s"], "--maxrate is for a camera (-c)"),
        (["-d", "-c", "camera.Camera"], "two ways to run"),
    ],
)
def test_called_wrongly(live: Live, options: list[str], said: str) -> None:
    """What can't be meant is an error that names it."""
    site, _, _ = live
    proc = site.procs.emq("-A", "siteproj", "events", *options, cwd=site.folder)
    assert 2 == proc.wait()
    assert said in proc.output()


def test_the_broker_is_started_again(live: Live) -> None:
    """A receiver goes on with another broker: it has workers tell of themselves, and hears how tasks end."""
    site, watch, _ = live
    running = site.tasks.sleep.delay(4, mark="over a restart")
    site.wait_runs("start over a restart")
    assert site.broker is not None
    site.broker.kill()
    site.start_broker()
    beats = len(watch.workers("heartbeat"))
    wait_until(lambda: len(watch.workers("heartbeat")) > beats, timeout_s=30)
    site.wait_runs("end over a restart")
    wait_until(lambda: watch.types(running.id).endswith("succeeded"), timeout_s=20)


def test_the_end(live: Live) -> None:
    """A worker that ends says that it is offline, last of all."""
    site, watch, _ = live
    site.workers[0].send_signal(signal.SIGTERM)
    wait_until(lambda: bool(watch.workers("offline")), timeout_s=30)
    assert 0 == watch.workers("offline")[0]["active"]
