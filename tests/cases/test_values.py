"""Values that JSON cannot hold: pickled calls and results, models, unacknowledged failures (cases 22, 25)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from emq_compat.celery_shim import EncodeError
from tests.cases.conftest import ANY_POOL
from tests.processes import Proc, Procs, unused_port
from tests.site import Site, open_site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

_TASKS = '''
import pydantic

app.conf.update(accept_content=["json", "pickle"], result_serializer="pickle", result_compression="gzip")


class Two(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


class Model(pydantic.BaseModel):
    x: int


@app.task(serializer="pickle", compression="bzip2")
def union(one, other):
    return one | other


@app.task(bind=True, max_retries=1, serializer="pickle")
def two(self, how, odd):
    if how == "retry":
        raise self.retry(exc=Two(7, "seven"), countdown=0)
    raise Two(7, "seven")


@app.task(pydantic=True)
def doubled(models: list[Model]) -> list[Model]:
    note("doubled")
    return [Model(x=2 * m.x) for m in models]


@app.task(acks_late=True, acks_on_failure=False)
def unacknowledged():
    raise ValueError("no")
'''


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker and one worker for all tests of this module."""
    pytest.importorskip("pydantic")
    folder = tmp_path_factory.mktemp("values")
    logs = folder / "logs"
    logs.mkdir()
    procs = Procs(logs)
    try:
        with open_site(folder, procs, unused_port) as site:
            site.write_project(_TASKS)
            site.start_broker()
            site.start_worker("-c", "2")
            yield site
    finally:
        procs.close()


def test_sets_travel_as_pickles(values: Site) -> None:
    """Arguments and results that only pickle carries arrive as they are, compressed, too."""
    assert {1, 2, 3} == values.tasks.union.delay({1, 2}, {3}).get(timeout=30)


@pytest.mark.parametrize("how", ["raise", "retry"])
def test_an_exception_with_its_own_init_comes_back_from_pickled_results(values: Site, how: str) -> None:
    """Case 22: FAILURE with class, message and traceback; the worker goes on."""
    tasks: Any = values.tasks
    result = tasks.two.delay(how, {1})
    with pytest.raises(tasks.Two, match="7: seven"):
        result.get(timeout=30)
    assert "Two" in str(result.traceback)
    assert {1} == tasks.union.delay({1}, set()).get(timeout=30)


def test_models_in_and_out(values: Site) -> None:
    """Case 25: a list of models; a bad payload is FAILURE ValidationError and the body isn't run."""
    assert [{"x": 2}] == values.tasks.doubled.delay([{"x": 1}]).get(timeout=30)
    bad = values.tasks.doubled.delay([{"x": "no"}])
    raised = bad.get(timeout=30, propagate=False)
    assert ("FAILURE", "ValidationError", 1) == (bad.state, type(raised).__name__, values.count("doubled"))


def test_a_failure_that_isnt_acknowledged_is_a_dead_letter(values: Site) -> None:
    """acks_on_failure=False: the result is FAILURE, and the message among the dead letters."""
    result = values.tasks.unacknowledged.delay()
    with pytest.raises(ValueError, match="no"):
        result.get(timeout=30)
    letters = values.client.ask("dead_list", after=0, limit=10)
    assert [result.id] == [letter["task_id"] for letter in letters]


_PLAIN = '''
import dataclasses, datetime, enum
import pydantic


class Colour(enum.Enum):
    RED = "red"


class Name(str, enum.Enum):
    ONE = "one"


@dataclasses.dataclass
class Point:
    x: int


class Row:
    """Like an ORM's object: state and nothing that JSON knows."""

    def __init__(self):
        self.id = 1


class Inner(pydantic.BaseModel):
    n: int


class Outer(pydantic.BaseModel):
    inner: Inner
    rest: list[Inner] = []


@app.task
def echo(*args, **kwargs):
    note("echo")
    return [list(args), kwargs]


@app.task
def a_set():
    return {1, 2}


@app.task(pydantic=True)
def raised(model: Outer, by: int = 1) -> Outer:
    note(f"raised {type(model).__name__} {type(model.inner).__name__}")
    return Outer(inner=Inner(n=model.inner.n + by), rest=model.rest)
'''


@pytest.fixture(params=ANY_POOL)
def plain(request: pytest.FixtureRequest, site: Site) -> Site:
    """A site whose messages and results are JSON."""
    pytest.importorskip("pydantic")
    site.write_project(_PLAIN)
    site.start_broker()
    site.start_worker("-P", request.param, "-c", "2")
    return site


def test_what_json_cannot_hold(plain: Site, assert_alive: Callable[[Proc], None]) -> None:
    """Case 25: delay() names the argument and sends nothing; such a result is a failure, and no more."""
    t: Any = plain.tasks
    unknown = {
        "Colour": t.Colour.RED, "Point": t.Point(1), "set": {1}, "timedelta": t.datetime.timedelta(1),
        "Row": t.Row(),
    }  # fmt: skip
    for kind, value in unknown.items():
        said = rf"siteproj\.echo: argument {{}} \({kind}\) can't be carried"
        with pytest.raises(EncodeError, match=said.format(1)):
            t.echo.delay(1, value)
        with pytest.raises(EncodeError, match=said.format("'named'")):
            t.echo.delay(named=value)
        with pytest.raises(TypeError, match=rf"argument 0 \(list\) .*{kind}"):
            t.echo.apply_async(args=([{"deep": value}],))
    # An enum of texts is a text to JSON, as to Celery.
    assert [["one"], {"k": "one"}] == t.echo.delay(t.Name.ONE, k=t.Name.ONE).get(timeout=10)
    assert 1 == plain.count("echo")

    result = t.a_set.delay()
    with pytest.raises(EncodeError, match="set"):
        result.get(timeout=10)
    assert ("FAILURE", "EncodeError") == (result.state, type(result.result).__name__)
    assert_alive(plain.workers[0])


def test_nested_models(plain: Site) -> None:
    """Case 25: a model arrives as one, with those in it; a bad payload fails before the body."""
    t: Any = plain.tasks
    model = {"inner": {"n": 1}, "rest": [{"n": 5}]}
    raised = {"inner": {"n": 3}, "rest": [{"n": 5}]}

    assert raised == t.raised.delay(model, by=2).get(timeout=10)
    assert raised == t.raised.delay(t.Outer(**model), by=2).get(timeout=10)
    for bad in ({"inner": {"n": "no"}}, {"rest": []}, 7):
        result = t.raised.delay(bad)
        found = result.get(timeout=10, propagate=False)
        assert ("FAILURE", "ValidationError") == (result.state, type(found).__name__)
        assert "n" in str(found)
    assert ["raised Outer Inner"] * 2 == plain.runs()
