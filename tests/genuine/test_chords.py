"""Chords of genuine Celery over emq://: parts run by our worker and by Celery's own, on one queue."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signature
from celery.exceptions import ChordError

from tests.broker_process import Broker
from tests.processes import Procs, unused_port, wait_until

pytestmark = pytest.mark.integration

PROJECT = """
import os
from celery import Celery, chain, group

app = Celery("chorded", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.worker_prefetch_multiplier = 1


@app.task
def add(x, y=1):
    return x + y


@app.task
def same(value):
    return value


@app.task
def total(numbers):
    return sum(numbers)


@app.task(ignore_result=True)
def unkept(value):
    return value


@app.task
def fail():
    raise ValueError("no")


@app.task(bind=True)
def by_chain(self, x):
    return self.replace(chain(add.s(x), add.s(10)))


@app.task(bind=True)
def by_group(self, x):
    return self.replace(group(add.s(x), add.s(x, 10)))


@app.task(bind=True)
def growing(self):
    self.add_to_chord(same.s("added"))
    return "own"


@app.task(bind=True)
def later(self):
    if not self.request.retries:
        raise self.retry(countdown=0)
    return "later"


@app.task
def errback(request, exc, traceback):
    with open(os.environ["NOTES"], "a") as file:
        print(request.id, type(exc).__name__, file=file)
"""


class World:
    """A broker, workers of one project, and a client that knows none of its tasks."""

    def __init__(self, folder: Path) -> None:
        (folder / "chorded.py").write_text(PROJECT)
        self.procs = Procs(folder)
        self.broker = Broker(self.procs, unused_port, folder / "data")
        self.broker.start()
        self.notes = folder / "notes"
        self.notes.touch()
        self._folder = folder
        self._environment = {"BROKER": self.broker.url, "NOTES": str(self.notes)}
        url = self.broker.url
        self.app = Celery("client", broker=url, backend=url, set_as_current=False)

    def worker(self, kind: str) -> None:
        """Start our worker, or Celery's own."""
        celery = Path(sys.executable).with_name("celery")
        argv = ("emq-compat",) if kind == "ours" else ()
        start: Any = self.procs.emq if argv else lambda *rest, **more: self.procs.start(celery, *rest, **more)
        options = ("-A", "chorded", "-c", "2", "-n", f"{kind}@h")
        words = ("worker", *options) if argv else ("-A", "chorded", "worker", "-l", "INFO", *options[2:])
        start(*words, cwd=self._folder, env=self._environment, ready="ready", timeout_s=60)

    def s(self, task: str, *args: Any, **kwargs: Any) -> Any:
        """Return a signature of one of the project's tasks."""
        return signature(f"chorded.{task}", args=args, kwargs=kwargs, app=self.app)


@pytest.fixture(scope="module", params=["ours", "celery", "mixed"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    try:
        for kind in ("ours", "celery") if request.param == "mixed" else (request.param,):
            made.worker(kind)
        yield made
        made.app.close()
        made.broker.client.close()
    finally:
        made.procs.close()


def test_chords_give_their_body_the_values_in_order(world: World) -> None:
    """A task, a chain and a group as the body; parts that are chains, groups, chords, retried or unkept."""
    s = world.s
    numbers = [s("add", n) for n in range(10)]
    assert 55 == chord(numbers, s("total"))().get(timeout=60)
    assert 56 == chord(numbers, chain(s("total"), s("add")))().get(timeout=60)
    assert [55, 55] == chord(numbers, group(s("total"), s("total")))().get(timeout=60)
    inner = chord([s("add", 1), s("add", 2)], s("total"))
    tail = chain(s("add", 1), group(s("add", 1), s("add", 2)))
    parts = [inner, tail, s("later"), s("unkept", "u"), s("by_chain", 1), s("by_group", 1)]
    assert [5, [3, 4], "later", "u", 12, [2, 11]] == chord(parts, s("same"))().get(timeout=60)
    assert 9 == chord([s("add", 1)], s("add", 4, 5).set(immutable=True))().get(timeout=60)
    assert ["own", "added", 2] == chord([s("growing"), s("add", 1)], s("same"))().get(timeout=60)


def test_a_failed_part_fails_the_body_and_calls_its_errbacks(world: World) -> None:
    """ChordError for a task, what the part raised for a group's; the errbacks of each are called once."""
    s = world.s
    one = chord([s("add", 1), s("fail")], s("total").on_error(s("errback")))()
    many = chord([s("add", 1), s("fail")], group(s("total").on_error(s("errback")), s("total")))()
    for result in (one, *many.results):
        wait_until(result.ready, timeout_s=60)
    assert isinstance(one.result, ChordError)
    assert "raised ValueError('no')" in str(one.result)
    assert ["ValueError('no')"] * 2 == [repr(result.result) for result in many.results]
    told = {f"{one.id} ChordError", f"{many.results[0].id} ValueError"}
    wait_until(lambda: set(world.notes.read_text().splitlines()) >= told, timeout_s=60)
    assert sorted(told) == sorted(world.notes.read_text().splitlines())


def test_a_chord_of_a_thousand_lasts_over_a_kill_of_the_broker(world: World) -> None:
    """The broker is killed while parts run: each part counts once, and the body gets all values."""
    result = chord([world.s("add", n) for n in range(1000)], world.s("total"))()
    first = result.parent.results[100]
    wait_until(first.ready, timeout_s=60)
    assert world.broker.proc is not None
    world.broker.proc.kill()
    world.broker.start()
    assert 500500 == result.get(timeout=100)
