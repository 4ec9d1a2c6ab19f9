"""JobManager's members, as eventmq documents them: each by itself, and all of them for a running one."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from emq_compat import jobmanager
from emq_compat.errors import ConfigurationError
from emq_compat.jobmanager import JobManager
from emq_compat.manager.settings import EventmqSettings
from emq_compat.message import Headers
from emq_compat.pool.base import PoolOptions
from emq_compat.upstream.base import Told
from tests.jobmanager.fake_upstream import FakeUpstream, running
from tests.processes import wait_until

pytestmark = pytest.mark.integration

ALLOW = ("operator.*", "_operator.*", "time.sleep", "os.getpid")
CALLBACKS = ("worker_done", "worker_done_with_reply", "worker_ready", "worker_death", "premature_death")

Make = Callable[..., JobManager]


def run(**options: Any) -> list[Any]:
    """What eventmq gives to on_request: a subcommand and its options."""
    return ["run", {"path": "operator", "callable": "add", "args": [2, 3], **options}]


@pytest.fixture
def make(upstream: FakeUpstream) -> Iterator[Make]:
    """Makes a job manager of threads that isn't started."""
    made: list[JobManager] = []

    def manager(cls: type[JobManager] = JobManager, **options: Any) -> JobManager:
        options.setdefault("settings", EventmqSettings(concurrent_jobs=2))
        made.append(cls(skip_signal=True, pool="threads", upstreams=[upstream], allow=ALLOW, **options))
        return made[-1]

    yield manager
    for one in made:
        one._signals.close()


def test_it_has_a_name_of_its_own(make: Make) -> None:
    """The name is a new uuid unless one is given."""
    first, second = make(), make()
    assert 36 == len(first.name)
    assert first.name != second.name
    assert "mine" == make(name="mine").name


@pytest.mark.parametrize(
    ("given", "queues"),
    [
        ((), ((10, "default"),)),
        (("a", (20, "b"), [5, "c"]), ((10, "a"), (20, "b"), (5, "c"))),
    ],
)
def test_queues_have_weights(make: Make, given: tuple[Any, ...], queues: tuple[Any, ...]) -> None:
    """Queues are names, of eventmq's default weight, or (weight, name)."""
    assert queues == make(queues=given).queues


def test_it_begins_with_nothing(make: Make, upstream: FakeUpstream) -> None:
    """Its attributes are there before it starts."""
    manager = make()
    assert {} == manager.jobs_in_flight
    assert {} == manager.pid_distribution
    assert (0, 0) == (manager.total_requests, manager.total_ready_sent)
    assert 2 == manager.concurrent_jobs
    assert upstream is manager.outgoing


def test_skip_signal_leaves_handlers_alone(make: Make, upstream: FakeUpstream) -> None:
    """With skip_signal no handler is registered, not even in the main thread."""
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)]
    manager = make()
    upstream.put(Told())
    assert 0 == manager.start()
    assert before == [
        signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    ]


@pytest.mark.parametrize("msg", [run(), ["default", "reply-requested", json.dumps(run())]])
def test_on_request_takes_a_job(make: Make, msg: list[Any]) -> None:
    """A request with a subcommand, or as it comes from a router, is a job in flight with all its details."""
    manager = make()
    manager.on_request("m1", msg)
    assert 1 == manager.total_requests
    assert ["m1"] == list(manager.jobs_in_flight)
    assert b'"add"' in manager.jobs_in_flight["m1"].delivery.payload


@pytest.mark.parametrize(
    "msg",
    [["walk", {"path": "operator"}], ["run", {"path": "operator"}], ["run", {}], ["", "", "no json"], ["x"]],
)
def test_on_request_answers_nonsense_with_an_error(make: Make, mocker: MockerFixture, msg: list[Any]) -> None:
    """An unknown subcommand, or a run of nothing, is answered with an error and starts nothing."""
    manager = make()
    send_reply = mocker.patch.object(manager, "send_reply")

    manager.on_request("m1", msg)

    (reply, msgid), _ = send_reply.call_args
    assert "m1" == msgid
    assert "MessageError" == json.loads(reply)["error"]["type"]
    assert {} == manager.jobs_in_flight


