"""What shows events: lines of text, the screen, cameras."""

from __future__ import annotations

import io
import json
import threading
import time
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim.events.dumper import Dumper, JsonDumper, humanize_type
from emq_compat.shim.events.screen import CursesMonitor
from emq_compat.shim.events.snapshot import Polaroid
from emq_compat.shim.events.state import State
from tests.events.test_state import Feed
from tests.test_table import cells

pytestmark = pytest.mark.unit


def event(type_: str, **fields: Any) -> dict[str, Any]:
    known = {"hostname": "w@h", "timestamp": 0.0, "local_received": 1.0, "utcoffset": 0}
    return {"type": type_, **known, **fields}


def test_lines() -> None:
    """Each event is one line: who, when, what; a task is named by what was told of it before."""
    out = io.StringIO()
    dumper = Dumper(out)
    dumper.on_event(event("worker-online", freq=2.0))
    dumper.on_event(event("task-received", uuid="a", name="proj.add", args="(1,)", kwargs="{}", retries=0))
    dumper.on_event(event("task-succeeded", uuid="a", result="3"))
    dumper.on_event(event("task-started", uuid="b"))
    dumper.on_event({"type": "own-event"})

    when = "[1970-01-01 00:00:00+00:00]"
    assert [
        f"w@h {when} started: freq=2.0",
        f"w@h {when} task received: proj.add(a) args=(1,) kwargs={{}} retries=0",
        f"w@h {when} task succeeded: proj.add(a) args=(1,) kwargs={{}} result=3",
        f"w@h {when} task started: (b)",
        f"None {when} own event",
    ] == out.getvalue().splitlines()
    assert "shutdown" == humanize_type("worker-offline")


def test_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is one object with all that it has; what is said to people goes to standard error."""
    out = io.StringIO()
    dumper = JsonDumper(out)
    dumper.say("-> evdump: starting capture...")
    told = event("task-succeeded", uuid="a", result="'漢\n'")
    dumper.on_event(told)
    dumper.on_event(event("own", odd={1}))
    first, second = out.getvalue().splitlines()
    assert told == json.loads(first)
    assert "{1}" == json.loads(second)["odd"]
    assert "-> evdump: starting capture...\n" == capsys.readouterr().err


class Window:
    """A terminal's window, whose keys are those given."""

    def __init__(self, *keys: str) -> None:
        self.keys = list(keys)

    def getkey(self) -> str:
        return self.keys.pop(0)


@pytest.fixture
def monitor() -> CursesMonitor:
    feed = Feed()
    feed.now = time.time() - 20
    for number in range(30):
        feed.task(f"task-{number:02}", "received", "started", name="proj.tasks.add", args=f"({number},)")
    feed.task("task-29", "failed", exception="ValueError('x')", traceback="line 1\nline 2")
    feed.tell("worker-heartbeat", freq=60)
    return CursesMonitor(feed.state, None)


def drawn(monitor: CursesMonitor, height: int = 24, width: int = 80) -> list[str]:
    lines = monitor.lines(height, width)
    assert len(lines) <= height
    assert all(len(line) <= width for line, _ in lines)
    return [line for line, _ in lines]


def press(monitor: CursesMonitor, *keys: str) -> None:
    monitor.win = Window(*keys)
    for _ in keys:
        monitor.handle_keypress()


def test_the_screen(monitor: CursesMonitor) -> None:
    """The newest tasks, as many as there is room for, the workers, and counts."""
    lines = drawn(monitor)
    tasks = [line for line in lines if line.startswith("task-")]
    assert 16 == len(tasks)
    assert "task-29" == tasks[0].split()[0]
    assert tasks[0].endswith("FAILURE  ")
    assert "Workers online: w@h" in lines
    assert any("tasks: 30 workers: 1/1" in line for line in lines)
    for size in ((10, 40), (5, 20), (60, 200)):
        drawn(monitor, *size)


