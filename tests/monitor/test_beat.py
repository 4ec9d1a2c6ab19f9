"""Real beats, and what their pages tell of them in the states that an operator knows."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.monitor.beat import BeatMonitor, question_for
from emq_compat.monitor.beat_figures import MOST_NAMES, BeatCounts
from emq_compat.monitor.figures import Histogram
from emq_compat.shim.beat.watch import BeatWatch
from tests.monitor.pages import address_of, health, metrics, page
from tests.processes import wait_until
from tests.site import NAME, Site

#: Two entries that are sent and one that can't be; a loop that a file holds up.
MORE = """
from emq_compat.celery_shim.beat import BeatLazyFunc
from emq_compat.celery_shim.schedules import schedule


class Held(schedule):
    def is_due(self, last_run_at):
        if os.path.exists("held_up"):
            open("held_up").close()  # a FIFO
        return super().is_due(last_run_at)


def broken():
    raise LookupError("no such customer")


app.conf.beat_schedule = {
    "often": {"task": "siteproj.ping", "schedule": Held(0.3), "args": ("often",)},
    "hourly": {"task": "siteproj.ping", "schedule": 3600.0, "args": ("hourly",)},
    "broken": {"task": "siteproj.ping", "schedule": 0.4, "args": (BeatLazyFunc(broken),)},
}
app.conf.beat_remote_control_max_tick_age = 1.0
app.conf.broker_connection_timeout = 0.3  # so long a look at the schedule takes without a broker
"""


@pytest.mark.integration
def test_states_of_a_beat(site: Site) -> None:
    """A beat is ready when its broker is there and its loop turns; its figures are what it has done."""
    site.write_project(MORE)
    held_up = site.folder / "held_up"
    os.mkfifo(held_up)
    beat = site.procs.emq(
        *("beat", "-A", NAME, "-n", "clock@here", "--enable-remote-control", "--http", "0"), cwd=site.folder
    )
    http = address_of(beat)
    at = ("--http", str(http))

    # Just started: no broker yet.
    wait_until(lambda: page(http, "/ready").wrong.keys() == {"broker"})
    assert {"role": "beat", "node": "clock@here", "leads": None}.items() <= page(
        http, "/ready"
    ).document.items()
    assert (0, "live") == health("--live", *at)
    found = metrics(http)
    assert (0, True) == (found["emq_beat_broker_answers"], found["emq_beat_ticks_total"] > 0)
    assert "emq_beat_entries" not in found
    assert "emq_beat_leads" not in found

    # Its loop is stuck: in a schedule of the project's own, once the broker is there.
    site.start_broker()
    stuck = wait_until(lambda: page(http, "/live").wrong.get("loop"), 30)
    assert stuck.startswith("the loop has not turned for ")
    assert 1 == health("--live", *at)[0]
    by_broker = ("-d", "clock@here", "-b", site.url, "-t", "1")
    wait_until(lambda: "the loop has not turned" in health(*by_broker)[1])
    assert {"loop"} == page(http, "/ready").wrong.keys()
    held_up.write_text("")
    held_up.unlink()
    wait_until(lambda: page(http, "/ready").wrong == {})
    assert (0, "live") == health("--live", *at)
    assert (0, "ready") == health(*by_broker)

    # It has sent what is counted.
    sent = 'emq_beat_messages_sent_total{entry="often"}'
    failed = 'emq_beat_send_failures_total{entry="broken"}'
    found = wait_until(
        lambda: m if (m := metrics(http)).get(sent, 0) >= 3 and m[failed] else None, 30
    )
    assert 3 == found["emq_beat_entries"]
    assert 1 == found["emq_beat_broker_answers"]
    assert 0 <= found["emq_beat_next_due_seconds"] <= 0.4
    assert found["emq_beat_last_tick_seconds"] < 1
    assert 0 == found['emq_beat_messages_sent_total{entry="broken"}']
    assert 0 == found['emq_beat_send_failures_total{entry="often"}']

    # The broker is away, and comes back.
    assert site.broker is not None
    site.broker.kill()
    wait_until(lambda: page(http, "/ready").wrong.keys() == {"broker"}, 30)
    assert 0 == metrics(http)["emq_beat_broker_answers"]
    site.start_broker()
    wait_until(lambda: page(http, "/ready").wrong == {}, 30)

    # Nothing is sent any more, and each run that was is in the queue.
    beat.send_signal(signal.SIGSTOP)
    os.mkfifo(held_up)
    beat.send_signal(signal.SIGCONT)
    wait_until(lambda: page(http, "/live").wrong.get("loop"), 30)
    waiting = {queue["name"]: queue["waiting"] for queue in site.client.ask("queues")}
    found = metrics(http)
    assert waiting["celery"] == sum(
        value for name, value in found.items() if name.startswith("emq_beat_messages_sent_total")
    )
    held_up.write_text("")
    assert 0 == beat.stop()
    assert 1 == health("--live", *at)[0]


@pytest.mark.unit
def test_entries_beyond_the_limit_are_counted_together() -> None:
    """A schedule of any size has a bounded number of series, and no run is missing in the sum."""
    watch = BeatWatch()
    for number in range(MOST_NAMES + 50):
        watch.note(f"e{number}", sent=True)
    counts = BeatCounts(watch)
    for _ in range(2):
        sent = counts.figures(broker_answers=True)["emq_beat_messages_sent_total"]
        assert (MOST_NAMES + 1, 50) == (len(sent), sent[("other",)])


@pytest.mark.unit
def test_a_broker_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for the page, one question is under way, and each of them is answered in time."""
    monkeypatch.setattr("emq_compat.monitor.beat.ANSWERS_WITHIN_S", 0.1)
    asked: list[int] = []
    answered = threading.Event()

    def hang() -> None:
        asked.append(1)
        answered.wait()

    watch = BeatWatch()
    watch.begin(None, None)
    monitor = BeatMonitor("0", "clock@here", watch, hang)
    monitor.start()
    try:
        for _ in range(3):
            why = page(monitor.address, "/ready").wrong["broker"]
            assert why.startswith("it has not answered for ")
        assert [1] == asked
        answered.set()
        wait_until(lambda: page(monitor.address, "/ready").wrong == {})
    finally:
        answered.set()
        monitor.stop()