@pytest.mark.parametrize("callback", CALLBACKS)
def test_handle_response_calls_the_callback(make: Make, mocker: MockerFixture, callback: str) -> None:
    """Each callback gets the return value, the msgid, whether the process is gone, and its pid."""
    manager = make()
    called = mocker.patch.object(manager, callback)
    response = {"callback": callback, "msgid": "m1", "return": {"value": 5}, "pid": 17, "death": False}

    manager.handle_response(response)

    called.assert_called_once_with({"value": 5}, "m1", False, 17)


def test_handle_response_knows_its_callbacks(make: Make) -> None:
    """A response can't call anything else of the job manager."""
    response = {"callback": "start", "msgid": "m1", "return": {}, "pid": 1, "death": False}
    with pytest.raises(ConfigurationError, match="start"):
        make().handle_response(response)


def test_handle_response_counts_by_process(make: Make) -> None:
    """pid_distribution tells how many jobs each process has completed; deaths complete none."""
    manager = make()
    for pid, death in ((7, False), (7, False), (8, False), (9, True)):
        manager.handle_response(
            {"callback": "worker_done", "msgid": "m", "return": {"value": 1}, "pid": pid, "death": death}
        )
    assert {7: 2, 8: 1} == manager.pid_distribution


def test_processes_that_are_long_gone_are_not_counted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many children are replaced, the counts of those that live and of the last ones are kept."""
    monkeypatch.setattr("emq_compat.manager.endings.PIDS_MAX", 2)
    manager = make()
    monkeypatch.setattr(manager.pool, "pids", lambda: [6])
    for pid in (6, 7, 8, 6):
        manager.handle_response(
            {"callback": "worker_done", "msgid": "m", "return": {"value": 1}, "pid": pid, "death": False}
        )
    assert {6: 2, 8: 1} == manager.pid_distribution


def test_a_response_of_death_clears_up(make: Make) -> None:
    """'DEATH' is the return of a process that is gone: nothing is sent for it."""
    manager = make()
    manager.handle_response(
        {"callback": "worker_death", "msgid": None, "return": "DEATH", "pid": 9, "death": True}
    )
    assert ({}, 0) == (manager.pid_distribution, manager.total_ready_sent)


def test_worker_done_makes_room(make: Make, upstream: FakeUpstream) -> None:
    """Every job that ended is a READY."""
    manager = make()
    manager.worker_done({"value": 1}, "m1", False, 7)
    manager.worker_ready(None, None, False, 7)
    assert (2, 2) == (manager.total_ready_sent, upstream.credit)


def test_worker_done_with_reply_replies(make: Make, upstream: FakeUpstream) -> None:
    """The reply is JSON, and goes to the upstream that the job came from."""
    manager = make()
    manager.on_request("m1", run())
    manager.worker_done_with_reply({"value": 5}, "m1", False, 7)
    assert {"value": 5} == json.loads(upstream.replies["m1"].body)
    assert "SUCCESS" == upstream.replies["m1"].state
    assert 1 == manager.total_ready_sent


@pytest.mark.parametrize("reply", ['{"value": 5}', {"value": 5}, b'{"value": 5}'])
def test_send_reply_takes_text_and_objects(make: Make, upstream: FakeUpstream, reply: object) -> None:
    """A reply may be given as JSON text or as what it stands for."""
    make().send_reply(reply, "m1")
    assert {"value": 5} == json.loads(upstream.replies["m1"].body)


def test_on_heartbeat_looks_after_the_pool(make: Make, upstream: FakeUpstream, mocker: MockerFixture) -> None:
    """A heartbeat of the broker has the pool checked, once it is started."""
    manager = make()
    check = mocker.patch.object(manager, "check_worker_health")
    manager.on_heartbeat("h1", ["1.0"])
    check.assert_not_called()
    with running(manager, upstream):
        manager.on_heartbeat("h1", ["1.0"])
    check.assert_called_once_with()


def test_on_disconnect_ends_warm(make: Make, upstream: FakeUpstream) -> None:
    """A broker that says DISCONNECT has the job manager finish what runs, and end with 0."""
    manager = make()
    with running(manager, upstream) as statuses:
        upstream.deliver("m1", "time", "sleep", 0.3)
        wait_until(lambda: upstream.begun)
        upstream.put(Told())
        wait_until(lambda: statuses)
    assert [0] == statuses
    assert "SUCCESS" == upstream.replies["m1"].state
    assert manager.received_disconnect


def test_it_sends_ready_for_each_free_slot(make: Make, upstream: FakeUpstream) -> None:
    """The first READYs are as many as there are slots, and one follows for each job."""
    manager = make()
    with running(manager, upstream):
        assert 2 == manager.total_ready_sent == upstream.credit
        for n in range(2):
            upstream.deliver(f"m{n}", "time", "sleep", 0.02)
        for n in range(2):
            upstream.reply_to(f"m{n}")
        wait_until(lambda: upstream.credit >= 4)
    assert 2 == manager.total_requests
    assert 2 == sum(manager.pid_distribution.values())
    assert {} == manager.jobs_in_flight


class Watched(JobManager):
    """A site's subclass: sees every job come and go."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.seen: dict[str, list[str]] = {}
        super().__init__(*args, **kwargs)

    def on_request(self, msgid: str, msg: Any) -> None:
        self.seen.setdefault("on_request", []).append(msgid)
        super().on_request(msgid, msg)

    def handle_response(self, resp: Any) -> None:
        self.seen.setdefault("handle_response", []).append(resp["msgid"])
        super().handle_response(resp)

    def worker_done_with_reply(self, reply: Any, msgid: str, death: bool, pid: int) -> None:
        self.seen.setdefault("worker_done_with_reply", []).append(msgid)
        super().worker_done_with_reply(reply, msgid, death, pid)

    def send_reply(self, reply: Any, msgid: str) -> None:
        self.seen.setdefault("send_reply", []).append(msgid)
        super().send_reply(reply, msgid)


