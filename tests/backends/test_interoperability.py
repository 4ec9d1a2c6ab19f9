"""Records as genuine Celery 5.6 and 5.7 write them, and ours as they read them."""

from __future__ import annotations

import json
import pickle
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.errors import OperationalError
from emq_compat.shim.exceptions import WorkerLostError
from emq_compat.shim.request import Context
from emq_compat.shim.result import GroupResult

pytestmark = pytest.mark.integration

#: Written by celery 5.7.0 with redis 8.1.0 and result_extended, ids apart.
_SUCCESS = (
    '{"status": "SUCCESS", "result": {"n": 3}, "traceback": null, "children": [[["kid", null], null]], '
    '"date_done": "2026-11-25T17:31:58.995593+00:00", "group_id": "grp", "parent_id": "par", '
    '"name": "p.add", "args": [1, 2], "kwargs": {}, "worker": "w@h", "retries": 0, "queue": "celery", '
    '"task_id": "%s"}'
)
_FAILURE = (
    '{"status": "FAILURE", "result": {"exc_type": "KeyError", "exc_message": ["k", 2], '
    '"exc_module": "builtins"}, "traceback": "Traceback: x", "children": null, '
    '"date_done": "2026-11-25T17:31:58.998934+00:00", "task_id": "%s"}'
)
_GROUP = '{"result": [["%s", null], [[["a", null], null], [["b", null], null]]]}'


@pytest.fixture
def redis_app(redis_url: str, make_app: Callable[..., Celery]) -> Celery:
    """An app whose results are in Redis."""
    pytest.importorskip("redis")
    return make_app(redis_url, result_extended=True)


def test_celery_s_records_in_redis_are_read(redis_app: Celery) -> None:
    """A success with all that result_extended adds, a failure, a group."""
    good, bad, group = (uuid.uuid4().hex for _ in range(3))
    client: Any = redis_app.backend.store.client  # type: ignore[attr-defined]
    client.set(f"celery-task-meta-{good}", _SUCCESS % good, ex=60)
    client.set(f"celery-task-meta-{bad}", _FAILURE % bad, ex=60)
    client.set(f"celery-taskset-meta-{group}", _GROUP % group, ex=60)

    result = redis_app.AsyncResult(good)
    assert {"n": 3} == result.get(timeout=5)
    assert ("p.add", [1, 2], {}, "w@h", 0, "celery") == (
        result.name,
        result.args,
        result.kwargs,
        result.worker,
        result.retries,
        result.queue,
    )
    assert ["kid"] == [child.id for child in result.children or ()]
    assert result.date_done is not None
    with pytest.raises(KeyError) as caught:
        redis_app.AsyncResult(bad).get(timeout=5)
    assert ("k", 2) == caught.value.args
    restored = GroupResult.restore(group, app=redis_app)
    assert restored is not None
    assert ["a", "b"] == [member.id for member in restored]


def test_our_records_in_redis_are_celery_s(redis_app: Celery) -> None:
    """The same keys and members; an exception of ours under the name by which Celery finds it."""
    good, bad, group = (uuid.uuid4().hex for _ in range(3))
    request = Context(
        id=good,
        task="p.add",
        args=[1, 2],
        kwargs={},
        hostname="w@h",
        retries=0,
        group="grp",
        parent_id="par",
        delivery_info={"routing_key": "celery"},
    )
    request.children.append(redis_app.AsyncResult("kid"))
    redis_app.backend.store_result(good, {"n": 3}, "SUCCESS", request=request)
    redis_app.backend.store_result(bad, WorkerLostError("gone"), "FAILURE", traceback="T")
    GroupResult(group, [redis_app.AsyncResult("a"), redis_app.AsyncResult("b")]).save()
    client: Any = redis_app.backend.store.client  # type: ignore[attr-defined]

    ours = json.loads(client.get(f"celery-task-meta-{good}"))
    expected = json.loads(_SUCCESS % good)
    assert expected.keys() == ours.keys()
    assert {**expected, "date_done": None} == {**ours, "date_done": None}
    failed = json.loads(client.get(f"celery-task-meta-{bad}"))
    told = {"exc_type": "WorkerLostError", "exc_message": ["gone"], "exc_module": "celery.exceptions"}
    assert (told, "T", "FAILURE") == (failed["result"], failed["traceback"], failed["status"])
    assert json.loads(_GROUP % group) == json.loads(client.get(f"celery-taskset-meta-{group}"))
    assert 80_000 < client.ttl(f"celery-task-meta-{good}") <= 86_400


def _database(folder: Path, make_app: Callable[..., Celery]) -> tuple[Celery, str]:
    pytest.importorskip("sqlalchemy")
    app = make_app(f"db+sqlite:///{folder}/results.db")
    app.backend.store_result("first", {"n": 1}, "SUCCESS")
    return app, f"{folder}/results.db"


@pytest.mark.parametrize("written", [pickle.dumps({"n": 3}), b'{"n": 3}'], ids=["5.6", "5.7"])
def test_celery_s_rows_are_read(tmp_path: Path, make_app: Callable[..., Celery], written: bytes) -> None:
    """A result is a pickle in 5.6, and what result_serializer makes of it in 5.7."""
    app, path = _database(tmp_path, make_app)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, ?, ?)",
            ("g", "SUCCESS", written),
        )

    assert {"n": 3} == app.AsyncResult("g").get(timeout=5)


def test_our_rows_are_plain_pickles(tmp_path: Path, make_app: Callable[..., Celery]) -> None:
    """A value is one that any Celery reads; a group is a call of Celery's result_from_tuple."""
    app, path = _database(tmp_path, make_app)
    GroupResult("grp", [app.AsyncResult("a")]).save()
    with closing(sqlite3.connect(path)) as connection:
        [(value,)] = connection.execute("SELECT result FROM celery_taskmeta")
        [(group,)] = connection.execute("SELECT result FROM celery_tasksetmeta")

    assert {"n": 1} == pickle.loads(value)
    assert b"celery.result\nresult_from_tuple" in group


class _Evil:
    """Its pickle runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run!",)


def test_a_row_that_would_run_something_is_refused(
    tmp_path: Path, make_app: Callable[..., Celery], capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a pickle asks for, only plain values are made of it."""
    app, path = _database(tmp_path, make_app)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE celery_taskmeta SET result = ?", (pickle.dumps(_Evil()),))

    with pytest.raises(OperationalError, match="no plain value"):
        _ = app.AsyncResult("first").state
    assert "" == capsys.readouterr().out