@pytest.mark.unit
def test_figures_follow_the_clock() -> None:
    """Times grow and shrink with it, no further than 0; what isn't known, and who leads, has no figure."""
    now = 100.0
    watch = BeatWatch(lambda: now)
    counts = BeatCounts(watch, lambda: now)

    def figures(broker_answers: bool | None) -> dict[str, float | Histogram]:
        found = counts.figures(broker_answers=broker_answers)
        return {name.removeprefix("emq_beat_"): of[()] for name, of in found.items() if () in of}

    assert {"ticks_total": 0.0, "uptime_seconds": 0.0} == figures(None)
    event = SimpleNamespace(time=30.0, entry=SimpleNamespace(name="e"))
    watch.ticked(SimpleNamespace(_heap=[event], _when=lambda entry, more_s: 20.0))
    now += 4
    known = {"ticks_total": 1.0, "entries": 1.0}
    assert known | {
        "uptime_seconds": 4.0, "last_tick_seconds": 4.0, "next_due_seconds": 6.0, "broker_answers": 1.0
    } == figures(True)  # fmt: skip
    now += 7
    assert known | {
        "uptime_seconds": 11.0, "last_tick_seconds": 11.0, "next_due_seconds": 0.0, "broker_answers": 0.0
    } == figures(False)  # fmt: skip


@pytest.mark.unit
def test_which_broker_is_asked() -> None:
    """Ours is asked how it is; a stock router answers nothing, and its page has no such check."""
    asked: list[str] = []

    class Ours:
        stock = False

        def ask(self, verb: str, timeout_s: float) -> None:
            asked.append(verb)

    app = Celery("asked", set_as_current=False)
    app.client = Ours()  # type: ignore[assignment]
    question = question_for(app)
    assert question is not None
    question()
    assert ["stats"] == asked

    stock = question_for(Celery("stock", broker="tcp://127.0.0.1:47291", set_as_current=False))
    assert stock is None
    watch = BeatWatch()
    watch.begin(None, None)
    monitor = BeatMonitor("0", "clock@here", watch, stock)
    monitor.start()
    try:
        assert {"started", "loop"} == page(monitor.address, "/ready").document["checks"].keys()
        assert "emq_beat_broker_answers" not in metrics(monitor.address)
    finally:
        monitor.stop()
