"""The shim on a real broker and a real worker, in each pool (cases 2, 13, 22, 23, 25 and 28)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from emq_compat.celery_shim import (
    EncodeError,
    NotRegistered,
    SoftTimeLimitExceeded,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from tests.processes import Procs, unused_port, wait_until
from tests.site import POOLS, Site, open_site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

_TASKS = '''
import asyncio, signal, threading
from emq_compat.celery_shim import Reject, SoftTimeLimitExceeded


class TwoArguments(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class OwnBase(BaseException):
    pass


def _deeper():
    _deeper()


_RAISED = {
    "two": lambda: TwoArguments(7, "seven"),
    "long": lambda: RuntimeError("\\x00 \\u00e9\\u2603\\ud800" + "x" * 5_000_000 + "end"),
    "hostile": lambda: Hostile(object()),
    "exit": lambda: SystemExit(3),
    "interrupt": lambda: KeyboardInterrupt(),
    "cancelled": lambda: asyncio.CancelledError(),
    "base": lambda: OwnBase("base"),
}


@app.task
def throw(what):
    if what == "deep":
        _deeper()
    if what == "chained":
        raise TwoArguments(7, "seven") from Exception("holds", threading.Lock())
    raise _RAISED[what]()


@app.task(bind=True, max_retries=1)
def retry_with(self):
    self.retry(exc=TwoArguments(7, "seven"), countdown=0)


@app.task(bind=True)
def flaky(self, times):
    r = self.request
    info = r.delivery_info
    note(f"flaky {r.id} {info['routing_key']} {info['priority']} {r.headers} {r.root_id} {r.expires}")
    if r.retries < times:
        raise self.retry(countdown=0.3)
    return r.retries


@app.task(bind=True)
def retry_too_late(self):
    note("too-late run")
    raise self.retry(countdown=3)


@app.task
def gives_set():
    return {1, 2}


@app.task
def echo(x):
    return x


@app.task(soft_time_limit=1)
def limited():
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "caught"


@app.task(soft_time_limit=1)
def limited_uncaught():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.01)


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    time.sleep(0.7)
    return "done"


@app.task(bind=True, acks_late=True)
def put_back(self):
    note("put-back run")
    if not self.request.delivery_info["redelivered"]:
        raise Reject("not now", requeue=True)
    return "second"


@app.task
def killed():
    note("killed run")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def over_the_limit():
    time.sleep(30)


@app.task
def fans_out(count):
    return [ping.delay(f"fan{n}").id for n in range(count)]
'''


@pytest.fixture(scope="module", params=POOLS)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a broker and one worker of this pool, which listens on celery and q2."""
    folder = tmp_path_factory.mktemp(f"live-{request.param}")
    logs = folder / "procs"
    logs.mkdir()
    procs = Procs(logs)
    try:
        with open_site(folder, procs, unused_port) as site:
            site.write_project(_TASKS)
            site.start_broker()
            site.start_worker("-P", request.param, "-c", "2", "-Q", "celery,q2")
            yield site
    finally:
        procs.close()


def test_a_value_comes_back(live: Site) -> None:
    """delay() and get(), with dates and decimals, one by one and in a pipeline."""
    when = datetime(2024, 1, 2, tzinfo=timezone.utc)

    assert [1, when, Decimal("1.5"), "é☃\ud800"] == live.tasks.echo.delay(
        [1, when, Decimal("1.5"), "é☃\ud800"]
    ).get(timeout=30)
    with live.tasks.app.pipeline():
        results = [live.tasks.echo.delay(n) for n in range(50)]
    assert list(range(50)) == [r.get(timeout=30) for r in results]


@pytest.mark.parametrize("what", ["two", "chained", "retry"])
def test_exceptions_with_their_own_constructor_are_caught_by_class(live: Site, what: str) -> None:
    """Case 22: FAILURE with class, text and traceback; the worker goes on."""
    result = live.tasks.retry_with.delay() if what == "retry" else live.tasks.throw.delay(what)

    with pytest.raises(live.tasks.TwoArguments, match="7: seven"):
        result.get(timeout=30)
    assert "TwoArguments: 7: seven" in result.traceback
    assert 1 == live.tasks.echo.delay(1).get(timeout=30)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("long", "RuntimeError"),
        ("deep", "RecursionError"),
        ("hostile", "Hostile"),
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("cancelled", "CancelledError"),
        ("base", "OwnBase"),
    ],
)
def test_odd_exceptions_end_their_task_and_no_more(live: Site, what: str, name: str) -> None:
    """Case 23: FAILURE under the exception's name, its text bounded; the worker goes on."""
    result = live.tasks.throw.delay(what)

    raised = result.get(timeout=30, propagate=False)
    assert ("FAILURE", name) == (result.state, type(raised).__name__)
    assert len(str(result.traceback)) < 100_000
    assert 1 == live.tasks.echo.delay(1).get(timeout=30)