def test_a_subclass_sees_every_job(make: Make, upstream: FakeUpstream) -> None:
    """Overridden members are called for each job, and its result is the same."""
    manager = make(Watched)
    ids = [f"m{n}" for n in range(50)]
    with running(manager, upstream):
        for n, msgid in enumerate(ids):
            upstream.deliver(msgid, "operator", "add", n, 1)
            if n % 2:
                wait_until(lambda n=n: len(upstream.replies) > n)
    assert isinstance(manager, Watched)
    for member in ("on_request", "handle_response", "worker_done_with_reply", "send_reply"):
        assert ids == sorted(manager.seen[member], key=ids.index), member
    assert list(range(1, 51)) == [json.loads(upstream.replies[msgid].body)["value"] for msgid in ids]


@pytest.mark.parametrize("member", ["send_reply", "worker_done_with_reply", "handle_response", "send_ready"])
def test_a_mocked_member_is_called(
    make: Make, upstream: FakeUpstream, mocker: MockerFixture, member: str
) -> None:
    """A member that is spied upon in an instance is called for each job, too."""
    manager = make()
    spy = mocker.spy(manager, member)
    with running(manager, upstream):
        upstream.deliver("m1", "operator", "add", 2, 3)
        upstream.reply_to("m1")
    assert spy.call_count >= 1


def test_timeout_is_kept(make: Make, upstream: FakeUpstream) -> None:
    """``timeout:N`` ends a job after so many seconds with eventmq's value, and others go on."""
    with running(make(), upstream):
        upstream.deliver("m1", "time", "sleep", 5, headers=Headers(timeout=1))
        upstream.deliver("m2", "operator", "add", 2, 3, headers=Headers(timeout=60))
        assert "SUCCESS" == upstream.reply_to("m2").state
        reply = upstream.reply_to("m1")
    assert "FAILURE" == reply.state
    assert "TimeoutError" == json.loads(reply.body)["value"]


def test_a_retry_count_is_a_follow_up(make: Make, upstream: FakeUpstream) -> None:
    """``retry-count:N``: a job that raises is published again with one try less."""
    with running(make(), upstream):
        upstream.deliver("m1", "operator", "add", 2, headers=Headers(retry_count=2, attempt=1))
        reply = upstream.reply_to("m1")
    assert "RETRY" == reply.state
    [again] = reply.follow_ups
    assert (1, 1) == (again.headers.retry_count, again.headers.retries)


def test_a_path_that_is_not_allowed_is_answered(make: Make, upstream: FakeUpstream) -> None:
    """What the site doesn't allow is refused, also by another name of an allowed module."""
    with running(make(), upstream):
        upstream.deliver("m1", "os", "system", "true")
        reply = upstream.reply_to("m1")
    assert "NotAllowed" == json.loads(reply.body)["error"]["type"]


