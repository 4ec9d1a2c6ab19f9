"""Signatures and what is composed of them: their JSON, their operators, and what they publish."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from emq_compat.celery_shim import (
    Celery,
    Signature,
    chain,
    chord,
    chunks,
    group,
    maybe_signature,
    signature,
)
from emq_compat.failures import failure_of
from emq_compat.shim.canvas.kinds import StampingVisitor, _chain
from emq_compat.shim.exceptions import Ignore, ImproperlyConfigured
from emq_compat.shim.flow import failed
from emq_compat.shim.request import Context
from tests.shim.canvases import Tasks, celery_part
from tests.shim.recorder import Recorder

ADD = {
    "task": "add",
    "args": [1, 2],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}


# Layout


def test_signatures_have_celerys_layout(t: Tasks) -> None:
    """JSON of a signature, chain, group, chord and chunks is what Celery writes and reads."""
    add, total = t.add.s(1, 2), {**ADD, "task": "total", "args": []}
    plain = {"args": [], "options": {}, "immutable": False}
    chain_ = {**plain, "task": "celery.chain", "kwargs": {"tasks": [ADD, total]}, "subtask_type": "chain"}
    group_ = {**plain, "task": "celery.group", "kwargs": {"tasks": [ADD, ADD]}, "subtask_type": "group"}
    chord_ = {
        **plain,
        "task": "celery.chord",
        "kwargs": {"kwargs": {}, "header": [ADD, ADD], "body": total},
        "subtask_type": "chord",
    }
    map_ = {
        **plain,
        "task": "celery.starmap",
        "kwargs": {"task": {**ADD, "args": []}, "it": [[1, 2]]},
        "subtask_type": "xstarmap",
        "immutable": True,
    }

    assert ADD == json.loads(json.dumps(add))
    assert chain_ == json.loads(json.dumps(add | t.total.s()))
    assert group_ == json.loads(json.dumps(group(add, add)))
    assert chord_ == json.loads(json.dumps(group(add, add) | t.total.s()))
    assert map_ == json.loads(json.dumps(t.add.starmap([(1, 2)])))


def test_signatures_come_back_from_json_and_pickle(t: Tasks) -> None:
    """A canvas survives JSON, pickle and copy.deepcopy, with its classes."""
    sig = chain(t.add.s(1), group(t.add.s(2), chunks(t.add.s(), [(1, 1)], 1)), t.total.s(), t.add.s(1))
    text = json.dumps(sig)

    for back in (
        maybe_signature(json.loads(text)),
        pickle.loads(pickle.dumps(sig)),
        copy.deepcopy(sig),
        signature(sig),
    ):
        assert text == json.dumps(back)
        assert isinstance(back, _chain)
        assert isinstance(back.tasks[1], chord)
        assert isinstance(back.tasks[1].tasks[1], chunks)


def test_a_generator_is_run_when_it_is_needed(t: Tasks) -> None:
    """A group and a header of a generator are lazy; they can be looked at twice."""
    made = []

    def members() -> Any:
        for n in range(3):
            made.append(n)
            yield t.add.s(n)

    lazy = group(members())
    assert [] == made
    assert 3 == len(lazy)
    assert 3 == len(json.loads(json.dumps(lazy))["kwargs"]["tasks"])
    assert [0, 1, 2] == made
    assert 3 == chord((t.add.s(n) for n in range(3)), t.total.s()).__length_hint__()


# Operators


def test_how_workflows_are_shown(app: Celery) -> None:
    """As in Celery: the tasks' module is named once, and a chord's body with its header as its argument."""
    a, b = app.signature("proj.a"), app.signature("proj.b", (1.5,))

    assert "proj.a() | b(1.5) | b(1.5)" == repr(chain(a, b, b))
    assert "group([proj.a(), b(1.5)])" == repr(group([a, b]))
    assert "%proj.b([a()], 1.5)" == repr(chord([a], b))
    assert "%(proj.a([b(1.5)]) | a())" == repr(chord([b], chain(a, a)))
    assert "add(1.5) | add(2.5)" == repr(chain(app.signature("add", (1.5,)), app.signature("add", (2.5,))))
    assert f"<_chain@{id(empty := _chain()):#x}: empty>" == repr(empty)
    assert f"<Celery {app.main} at {id(app):#x}>" == repr(app)


def test_what_the_operator_makes(t: Tasks) -> None:
    """Celery's upgrades: a group in front of a task is a chord, chains are joined, groups of one unrolled."""
    a, g, b = t.add.s(1), group(t.add.s(2), t.add.s(3)), t.total.s()

    assert isinstance(a | b, _chain)
    assert isinstance(g | b, chord)
    assert isinstance((a | g | b).tasks[1], chord)
    assert 4 == len(((a | b) | (a | b)).tasks)
    assert isinstance(((g | b) | a).body, _chain)
    assert [t.add.s(1), t.add.s(2)] == (a | group(t.add.s(2))).tasks
    assert isinstance(g | b | g, _chain)
    assert g is g | group([])
    assert isinstance(chain(g, b), chord)
    assert isinstance(chain([a]), _chain)
    assert "add(1) | %total([add(2), add(3)])" == repr(a | g | b)


