"""The current app, shared tasks, and the app as an object."""

from __future__ import annotations

import pickle
import threading
from datetime import timezone

import pytest

from emq_compat.celery_shim import Celery, current_app, exceptions, shared_task, states, uuid
from emq_compat.shim import current
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


def test_current_app_is_the_app_made_last_or_chosen(app: Celery) -> None:
    """An app becomes current when it is made, unless told not to; set_current chooses."""
    Celery("silent", set_as_current=False)
    assert current_app == app
    second = Celery("second")
    assert "second" == current_app.main
    assert second == current_app
    app.set_current()
    assert current_app.tasks is app.tasks
    assert repr(app) == repr(current_app)


def test_without_an_app_one_is_made() -> None:
    """A library's shared task works where nobody has made an app."""

    @shared_task
    def f() -> int:
        return 1

    assert 1 == f()
    assert "default" == current_app.main
    assert f.app == current_app


def test_another_thread_sees_the_default_app(app: Celery) -> None:
    """A thread without an app of its own has the chosen one."""
    seen: list[object] = []
    app.set_default()
    Celery("of this thread")

    thread = threading.Thread(target=lambda: seen.append(current.get_app()))
    thread.start()
    thread.join(10)

    assert [app] == seen


def test_a_shared_task_acts_for_the_app_that_is_current(client: Recorder) -> None:
    """Its settings, its broker and its default queue are those of the current app."""

    @shared_task
    def f() -> None: ...

    apps = []
    for name in ("a", "b"):
        app = Celery(name, changes={"task_default_queue": f"queue-{name}"})
        app.client = client
        apps.append(app)
    f.delay()
    apps[0].set_current()
    f.delay()

    assert ["queue-b", "queue-a"] == [m.queue for m in client.published]


def test_a_task_pickles_as_its_name(app: Celery) -> None:
    """A task in an argument of multiprocessing is the registered one on the other side."""

    @app.task(name="proj.pickled")
    def pickled() -> None: ...

    assert pickled is pickle.loads(pickle.dumps(pickled))
    assert f"<@task: proj.pickled of {pickled.app.main} at {id(pickled.app):#x}>" == repr(pickled)


def test_an_app_closes_its_connection(app: Celery, mocker: object) -> None:
    """The app is a context manager."""
    closed = []

    class Closing(Recorder):
        def close(self) -> None:
            closed.append(1)

    app.client = Closing()
    with app as entered:
        assert entered is app

    assert [1] == closed
    assert timezone.utc == app.now().tzinfo


def test_states_compare_by_their_place_in_a_task_s_life() -> None:
    """state(A) > state(B): A comes later; the sets are Celery's."""
    state = states.state

    assert state(states.SUCCESS) > state(states.STARTED) > state(states.RECEIVED) > state(states.PENDING)
    assert state("PROGRESS") > state(states.STARTED)
    assert state(states.SUCCESS) > state("PROGRESS")
    assert state(states.PENDING) <= state(states.PENDING)
    assert {"SUCCESS", "FAILURE", "REVOKED"} == states.READY_STATES
    assert {"FAILURE", "REVOKED"} == states.PROPAGATE_STATES
    assert {"RETRY", "FAILURE", "REVOKED"} == states.EXCEPTION_STATES


def test_exceptions_survive_pickling() -> None:
    """Retry, Reject and the like come out of a pickle as they went in."""
    for exc in (
        exceptions.Retry("m", ValueError("x"), 3),
        exceptions.Reject("why", requeue=True),
        exceptions.MaxRetriesExceededError("no"),
        exceptions.NotRegistered("proj.x"),
        exceptions.TimeLimitExceeded(2),
        exceptions.EncodeError("x"),
        exceptions.OperationalError("x"),
    ):
        again = pickle.loads(pickle.dumps(exc))
        assert (type(exc), str(exc)) == (type(again), str(again))


def test_exceptions_have_celery_s_bases() -> None:
    """What code catches by a base class is caught here, too."""
    assert issubclass(exceptions.NotRegistered, KeyError)
    bases: dict[type[BaseException], tuple[type[BaseException], ...]] = {
        exceptions.TimeoutError: (exceptions.TaskError, exceptions.CeleryError),
        exceptions.TaskRevokedError: (exceptions.TaskError, exceptions.CeleryError),
        exceptions.MaxRetriesExceededError: (exceptions.TaskError, exceptions.CeleryError),
        exceptions.Retry: (exceptions.TaskPredicate,),
        exceptions.Ignore: (exceptions.TaskPredicate,),
        exceptions.Reject: (exceptions.TaskPredicate,),
        exceptions.WorkerShutdown: (SystemExit,),
        exceptions.WorkerTerminate: (SystemExit,),
    }
    for cls, its in bases.items():
        assert all(issubclass(cls, base) for base in its)
    assert not issubclass(exceptions.SoftTimeLimitExceeded, exceptions.CeleryError)


def test_uuid_gives_ids_that_sort_by_time() -> None:
    """uuid() is a new id each time, as text; later ones sort later."""
    ids = [uuid() for _ in range(3)]

    assert 3 == len(set(ids))
    assert [36] * 3 == [len(i) for i in ids]
