"""with app.pipeline(): publishes that are confirmed as a whole."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from emq_compat.celery_shim import Celery, NotPublished, OperationalError, Task
from tests.shim.recorder import Recorder

pytestmark = pytest.mark.unit


@pytest.fixture
def f(app: Celery) -> Task[[int], None]:
    """A task."""

    @app.task(name="proj.f")
    def f(x: int) -> None: ...

    return f


def test_a_block_is_published_as_one_when_it_ends(app: Celery, client: Recorder, f: Task[..., None]) -> None:
    """Nothing is sent inside the block; at its end all of it is, in order, and ids are known before."""
    with app.pipeline():
        results = [f.delay(n) for n in range(3)]
        results.append(f.apply_async((3,), queue="q"))
        results.append(app.send_task("x.y"))
        assert [] == client.published

    assert 1 == len(client.bulks)
    assert [r.id for r in results] == [m.headers.task_id for m in client.published]


def test_an_error_names_those_that_were_not_published(
    app: Celery, client: Recorder, f: Task[..., None]
) -> None:
    """NotPublished has the msgids, and its text the task ids, of exactly those that failed."""
    client.refused = {1, 3}

    with pytest.raises(NotPublished, match="2 of 4 tasks were not published") as caught, app.pipeline():
        results = [f.delay(n) for n in range(4)]

    (bulk,) = client.bulks
    assert (bulk[1].msgid, bulk[3].msgid) == caught.value.msgids
    for n, result in enumerate(results):
        assert (n in client.refused) == (result.id in str(caught.value))
    assert isinstance(caught.value, OperationalError)


def test_a_block_that_raises_publishes_nothing(app: Celery, client: Recorder, f: Task[..., None]) -> None:
    """What a failed block would have sent is not sent, and later publishes are sent at once again."""
    def block() -> None:
        with app.pipeline():
            f.delay(1)
            raise KeyError

    with pytest.raises(KeyError):
        block()

    assert [] == client.published
    f.delay(2)
    assert 1 == len(client.published)


def test_an_empty_block_asks_nobody(app: Celery, client: Recorder) -> None:
    """No message, no publish."""
    with app.pipeline():
        pass

    assert [] == client.bulks


def test_blocks_inside_each_other_are_one(app: Celery, client: Recorder, f: Task[..., None]) -> None:
    """The outermost block publishes."""
    with app.pipeline():
        f.delay(1)
        with app.pipeline():
            f.delay(2)
        assert [] == client.bulks
        f.delay(3)

    assert [3] == [len(bulk) for bulk in client.bulks]


def test_each_broker_has_its_own_block(app: Celery, client: Recorder, f: Task[..., None]) -> None:
    """A block collects what goes to its app's broker, and nothing of another app's."""
    others = Recorder()
    other = Celery("other", set_as_current=False)
    other.client = others

    @other.task(name="other.g")
    def g() -> None: ...

    with app.pipeline():
        g.delay()
        assert ["other.g"] == [m.headers.task for m in others.published]
        with other.pipeline():
            f.delay(1)
            g.delay()
        assert 1 == len(others.bulks)
        assert [] == client.published

    assert (["proj.f"], 2) == ([m.headers.task for m in client.published], len(others.published))


def test_other_threads_publish_as_ever(app: Celery, client: Recorder, f: Task[..., None]) -> None:
    """A block belongs to the thread that opened it."""
    with app.pipeline():
        thread = threading.Thread(target=f.delay, args=(1,))
        thread.start()
        thread.join(10)
        assert 1 == len(client.published)

    assert [] == client.bulks


def test_waiting_for_what_isnt_published_yet_is_an_error(app: Celery, f: Task[..., None]) -> None:
    """get() inside the block would wait for ever: it raises."""
    with app.pipeline():
        result = f.delay(1)
        with pytest.raises(RuntimeError, match="when its pipeline's block ends"):
            result.get(timeout=1)


def test_a_broker_that_is_gone_is_an_operationalerror(
    app: Celery, client: Recorder, f: Task[..., None], mocker: Any
) -> None:
    """Errors other than NotPublished come through."""
    mocker.patch.object(client, "publish_all", side_effect=OperationalError("gone"))

    with pytest.raises(OperationalError, match="gone"), app.pipeline():
        f.delay(1)