def test_clones_are_independent(t: Tasks) -> None:
    """Options, callbacks and members of a copy are its own."""
    first = t.add.s(1).set(queue="q")
    first.link(t.add.s(2))
    second = first.clone((5,), {"y": 1}, priority=3)
    second.options["link"][0].set(queue="other")
    second.link(t.add.s(3))

    assert ((5, 1), {"y": 1}, 3) == (second.args, second.kwargs, second.options["priority"])
    assert {"queue": "q", "link": [t.add.s(2)]} == first.options
    whole = group(first, first)
    whole.clone().tasks[0].set(queue="x")
    assert "q" == whole.tasks[0].options["queue"]


def test_immutable_signatures_take_no_arguments(t: Tasks) -> None:
    """si() and set(immutable=True) ignore what comes before; force shows it in reprcall only."""
    assert 3 == t.add.si(1, 2)(9, 9)
    assert 3 == t.add.s(1, 2).set(immutable=True).apply((9,)).get()
    assert "add(9, 1, y=2)" == t.add.s(1, y=2).reprcall(9)


def test_links_are_listed_once(t: Tasks) -> None:
    """link returns the callback and adds it once; on_error returns the signature; flatten_links is deep."""
    sig, callback = t.add.s(1), t.add.s(2)

    assert callback is sig.link(callback) is sig.link(callback)
    callback.link(t.add.s(3))
    assert sig is sig.on_error(t.total.s())
    assert [sig, callback, t.add.s(3)] == sig.flatten_links()
    assert [t.total.s()] == sig.options["link_error"]


def test_own_types_are_registered(t: Tasks) -> None:
    """register_type makes a class come back from its dict."""

    @Signature.register_type()
    class shout(Signature):  # noqa: N801
        @classmethod
        def from_dict(cls, d: Any, app: Any = None) -> Any:
            return cls(d)

    try:
        made = shout("add", (1,), subtask_type="shout")
        assert isinstance(maybe_signature(json.loads(json.dumps(made))), shout)
    finally:
        del Signature.TYPES["shout"]


def test_freeze_gives_ids_before_anything_is_sent(t: Tasks, client: Recorder) -> None:
    """The ids of freeze are those of the messages; a chain's results are linked by parent."""
    sig = chain(t.add.s(1), t.add.s(2), t.add.s(3))
    frozen = sig.freeze()
    result = sig.apply_async()

    assert frozen.id == result.id == sig.id
    assert [frozen.parent.id, frozen.parent.parent.id] == [result.parent.id, result.parent.parent.id]
    assert client.published[0].headers.task_id == result.parent.parent.id


# Stamps