def test_hup_reads_the_settings_again(
    make: Make, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HUP takes over queues and concurrent_jobs, and keeps what a wrong setting would break."""
    monkeypatch.setenv("EVENTMQ_CONFIG_FILE", "/nonexistent.conf")
    monkeypatch.setenv("EVENTMQ_CONCURRENT_JOBS", "2")
    manager = make()
    with running(manager, upstream):
        monkeypatch.setenv("EVENTMQ_CONCURRENT_JOBS", "4")
        monkeypatch.setenv("EVENTMQ_QUEUES", '[[1, "new"]]')
        manager.sighup_handler(signal.SIGHUP)
        wait_until(lambda: manager.concurrent_jobs == 4)
        assert ((1, "new"),) == manager.queues == upstream.queues
        wait_until(lambda: upstream.credit == 4)
        monkeypatch.setenv("EVENTMQ_CONCURRENT_JOBS", "many")
        manager.sighup_handler(signal.SIGHUP)
        assert b'"pong"' in upstream.ask("ping")
    assert 4 == manager.concurrent_jobs


def test_usr1_dumps_stacks(make: Make, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture) -> None:
    """USR1 logs where each job stands, and opens no debugger."""
    manager = make()
    with running(manager, upstream):
        upstream.deliver("m1", "time", "sleep", 0.5)
        wait_until(lambda: upstream.begun)
        manager.sigterm_handler(signal.SIGUSR1)
        wait_until(lambda: "where the jobs stand" in caplog.text)
    assert "emq-worker-" in caplog.text


def test_check_worker_health_replaces_dead_processes(upstream: FakeUpstream) -> None:
    """A child that is gone is replaced at once; what it ran is answered with WorkerLostError."""
    manager = JobManager(
        skip_signal=True, pool="prefork", upstreams=[upstream], allow=("time.sleep", "os.*", "posix.*"),
        settings=EventmqSettings(concurrent_jobs=1), pool_options=PoolOptions(start_method="spawn"),
    )  # fmt: skip
    with running(manager, upstream):
        [pid] = manager.pool.pids()
        upstream.deliver("m1", "os", "_exit", 3)
        reply = upstream.reply_to("m1")
        assert "WorkerLostError" == json.loads(reply.body)["error"]["type"]
        wait_until(lambda: upstream.credit == 2, what="a new child's READY")
        upstream.deliver("m2", "os", "getpid")
        assert pid != json.loads(upstream.reply_to("m2").body)["value"]


def test_jobmanager_main_reads_eventmqs_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    """The settings file's sections global and jobmanager count, and the environment more."""
    file = tmp_path / "eventmq.conf"
    file.write_text(
        "[global]\nconcurrent_jobs = 7\nmax_job_count = 5\n"
        '[jobmanager]\nmax_job_count = 6\nqueues = [[3, "mail"]]\nkill_grace_period = 9\n'
    )
    monkeypatch.setenv("EVENTMQ_CONFIG_FILE", str(file))
    monkeypatch.setenv("EVENTMQ_GLOBAL_TIMEOUT", "33")
    start = mocker.patch.object(JobManager, "start", autospec=True, return_value=0)

    assert 0 == jobmanager.jobmanager_main("tcp://127.0.0.1:1234")

    (manager, address), _ = start.call_args
    assert "tcp://127.0.0.1:1234" == address
    assert (7, ((3, "mail"),), 9) == (manager.concurrent_jobs, manager.queues, manager.kill_grace_period)
    assert 6 == manager.settings.max_job_count
    assert 33.0 == manager.program.default_policy.limit_s
    manager._signals.close()


def test_a_job_delivered_twice_runs_once(make: Make, upstream: FakeUpstream) -> None:
    """A broker that took a running job for lost and delivers it again has both answered by the one run."""
    with running(make(), upstream):
        upstream.deliver("m1", "time", "sleep", 0.4, headers=Headers(attempt=1))
        wait_until(lambda: upstream.begun)
        upstream.deliver("m1", "time", "sleep", 0.4, headers=Headers(attempt=2))
        wait_until(lambda: ("m1", 2) in upstream.begun)
        began = time.monotonic()
        upstream.reply_to("m1")
        assert time.monotonic() - began < 5
    assert [("m1", 1), ("m1", 2)] == upstream.begun
