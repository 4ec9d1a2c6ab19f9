"""How long results are kept, and that nothing of a workflow stays behind (case 20)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from emq_compat.celery_shim import chain, chord, group
from emq_compat.shim.exceptions import ChordError, TaskRevokedError
from tests.cases.workflows import TASKS
from tests.processes import wait_until
from tests.site import Site

pytestmark = [pytest.mark.integration, pytest.mark.cases]

MORE = """
app.conf.result_expires = {expires}


@app.task
def slow(seconds):
    time.sleep(seconds)
    return seconds


@app.task(ignore_result=True)
def quiet(value=0):
    note(f"quiet {{value}}")
    return value


@app.task(ignore_result=True)
def quiet_total(values):
    note(f"total {{values}}")


@app.task(ignore_result=True, acks_late=True)
def quiet_boom():
    raise ValueError("quiet")
"""


def rows(site: Site) -> dict[str, list[str]]:
    """What the broker's journal holds of results and workflows: the ids of each table."""
    tables = {"results": "task_id", "chords": "id", "parts": "place", "messages": "msgid"}
    path = site.folder / "data" / "journal.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        return {
            table: [str(row[0]) for row in journal.execute(f"SELECT {column} FROM {table}")]
            for table, column in tables.items()
        }


def holds(site: Site, results: set[str]) -> Callable[[], bool]:
    """A function that tells whether the journal holds these results and nothing else."""

    def held() -> bool:
        found = rows(site)
        return results == set(found.pop("results")) and not any(found.values())

    return held


@pytest.mark.parametrize(
    ("expires_s", "header_s", "count"),
    [pytest.param(1, 2, 20, id="short"), pytest.param(2, 4, 100, id="full", marks=pytest.mark.long)],
)
def test_expired_results_leave_the_store(site: Site, expires_s: float, header_s: float, count: int) -> None:
    """20: bodies run whatever the expiry; 10 s later nothing that expires is there, and all that doesn't."""
    site.write_project(TASKS + MORE.format(expires=expires_s))
    site.start_broker()
    site.start_worker("-P", "threads", "-c", "8")
    t: Any = site.tasks

    bodies, groups = [], []
    for never in (0, None):
        t.app.conf.result_expires = never
        result = chord([t.add.s(1), t.add.s(2)], t.same.s()).apply_async()
        saved = group(t.add.s(3), t.add.s(4)).apply_async()
        saved.save()
        assert [[1, 2], [3, 4]] == [result.get(timeout=10), saved.get(timeout=10)]
        bodies.append(result)
        groups.append(saved)

    t.app.conf.result_expires = expires_s
    body = chord([t.slow.s(header_s), t.add.s(1), t.add.s(2)], t.same.s()).apply_async()
    single = [t.same.delay(n) for n in range(count)]
    saved = group(t.add.s(1), t.add.s(2)).apply_async()
    saved.save()
    failing = chain(t.boom.s(), group(t.same.s(), t.same.s()), t.same.s() | t.same.s()).apply_async()
    failing_chord = chord([t.boom.s(), t.add.s(1)], t.same.s()).apply_async()
    revoked = chain(t.add.s(1).set(countdown=60), t.same.s()).apply_async()
    revoked.parent.revoke()
    assert list(range(count)) == [result.get(timeout=10) for result in single]
    with pytest.raises(ChordError):
        failing_chord.get(timeout=10, follow_parents=False)
    with pytest.raises(TaskRevokedError):
        revoked.get(timeout=10)
    with pytest.raises(ValueError, match="boom"):
        failing.get(timeout=10)
    assert [header_s, 1, 2] == body.get(timeout=header_s + 10)

    # What a result has read it keeps: fresh ones ask the store.
    fresh = t.app.AsyncResult
    lasting = {member.id for result in bodies for member in (result, *result.parent)}
    lasting |= {member.id for members in groups for member in members}
    lasting |= {f"group:{members.id}" for members in groups}
    wait_until(holds(site, lasting), 10, what="only what never expires is stored")
    assert ["PENDING"] * 3 == [fresh(result.id).state for result in (body, single[0], failing)]
    assert [[1, 2]] * 2 == [fresh(result.id).get(timeout=1) for result in bodies]
    assert saved.restore(saved.id, app=t.app) is None
    assert [[3, 4]] * 2 == [saved.restore(members.id, app=t.app).get(timeout=1) for members in groups]


def test_ignored_results_leave_no_rows(site: Site) -> None:
    """20: of tasks, a chord and a failing chain whose results are ignored nothing is stored."""
    site.write_project(TASKS + MORE.format(expires=3600))
    site.start_broker()
    site.start_worker("-P", "threads", "-c", "4")
    t: Any = site.tasks

    with t.app.pipeline():
        for n in range(100):
            t.quiet.delay(n)
    chord([t.quiet.s(-1), t.quiet.s(-2)], t.quiet_total.s()).apply_async()
    chain(t.quiet_boom.s(), t.quiet.s(), t.quiet.s()).apply_async()
    chord([t.quiet_boom.s(), t.quiet.s(-3)], t.quiet_total.s() | t.quiet.s()).apply_async()
    chain(t.quiet.s(-4).set(countdown=60), t.quiet.s()).apply_async().parent.revoke()

    site.wait_runs("quiet", 103)
    site.wait_runs("total [-1, -2]")
    wait_until(holds(site, set()), 10, what="nothing is stored")
    assert (103, 1) == (site.count("quiet"), site.count("total"))