class Visitor(StampingVisitor):
    """Notes what it visits."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        self.seen.append(f"task {sig.task}")
        return {"visited": sig.task, "stamped_headers": ["visited"]}

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        self.seen.append("chain")
        return {"in": "chain"}

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        self.seen.append("body")
        return {}

    def on_errback(self, errback: Any, **header: Any) -> dict[str, Any]:
        self.seen.append("errback")
        return {"errback": True}


def test_a_visitor_stamps_every_part(t: Tasks, client: Recorder) -> None:
    """Chains, headers, bodies and errbacks are visited; their stamps are in the messages."""
    sig = chain(t.add.s(1), group(t.add.s(2), t.add.s(3)), t.total.s())
    sig.tasks[0].link_error(t.total.s())
    visitor = Visitor()
    sig.stamp(visitor)
    sig.apply_async()

    assert ["chain", "errback", "task total", "task add", "task add", "task add", "body", "task total"] == (
        visitor.seen
    )
    part = celery_part(client.published[0])
    assert {"in": "chain", "visited": "add"} == part["stamps"]
    assert ["in", "visited"] == part["stamped_headers"]
    assert part["errbacks"][0]["options"]["errback"] is True


def test_stamps_are_replaced_or_appended(t: Tasks) -> None:
    """A second stamp of the same name: the first stays; with append_stamps both are kept."""
    assert [1, 2] == t.add.s().stamp(a=2).stamp(a=1, append_stamps=True).options["a"]
    assert {"a": 1, "stamped_headers": ["a"]} == t.add.s().stamp(a=2).stamp(a=1).options


# In place


def test_canvases_in_place(t: Tasks, app: Celery) -> None:
    """apply() of each canvas, and with task_always_eager apply_async, too."""
    sig = chain(t.add.s(1), group(t.add.s(2), t.add.s(3)), t.total.s(), t.add.s(1))

    assert 8 == sig.apply().get()
    assert 7 == sig.apply().parent.get()
    app.conf.task_always_eager = True
    assert 8 == sig.apply_async().get()
    assert [3, 7] == group(t.add.s(1, 2), t.add.s(3, 4)).apply_async().get()
    assert [[3], [7]] == t.add.chunks([(1, 2), (3, 4)], 1).apply_async().get()
    assert [3, 7] == t.add.starmap([(1, 2), (3, 4)]).apply_async().get()
    assert 0 == chord([], t.total.s())().get()


def test_callbacks_and_errbacks_in_place(t: Tasks, app: Celery) -> None:
    """Both forms of errback and callbacks are called for apply()."""
    told: list[Any] = []

    @app.task
    def fail() -> None:
        raise ValueError("x")

    @app.task
    def noted(value: Any) -> None:
        told.append(value)

    @app.task
    def new(request: Any, exc: Any, traceback: str) -> None:
        told.append((request.id, str(exc), "ValueError" in traceback))

    assert 3 == t.add.apply((1, 2), link=noted.s()).get()
    failed = fail.apply(link_error=[noted.s(), new.s()])
    assert [3, failed.id, (failed.id, "x", True)] == told


def test_replace_needs_something_to_run(t: Tasks, app: Celery) -> None:
    """An empty chain, or a signature that is part of a chord, can't replace a task."""

    @app.task(bind=True)
    def outer(self: Any, sig: Any) -> Any:
        return self.replace(sig)

    assert 3 == outer.apply((t.add.s(1, 2),)).get()
    for wrong in (_chain(), t.add.s().set(chord={"id": "x", "index": "0"})):
        with pytest.raises(ImproperlyConfigured):
            outer.apply((wrong,)).get()
    with pytest.raises(ValueError, match="not member of any chord"):
        outer.add_to_chord(t.add.s())
    assert issubclass(Ignore, Exception)


def test_the_rest_of_a_failed_chain_is_stored_as_its_tasks_say(t: Tasks, app: Celery) -> None:
    """Ends of tasks that never begin are kept for result_expires, and not kept where results are ignored."""
    app.conf.result_expires = 7

    @app.task(name="quiet", ignore_result=True)
    def quiet() -> None: ...

    sigs = [t.add.s(1), quiet.s(), quiet.s().set(ignore_result=False), t.add.s(1).set(ignore_result=True)]
    for sig in sigs:
        sig.freeze()
    request = Context(id="first", chain=[dict(sig) for sig in reversed(sigs)])
    exc = ValueError("boom")
    ends = failed(app, request, "q", state="FAILURE", exc=exc, failure=failure_of(exc))

    assert [(sig.id, 7.0) for sig in sigs] == [(end.headers.task_id, end.headers.keep_s) for end in ends]
    assert [False, True, False, True] == [end.headers.no_result for end in ends]
