"""Which queue a task goes to, and which names a queue may have (case 37)."""

from __future__ import annotations

import re

import pytest

from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.queues import Queue
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

NAMES = ("a.b", "a-b", "a:b", "a/b", "é☃", "q" * 200, "with a space", "with,comma", "celery")

ROUTED = """
import re


def by_argument(name, args, kwargs, options, task=None, **kw):
    return {{"queue": "a/b"}} if args and args[0] == "by function" else None


app.conf.update(
    task_queues={names!r},
    task_routes=(
        by_argument,
        {{
            "routed.exact": "a.b",
            "routed.*": "a-b",
            re.compile(r"matched\\.\\d+"): {{"queue": "a:b"}},
            "routed.narrow.*": "é☃",
        }},
    ),
)


@app.task(name="siteproj.where", bind=True)
def where(self, *args):
    return [self.name, self.request.delivery_info["routing_key"]]


def also(name):
    app.task(name=name, bind=True)(where.run.__func__)


for name in ("routed.exact", "routed.other", "routed.narrow.x", "matched.1", "unmatched"):
    also(name)


@app.task(bind=True)
def children(self):
    from emq_compat.shim.canvas.chain import chain
    names = ("routed.exact", "routed.other", "unmatched")
    steps = [app.signature(name, immutable=True) for name in names]
    return chain(*steps).apply_async().id
"""


@pytest.fixture
def routed(site: Site) -> Site:
    site.write_project(ROUTED.format(names=list(NAMES)))
    site.start_broker()
    return site


def test_each_call_goes_where_celery_would_send_it(routed: Site) -> None:
    """Exact, glob, regex, function; a pattern that never counts is told; names of any kind deliver."""
    worker = routed.start_worker("-P", "solo")
    app, tasks = routed.tasks.app, routed.tasks

    def where(name: str, *args: str, **options: str) -> str:
        return str(app.send_task(name, args, **options).get(timeout=20)[1])

    found = {
        "exact": where("routed.exact"),
        "glob": where("routed.other"),
        "shadowed": where("routed.narrow.x"),
        "regex": where("matched.1"),
        "function": where("routed.exact", "by function"),
        "none": where("unmatched"),
        "call": where("routed.exact", queue="with a space"),
    }
    expected = {
        "exact": "a.b", "glob": "a-b", "shadowed": "a-b", "regex": "a:b", "function": "a/b", "none": "celery",
        "call": "with a space",
    }  # fmt: skip
    assert expected == found
    assert "'routed.narrow.*' never counts, 'routed.*' stands before it" in worker.output()
    assert list(NAMES) == [where("unmatched", queue=name) for name in NAMES]
    last = app.AsyncResult(tasks.children.delay().get(timeout=20))
    assert ["unmatched", "celery"] == last.get(timeout=20)
    [queues] = app.control.inspect(timeout=10).active_queues().values()
    assert sorted(NAMES) == sorted(queue["name"] for queue in queues)
    assert {*NAMES} <= {row["name"] for row in routed.client.ask("queues")}


@pytest.mark.parametrize("name", ["", "a\nb"])
def test_names_that_no_queue_may_have(routed: Site, name: str) -> None:
    """Neither a call, nor a route, nor a declaration, nor a worker's option takes them."""
    app, where = routed.tasks.app, routed.tasks.where
    wrong = repr(name)

    with pytest.raises(ImproperlyConfigured, match=re.escape(wrong)):
        Queue(name)
    app.conf.task_routes = {"unmatched": {"queue": name}}
    with pytest.raises(ImproperlyConfigured, match=re.escape(wrong)):
        app.send_task("unmatched")
    if name:
        with pytest.raises(ImproperlyConfigured, match=re.escape(wrong)):
            where.apply_async(queue=name)
    app.conf.task_queues = [name]
    with pytest.raises(ImproperlyConfigured, match=re.escape(wrong)):
        where.delay()
    text = (routed.folder / "siteproj.py").read_text()
    (routed.folder / "wrong.py").write_text(f"{text}\napp.conf.task_queues = [{name!r}]\n")
    refused = routed.procs.emq("worker", "-A", "wrong", cwd=routed.folder)
    assert 0 < refused.wait()
    assert f"{wrong} can't be a queue's name" in refused.output()


def test_a_worker_listens_where_it_is_told(routed: Site) -> None:
    """-Q names queues, -X leaves some out, and an unknown one is refused where none may be made up."""
    routed.start_worker("-P", "solo", "-Q", "a.b,é☃")
    routed.start_worker("-P", "solo", "-X", "a.b,celery")
    listening = sorted(tuple(sorted(w["queues"])) for w in routed.client.ask("workers"))
    assert sorted([("a.b", "é☃"), tuple(sorted({*NAMES} - {"a.b", "celery"}))]) == listening

    text = (routed.folder / "siteproj.py").read_text()
    (routed.folder / "strict.py").write_text(text + "\napp.conf.task_create_missing_queues = False\n")
    refused = routed.procs.emq("worker", "-A", "strict", "-Q", "no_such", cwd=routed.folder)
    assert 2 == refused.wait()
    assert "Queue 'no_such' missing from task_queues" in refused.output()
