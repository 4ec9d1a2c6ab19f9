"""Results that name classes: of a failed task's exception nothing is imported or made that is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emq_compat.backends.record import result_of
from emq_compat.celery_shim import Celery
from emq_compat.message import Headers, Publish, new_id
from emq_compat.shim.results.content import value_of
from emq_compat.stored import StoredResult

pytestmark = pytest.mark.integration


class Loaded(Exception):
    """An exception of a module that is loaded here."""


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("reader", broker="memory://results", backend="emq://")
    yield made
    made.close()


#: Of each: module, name. Some exist and aren't exceptions, some do something when they are imported or made.
FOREIGN = [
    ("os", "system"), ("os", "_exit"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "object"),
    ("builtins", "SystemExit"), ("builtins", "KeyboardInterrupt"), ("builtins", "__import__"),
    ("antigravity", "fly"), ("turtle", "Terminator"), ("emq_foreign", "Boom"), ("emq_foreign.sub", "Boom"),
    ("..emq_foreign", "Boom"), ("/etc/passwd", "x"), ("", "Boom"), ("sys", "modules"),
    ("sys", "modules.os.system"), ("os", "path.os.system"), ("__main__", "__builtins__.eval"),
    ("subprocess", "Popen.__init__"), ("importlib", "import_module"), ("emq_foreign\x00", "Bo\x00om"),
    ("emq_foreign", "\ud800"), ("x", "y" * 10_000),
]  # fmt: skip


@pytest.fixture(autouse=True)
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that could be imported, and makes a file when it is."""
    made = tmp_path / "imported"
    (tmp_path / "emq_foreign").mkdir()
    for name in ("__init__", "sub"):
        text = f"open({str(made)!r}, 'w').close()\nclass Boom(Exception): pass\n"
        (tmp_path / "emq_foreign" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return made


def errors(module: str, name: str) -> list[StoredResult]:
    """A failure that names this class, as our broker keeps it and as Celery's stores do."""
    ours = {"type": name, "module": module, "args": ["true"], "message": "said"}
    celery = {"exc_type": name, "exc_module": module, "exc_message": ["true"]}
    return [
        StoredResult("FAILURE", reply={"state": "FAILURE", "error": ours}),
        result_of({"status": "FAILURE", "result": celery}),
        StoredResult("FAILURE", reply={"state": "FAILURE", "value": celery}),
    ]


@pytest.mark.parametrize(("module", "name"), FOREIGN)
def test_a_class_that_is_no_exception_is_stood_in_for(
    app: Celery, foreign: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    """Whatever a result names, an exception comes of it, nothing is imported, and nothing is called."""
    monkeypatch.setattr(subprocess, "Popen", _forbidden)
    for stored in errors(module, name):
        before = set(sys.modules)

        found = value_of(stored, app)

        assert isinstance(found, Exception)
        assert ("true",) == found.args
        assert set() == {new for new in set(sys.modules) - before if not new.startswith("emq_compat")}
    assert not foreign.exists()


def _forbidden(*args: Any, **options: Any) -> None:
    raise AssertionError("called by a result")


def test_a_class_that_is_one_is_raised(app: Celery) -> None:
    """An exception of a loaded module is raised as itself."""
    for stored in errors(__name__, "Loaded"):
        assert isinstance(value_of(stored, app), Loaded)


def test_a_forged_result_in_the_broker(app: Celery, foreign: Path) -> None:
    """get() of a result that names a module which could be imported doesn't import it."""
    task_id = new_id()
    headers = Headers(task_id=task_id, guarantee=True, settled="FAILURE")
    body = b'{"state":"FAILURE","error":{"type":"Boom","module":"emq_foreign","args":["a"],"message":"a"}}'
    app.client.publish(Publish(queue="q", headers=headers, payload=body))

    with pytest.raises(Exception, match="a") as raised:
        app.AsyncResult(task_id).get(timeout=10)

    assert ("Boom", "emq_foreign") == (type(raised.value).__name__, type(raised.value).__module__)
    assert "emq_foreign" not in sys.modules
    assert not foreign.exists()


def test_a_forged_record_in_a_database(tmp_path: Path, foreign: Path) -> None:
    """The same of a record in a result backend of SQL's."""
    pytest.importorskip("sqlalchemy")
    app = Celery("reader", broker="memory://results-db", backend=f"db+sqlite:///{tmp_path / 'results.db'}")
    forged = {"exc_type": "Boom", "exc_module": "emq_foreign", "exc_message": ["a"]}
    app.backend.store_result("t1", forged, "FAILURE")

    with pytest.raises(Exception, match="a") as raised:
        app.AsyncResult("t1").get(timeout=10)

    assert "Boom" == type(raised.value).__name__
    assert not foreign.exists()
    app.close()


def test_a_forged_record_in_redis(redis_url: str, foreign: Path) -> None:
    """The same of a record in Redis, also one that nests without end."""
    redis = pytest.importorskip("redis")
    app = Celery("reader", broker="memory://results-redis", backend=redis_url)
    names = [new_id(), new_id()]
    record = (
        '{"status":"FAILURE","result":{"exc_type":"Boom","exc_module":"emq_foreign","exc_message":["a"]}}'
    )
    with redis.Redis.from_url(redis_url) as store:
        store.set(f"celery-task-meta-{names[0]}", record, ex=60)
        store.set(f"celery-task-meta-{names[1]}", "[" * 100_000, ex=60)

        with pytest.raises(Exception, match="a") as raised:
            app.AsyncResult(names[0]).get(timeout=10)
        assert "Boom" == type(raised.value).__name__
        with pytest.raises(Exception, match="no JSON"):
            app.AsyncResult(names[1]).get(timeout=10)
        store.delete(*(f"celery-task-meta-{name}" for name in names))
    assert not foreign.exists()
    app.close()
