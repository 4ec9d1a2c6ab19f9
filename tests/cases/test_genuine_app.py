"""A genuine Celery app in our worker, on our broker, RabbitMQ and Redis (cases 2, 13, 16, 17 and 28)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cases.test_shim_kombu import CANVAS, TASKS
from tests.mixed_site import BROKERS, NAME, MixedSite, Raised, open_mixed_site
from tests.processes import Procs, unused_port, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.cases]

IMPORTS = """
from celery import chain, chord, group, signals

KIND = "celery"


@app.task(bind=True)
def properties(self):
    return {name: self.request.properties.get(name) for name in ("app_id", "type", "reply_to")}


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_always():
    note("die always")
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module", params=BROKERS)
def genuine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedSite]:
    """A genuine app with one worker of ours, which listens on a second queue, too."""
    folder: Path = tmp_path_factory.mktemp(f"genuine-{request.param}")
    (folder / "procs").mkdir()
    procs = Procs(folder / "procs")

    def amqp_url() -> str:
        return str(request.getfixturevalue("amqp_url"))

    try:
        with open_mixed_site(f"genuine-{request.param}", folder, procs, unused_port, amqp_url) as site:
            site.write_project(IMPORTS + TASKS)
            site.start_worker("-Q", f"{site.queue('celery')},{site.queue('q2')}")
            yield site
    finally:
        procs.close()
        if request.session.testsfailed:
            print(procs.report())


@pytest.mark.parametrize("canvas", CANVAS)
def test_a_canvas_has_its_value(genuine: MixedSite, canvas: str) -> None:
    """16: nested workflows end with the value that they have in Celery, retries in a header included."""
    assert CANVAS[canvas] == genuine.ask(f"({canvas}).apply_async().get(timeout=30)")


def test_a_failing_step_ends_what_waits_for_it(genuine: MixedSite) -> None:
    """17: the chord of a chain that fails is a ChordError, and what comes after it never runs."""
    genuine.ask("r = chord([chain(same.s(1), boom.s(), same.s()), same.s(2)], noted.s()).apply_async()")

    with pytest.raises(Raised, match=r"ChordError|boom"):
        genuine.ask("r.get(timeout=20)")
    wait_until(lambda: genuine.ask("r.state") == "FAILURE", 10)
    assert "ChordError" == genuine.ask("type(r.result).__name__")
    assert 0 == genuine.count("noted")


def test_a_retry_keeps_what_the_call_said(genuine: MixedSite) -> None:
    """13: each attempt has the same queue, priority, header and root; what follows gets the value."""
    queue = genuine.queue("q2")
    genuine.ask(
        "r = chain(same.s('kept'), flaky.s(times=2, countdown=1)"
        ".set(queue=q2, priority=5, headers={'tag': 'x'}), same.s()).apply_async()",
        q2=queue,
    )

    assert "kept" == genuine.ask("r.get(timeout=30)")

    seen = [line.partition("kept celery ")[2] for line in genuine.runs() if line.startswith("flaky kept")]
    assert 3 == len(seen)
    assert {str([queue, 5, genuine.ask("r.parent.parent.id"), "x"])} == set(seen)


def test_a_retry_that_is_too_late_is_revoked(genuine: MixedSite) -> None:
    """13: a message that expires in 2 s is not tried again after 3: it ends REVOKED, and ran once."""
    genuine.ask("r = flaky.apply_async(('late', 5, 3), expires=2)")

    wait_until(lambda: genuine.ask("r.state") == "REVOKED", 20)
    assert 1 == genuine.count("flaky late")


def test_a_child_that_is_killed(genuine: MixedSite) -> None:
    """2: acknowledged early or late a task ends as WorkerLostError; it runs again where it asks for that."""
    genuine.ask("rs = [t.apply_async() for t in (die_early, die_late, die_requeued)]")

    for number in (0, 1):
        with pytest.raises(Raised, match="WorkerLostError"):
            genuine.ask(f"rs[{number}].get(timeout=20)")
    assert "requeued" == genuine.ask("rs[2].get(timeout=20)")
    deaths = {mark: [line for line in genuine.runs() if line.startswith(f"die {mark} ")] for mark in
              ("early", "late", "requeued")}  # fmt: skip
    assert {
        "early": ["die early False"],
        "late": ["die late False"],
        "requeued": ["die requeued False", "die requeued True"],
    } == deaths
    genuine.wait_runs(f"failed {NAME}.die_early WorkerLostError")
    genuine.wait_runs(f"failed {NAME}.die_late WorkerLostError")
    assert 0 == genuine.count(f"failed {NAME}.die_requeued")


def test_a_task_that_kills_every_child(genuine: MixedSite) -> None:
    """It goes back five times and then ends as WorkerLostError: our broker counts, else the worker."""
    genuine.ask("r = die_always.delay()")

    with pytest.raises(Raised, match=r"WorkerLostError.*lost 6 times"):
        genuine.ask("r.get(timeout=30)")
    assert 6 == genuine.count("die always")


def test_a_lost_part_fails_its_chord(genuine: MixedSite) -> None:
    """A part whose process is killed fails its chord at once."""
    genuine.ask("r = chord([die_early.s(), same.s(1)], same.s()).apply_async()")

    with pytest.raises(Raised, match=r"WorkerLostError|ChordError"):
        genuine.ask("r.get(timeout=20)")
    wait_until(lambda: genuine.ask("r.state") == "FAILURE", 10)


def test_a_task_sees_its_message_s_properties(genuine: MixedSite) -> None:
    """What the call says of app_id and type arrives with the task."""
    found = genuine.ask("properties.apply_async(app_id='1234', type='kind').get(timeout=20)")

    assert ("1234", "kind") == (found["app_id"], found["type"])
    assert found["reply_to"]


def test_an_unknown_name(genuine: MixedSite) -> None:
    """28: a task that no worker knows ends as NotRegistered, and the log names near ones."""
    genuine.ask(f"r = app.send_task('{NAME}.tota')")

    with pytest.raises(Raised, match="NotRegistered"):
        genuine.ask("r.get(timeout=10)")
    if genuine.kind != "emq":  # there the broker says so: no worker gets it
        assert f"{NAME}.total" in genuine.workers[0].tail(200)


@pytest.mark.parametrize("named", [True, False], ids=["with a main name", "without"])
def test_a_module_that_is_run_as_a_script(genuine: MixedSite, named: bool) -> None:
    """28: its task is its app's, and runs; without a main name nobody knows it, and near ones are told."""
    printed = genuine.run_as_script(named=named)

    assert (f"{NAME}.ping script" if named else "__main__.ping NotRegistered") == printed
    if not named and genuine.kind != "emq":
        genuine.workers[0].wait_line("no task '__main__.ping' is registered here; near it: ")