def test_a_retry_keeps_queue_priority_headers_and_expiry(live: Site) -> None:
    """Case 13: every attempt sees the same, and the result is the last one's."""
    result = live.tasks.flaky.apply_async((2,), queue="q2", priority=5, headers={"h": 1}, expires=120)

    assert 2 == result.get(timeout=60)
    seen = [line for line in live.runs() if line.startswith(f"flaky {result.id}")]
    assert 3 == len(seen)
    assert 1 == len(set(seen))
    assert f"flaky {result.id} q2 5 {{'h': 1}} {result.id}" in seen[0]


def test_a_task_that_expires_between_tries_is_revoked(live: Site) -> None:
    """Case 13: with expires 2 and a retry after 3 s the body runs once and the state is REVOKED."""
    result = live.tasks.retry_too_late.apply_async(expires=2)

    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    assert ("REVOKED", 1) == (result.state, live.count("too-late run"))


def test_a_result_that_cant_be_carried_is_encodeerror(live: Site) -> None:
    """Case 25: a set is FAILURE EncodeError; an argument is refused at delay() and nothing is sent."""
    with pytest.raises(EncodeError, match="gives_set"):
        live.tasks.gives_set.delay().get(timeout=30)
    with pytest.raises(TypeError, match="argument 0"):
        live.tasks.echo.delay({1, 2})


def test_a_name_that_nobody_has_registered_is_notregistered(live: Site) -> None:
    """Case 28: FAILURE NotRegistered, told by the broker or a worker."""
    result = live.tasks.app.send_task("siteproj.no_such_task")

    with pytest.raises(NotRegistered):
        result.get(timeout=30)


def test_a_soft_limit_can_be_caught(live: Site) -> None:
    """Case 14 (a): SoftTimeLimitExceeded is raised inside the task; uncaught it is the result."""
    caught, uncaught = live.tasks.limited.delay(), live.tasks.limited_uncaught.delay()

    assert "caught" == caught.get(timeout=30)
    with pytest.raises(SoftTimeLimitExceeded):
        uncaught.get(timeout=30)


@pytest.mark.parametrize("live", ["prefork"], indirect=True)
def test_a_lost_child_is_workerlosterror(live: Site) -> None:
    """Case 2 (a): an early-acked task whose child is killed runs once; get() raises WorkerLostError."""
    with pytest.raises(WorkerLostError):
        live.tasks.killed.delay().get(timeout=30)
    assert 1 == live.count("killed run")
    assert 1 == live.tasks.echo.delay(1).get(timeout=30)


@pytest.mark.parametrize("live", ["prefork", "threads"], indirect=True)
def test_a_hard_limit_is_timelimitexceeded(live: Site) -> None:
    """Case 14 (b): a task over its hard limit ends as TimeLimitExceeded, where the pool can keep one."""
    with pytest.raises(TimeLimitExceeded):
        live.tasks.over_the_limit.delay().get(timeout=30)
    assert 1 == live.tasks.echo.delay(1).get(timeout=30)


def test_a_task_s_own_state_is_seen_while_it_runs(live: Site) -> None:
    """update_state(state=, meta=) shows in state and info until the task ends."""
    result = live.tasks.progress.delay()

    wait_until(lambda: (result.state, result.info) == ("PROGRESS", {"done": 1}), 30)
    assert "done" == result.get(timeout=30)


def test_reject_with_requeue_runs_again_flagged(live: Site) -> None:
    """A late-acked task that raises Reject(requeue=True) is delivered again as a redelivery."""
    assert "second" == live.tasks.put_back.delay().get(timeout=30)
    assert 2 == live.count("put-back run")


def test_times_are_kept(live: Site) -> None:
    """countdown and eta delay a task; one that has expired is REVOKED and doesn't run."""
    begun = time.time()
    soon = live.tasks.echo.apply_async((1,), countdown=1)
    at = live.tasks.echo.apply_async((2,), eta=datetime.now(timezone.utc) + timedelta(seconds=1))
    never = live.tasks.ping.apply_async(("expired",), countdown=1, expires=0.5)

    assert (1, 2) == (soon.get(timeout=30), at.get(timeout=30))
    assert time.time() >= begun + 1
    with pytest.raises(TaskRevokedError):
        never.get(timeout=30)
    assert 0 == live.count("ping expired")


def test_tasks_publish_tasks(live: Site) -> None:
    """delay() inside a task works in every pool."""
    ids = live.tasks.fans_out.delay(5).get(timeout=30)

    found: list[Any] = [live.tasks.app.AsyncResult(i).get(timeout=30) for i in ids]
    assert [f"fan{n}" for n in range(5)] == found


def test_forget_and_revoke(live: Site) -> None:
    """forget() makes a result PENDING again; revoke() of a waiting task means that it never runs."""
    result = live.tasks.echo.delay(1)
    result.get(timeout=30)
    result.forget()
    waiting = live.tasks.ping.apply_async(("revoked",), countdown=600)
    told = waiting.revoke()

    assert "PENDING" == result.state
    assert ("revoked", "REVOKED") == (told, waiting.state)
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=30)