def test_wide_characters_on_the_screen(monitor: CursesMonitor) -> None:
    """Columns stand below each other whatever the tasks' names are, and nothing moves the cursor."""
    names = ("proj.tasks.add", "注文.確認を送る", "proj." + "注文" * 40, "two\nlines")
    rows = [monitor.format_row("id", name, "w@h", "09:00:00", "SUCCESS", 80) for name in names]
    assert {80} == {cells(row) for row in rows}
    assert all(row.isprintable() for row in rows)
    assert 30 == cells(monitor.format_row("id", names[2], "w@h", "09:00:00", "SUCCESS", 30))


def test_the_keys(monitor: CursesMonitor) -> None:
    """Keys select a task, show what is known of it, and end."""
    press(monitor, "j")
    assert "task-29" == monitor.selected_task
    press(monitor, "KEY_DOWN", "j", "k")
    assert "task-28" == monitor.selected_task
    press(monitor, "k", "k", "t")
    assert ["Traceback of task-29", "line 1", "line 2", "any key: back"] == drawn(monitor)
    press(monitor, "x", "r")
    assert "ValueError('x')" in drawn(monitor)
    press(monitor, "x", "i")
    assert "state: FAILURE" in drawn(monitor)
    press(monitor, "x")
    assert any("Selected: args=(29,)" in line for line in drawn(monitor))
    assert not monitor.done
    press(monitor, "q")
    assert monitor.done


def test_revoking(monitor: CursesMonitor) -> None:
    """A key revokes the task that is selected, and what the workers say is shown."""

    class Control:
        def revoke(self, uuid: str, reply: bool) -> list[dict[str, Any]]:
            return [{"w@h": {"ok": f"revoked {uuid}"}}]

    class App:
        control = Control()

    monitor.app = App()
    press(monitor, "c")
    assert monitor.page is None
    press(monitor, "j", "c")
    assert any("'ok': 'revoked task-29'" in line for line in drawn(monitor))


def test_an_empty_screen() -> None:
    """Before anything has happened there is nothing to select."""
    monitor = CursesMonitor(State(), None)
    press(monitor, "j", "k", "i", "t", "r", "c")
    assert "No workers discovered." in drawn(monitor)


class Camera(Polaroid):
    """Counts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pictures: list[int] = []
        self.cleanups = 0
        self.taken = threading.Event()

    def on_shutter(self, state: State) -> None:
        self.pictures.append(state.event_count)
        self.taken.set()

    def on_cleanup(self) -> None:
        self.cleanups += 1


def test_a_camera(app: Celery) -> None:
    """A camera takes pictures of the state, every so often, a last one at its end, and cleans up."""
    signals: list[Any] = []

    def noted(sender: Any = None, signal: Any = None, **named: Any) -> None:
        signals.append((signal.name, sender))

    feed = Feed()
    feed.task("a", "started")
    camera = Camera(feed.state, freq=0.05, cleanup_freq=0.05, app=app)
    camera.shutter_signal.connect(noted)
    try:
        with camera:
            assert camera.taken.wait(10)
            count = len(camera.pictures)
        assert len(camera.pictures) > count - 1
        assert {1} == set(camera.pictures)
        assert ("shutter_signal", feed.state) == signals[0]
    finally:
        camera.shutter_signal.disconnect(noted)
    ended = len(camera.pictures)
    camera.cleanup()
    assert ended == len(camera.pictures)
    assert camera.cleanups


def test_a_camera_that_clears(app: Celery) -> None:
    """With clear_after what has ended is forgotten after each picture."""
    feed = Feed()
    feed.task("a", "succeeded")
    camera = Camera(feed.state, app=app)
    camera.clear_after = True
    camera.capture()
    assert ([1], 0, {}) == (camera.pictures, feed.state.event_count, dict(feed.state.tasks))


def test_too_many_pictures(app: Celery) -> None:
    """No more pictures are taken than maxrate says."""
    camera = Camera(State(), maxrate="1/h", app=app)
    camera.capture()
    camera.capture()
    assert 1 == len(camera.pictures)
