"""The page in a real browser, with a real broker and worker: what it shows, and what its buttons do."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from emq_compat.celery_shim import chain, chord, group
from emq_compat.message import Headers, Job, Publish
from tests.broker_process import Broker
from tests.browser import Browser, browser
from tests.processes import Procs, procs_in, unused_port, wait_until
from tests.site import imported

pytestmark = pytest.mark.integration

NAME = "dashproj"
TOKEN = "a-token-for-the-tests-of-the-page"
PROJECT = """
import os, time
from emq_compat.celery_shim import Celery, Reject

app = Celery({name!r}, broker={url!r})


@app.task
def add(x, y):
    return x + y


@app.task
def fail(text):
    raise ValueError(text)


@app.task
def sleep(seconds, *before):
    time.sleep(seconds)


@app.task
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


@app.task
def reject_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise Reject("not yet", requeue=False)
"""
#: Counts questions for a task, and turns of what asks again and again, which come fast.
COUNTING = """
window.asked = window.turns = 0;
const ask = window.fetch, later = window.setTimeout;
window.fetch = (path, ...more) => {
  if (String(path).startsWith("api/task")) window.asked++;
  return ask(path, ...more);
};
window.setTimeout = (call, ms) => {
  if (ms !== 2000) return later(call, ms);
  return later(() => { window.turns++; call(); }, 20);
};
"""
HOSTILE = '<img src=x onerror="document.title=1">&<b>no</b>'


class Scene:
    """A project with its broker, a worker and two dashboards, and a browser that looks at them."""

    def __init__(self, procs: Procs, folder: Path, window: Browser) -> None:
        self.window = window
        self.folder = folder
        self.broker = Broker(procs, unused_port, folder / "data")
        (folder / f"{NAME}.py").write_text(PROJECT.format(name=NAME, url=self.broker.url))
        self.broker.start()
        self.client = self.broker.client
        self.home = self._dashboard(procs)
        (folder / "token").write_text(TOKEN + "\n")
        self.locked = self._dashboard(
            procs, "--token-file", str(folder / "token"), "--read-only", "--show-args"
        )
        worker = ("worker", "-A", NAME, "-c", "2", "-n", "w@here", "-Q", "celery,work", "-l", "info")
        procs.emq(*worker, cwd=folder, ready="is ready", timeout_s=60)
        self.tasks = imported(folder / f"{NAME}.py")

    def _dashboard(self, procs: Procs, *options: str) -> str:
        port = unused_port()
        argv = ("dashboard", "-b", self.broker.url, "--listen", f"127.0.0.1:{port}", *options)
        procs.emq(*argv, ready="The dashboard of", timeout_s=60)
        return f"http://127.0.0.1:{port}/"

    def open(self) -> None:
        self.window.open(self.home)
        self.window.wait_for("live")

    def row(self, selector: str, *texts: str) -> str:
        """Wait until an element has all of these texts; returns its text."""

        def shown() -> str:
            text = self.window.text_of(selector)
            return text if text and all(one in text for one in texts) else ""

        try:
            return wait_until(shown, 20, interval_s=0.05)
        except TimeoutError as exc:
            self.window.shot("missing")
            raise AssertionError(f"{selector}: {self.window.text_of(selector)!r} lacks {texts}") from exc

    def mistakes(self) -> list[str]:
        """What the browser's console tells of, but for refusals that a test has asked for."""
        return [line for line in self.window.errors() if "401" not in line and "403" not in line]

    def queue(self, name: str) -> dict[str, Any]:
        return next(row for row in self.client.ask("queues") if row["name"] == name)

    def publish(self, queue: str, count: int = 1) -> None:
        payload = Job(path="m", callable="f").encode()
        for _ in range(count):
            self.client.publish(Publish(queue=queue, headers=Headers(guarantee=True), payload=payload))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    with procs_in(folder) as procs, browser(folder) as window:
        made = Scene(procs, folder, window)
        made.open()
        yield made
        made.tasks.app.close()
        made.client.close()
        sys.modules.pop(NAME, None)


def test_an_empty_broker_says_what_to_do(scene: Scene) -> None:
    """Sections without anything in them say what would be there, and how."""
    scene.open()
    text = scene.row("body", "Nothing has failed", "No dead letters.", "Nothing is scheduled.")
    assert "emq-compat beat -A myproj" in text
    scene.row("#verdict", "All is well")
    assert 0 == scene.window.shown("#asking")  # which is there before the program is
    assert scene.broker.url in scene.window.text_of("#about")


def test_a_queue_without_a_worker_is_the_first_thing_seen(scene: Scene) -> None:
    """What waits is counted as it comes, and the verdict names the queue that no worker takes from."""
    scene.publish("idle", 3)
    scene.row('[data-queue="idle"]', "no worker", "3")
    scene.row("#verdict", "Needs you now", "No worker takes from idle")
    scene.publish("idle")
    row = scene.row('[data-queue="idle"]', "4")
    assert str(scene.queue("idle")["waiting"]) in row
    scene.row("#t-waiting", "4")


def test_a_queue_is_paused_and_resumed(scene: Scene) -> None:
    """The button has the broker pause it, and then is one that has it go on."""
    scene.window.click('[aria-label="Pause idle"]')
    scene.row('[data-queue="idle"]', "paused")
    assert scene.queue("idle")["paused"] is True
    scene.row("#told", "idle is paused")
    scene.window.click('[aria-label="Resume idle"]')
    scene.row("#told", "idle goes on")
    assert scene.queue("idle")["paused"] is False


def test_a_purge_asks_for_the_queues_name(scene: Scene) -> None:
    """Without it nothing is dropped; with it all that waits."""
    scene.row('[data-queue="idle"]', "Purge")
    scene.window.click('[aria-label="Purge idle"]')
    scene.row("#ask", "Purge idle?", "4 messages", "Type idle to go on")
    scene.window.fill("#ask-name", "other")
    scene.window.click("#ask-yes")
    scene.row("#ask", "That is not idle.")
    assert 4 == scene.queue("idle")["waiting"]
    scene.window.fill("#ask-name", "idle")
    scene.window.click("#ask-yes")
    scene.row("#told", "4 messages of idle dropped.")
    assert 0 == scene.queue("idle")["waiting"]
    scene.row("#verdict", "All is well")


def test_failures_stand_in_groups_as_text(scene: Scene) -> None:
    """By task and exception, with number and traceback; what looks like markup is text."""
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            scene.tasks.fail.delay(HOSTILE).get(timeout=30)
    group = f'[data-failure="{NAME}.fail"]'
    scene.row(group, "3", "ValueError", HOSTILE)
    scene.window.click(f"{group} summary")
    scene.row(group, "Traceback (most recent call last)", "raise ValueError(text)", "Last tasks")
    assert 0 == scene.window.count("#page img, #page b b, #failure-list script")
    with pytest.raises(TypeError):
        scene.tasks.add.delay("1", 2).get(timeout=30)
    scene.row("#failure-list", f"in {NAME}.add", "TypeError")
    order = "return [...document.querySelectorAll('#failure-list details')].map((one) => one.dataset.failure)"
    assert [f"{NAME}.fail", f"{NAME}.add"] == scene.window.ask(order), "what is read stays where it is"
    scene.row("#verdict", "Worth a look", "4 tasks failed in the last 5 minutes")
    scene.window.click(f"{group} summary")


def test_a_worker_is_shown_scaled_and_relieved(scene: Scene) -> None:
    """Its card has what runs and its children; grow, shrink and terminate do what they say."""
    card = '[data-worker="w@here"]'
    running = scene.tasks.sleep.apply_async((600,), queue="work")
    scene.row(card, "1 of 2 busy", f"{NAME}.sleep", "celery, work")
    scene.window.click(f"{card} details summary")
    [stats] = scene.client.inspect("stats").values()
    pids = stats["ok"]["pool"]["processes"]
    scene.row(f"{card} .kids", f"{NAME}.sleep", "idle", *(f"pid {pid}" for pid in pids))
    opens = f'{card} .kids button[title="{running.id}"]'
    assert 1 == scene.window.count(opens), "a child's next task of the same name is another button"
    scene.window.click('[aria-label="One slot more on w@here"]')
    scene.row(card, "1 of 3 busy")
    [stats] = scene.client.inspect("stats").values()
    assert 3 == stats["ok"]["pool"]["max-concurrency"]
    scene.window.click('[aria-label="One slot less on w@here"]')
    scene.row(card, "1 of 2 busy")
    scene.window.click(f"{card} .running button.grave")
    scene.row("#ask", f"Terminate {NAME}.sleep?", running.id)
    scene.window.click("#ask-yes")
    scene.row("#told", f"{running.id} is being terminated.")
    wait_until(lambda: running.state == "REVOKED", 30, what="the end of the task")
    scene.row(card, "0 of 2 busy")


def test_dead_letters_are_requeued_and_dropped(scene: Scene) -> None:
    """One is run again, one is dropped, then all; the broker has as many as the page says."""
    for n in range(4):
        scene.tasks.reject_once.delay(str(scene.folder / f"tried{n}"))
    scene.row("#n-dead", "4")
    scene.row("#verdict", "4 dead letters wait for a decision")
    scene.row("#dead", f"{NAME}.reject_once", "rejected by the task", "celery")
    first, second, *_ = scene.client.ask("dead_list")
    scene.window.click(f'[data-dead="{first["key"]}"] button[aria-label^="Requeue"]')
    scene.row("#told", "1 dead letter put back into the queue.")
    wait_until(lambda: scene.client.results([first["task_id"]])[first["task_id"]], 30, what="its result")
    assert "SUCCESS" == scene.client.results([first["task_id"]])[first["task_id"]].state  # type: ignore[union-attr]
    scene.window.click(f'[data-dead="{second["key"]}"] button[aria-label^="Drop"]')
    scene.window.click("#ask-yes")
    scene.row("#told", "1 dead letter dropped.")
    scene.row("#n-dead", "2")
    rest = [letter["task_id"] for letter in scene.client.ask("dead_list")]
    assert 2 == len(rest)
    scene.window.click('[data-do="requeue-all"]')
    scene.row("#ask", "2 messages go back into their queues")
    scene.window.click("#ask-yes")
    scene.row("#told", "2 dead letters put back into the queue.")
    wait_until(lambda: all(scene.client.results(rest).values()), 30, what="their results")
    scene.row("#dead", "No dead letters.")
    for n in range(2):
        scene.tasks.reject_once.delay(str(scene.folder / f"again{n}"))
    scene.row("#n-dead", "2")
    scene.window.click('[data-do="drop-all"]')
    scene.window.fill("#ask-name", "drop all")
    scene.window.click("#ask-yes")
    scene.row("#dead", "No dead letters.")
    assert [] == scene.client.ask("dead_list")


def test_schedules_have_their_next_run(scene: Scene) -> None:
    """An entry of a beat is there with when it is next, as the beat says."""
    entry = {"name": "tidy up", "task": "t.tidy", "shown": "<freq: 1.00 hour>", "last_run_at": time.time()}
    entries = [{**entry, "next_at": time.time() + 7300}]
    scene.client.ask("periodic_begin", schedule="s", entries=entries, only=True)
    scene.row('[data-schedule="tidy up"]', "t.tidy", "every hour", "in 2 h", "beat (s)")


def test_a_task_is_found_with_its_workflow(scene: Scene) -> None:
    """By the id of any step: what has ended, what runs, what is to come; and it is revoked from there."""
    steps = chain(scene.tasks.add.s(1, 2), scene.tasks.sleep.si(600), scene.tasks.add.si(3, 4))
    last = steps.apply_async()
    middle, first = last.parent, last.parent.parent
    first.get(timeout=30)
    scene.window.press("/")
    scene.window.fill("#find-id", middle.id)
    scene.window.press_enter("#find-id")
    text = scene.row("#task", "▸ runs", "on w@here", "next step", "to come")
    assert middle.id in text
    assert 1 == scene.window.count(f'#task [data-task="{last.id}"]')
    scene.window.ask("window.held = document.querySelectorAll('#task .do button, #task .tree button')")
    wait_until(lambda: scene.window.text_of("#task") not in ("", text), what="more seconds")
    # Its result doesn't name it: the page has that from the next look at all workflows.
    scene.row(f'#task [data-task="{first.id}"] button', f"{NAME}.add")
    held = scene.window.ask("return [...window.held].map((one) => one.isConnected)")
    assert 5 * [True] == held, "a press under way is not lost while the time runs on"
    scene.window.click("#task .do button")
    scene.row("#told", f"{middle.id} is revoked.")
    scene.window.click("#task [data-close]")
    scene.client.ask("revoke", ids=[middle.id], terminate=True)
    wait_until(lambda: middle.state == "REVOKED", 30, what="the end of the step")
    body = chord([scene.tasks.add.s(1, 1), scene.tasks.sleep.si(600)])(scene.tasks.add.si(0, 0))
    scene.window.fill("#find-id", body.id)
    scene.window.press_enter("#find-id")
    scene.row("#task", "held", "1 of 2 parts have ended")
    scene.window.click("#task [data-close]")
    scene.client.ask("revoke", ids=[part.id for part in body.parent.results], terminate=True)
    scene.window.fill("#find-id", "no-such-task")
    scene.window.press_enter("#find-id")
    scene.row("#task", "The broker knows no task with this id.")
    scene.window.click("#task [data-close]")


def test_workflows_are_listed_and_lead_to_their_trees(scene: Scene) -> None:
    """A chain while it runs and when it is done, a group, and a chord that failed; a row opens the tree."""
    add, go = scene.tasks.add, scene.folder / "go"
    first = chain(add.s(1, 2), scene.tasks.wait_for.si(str(go)), add.si(3, 4)).apply_async().parent.parent
    together = group([add.s(n, n) for n in range(3)]).apply_async(queue="idle")
    header = chord([add.s(1, 1), add.s(1, "1")])(add.si(0, 0)).parent
    row, idle = f'[data-workflow="{first.id}"]', f'[data-workflow="{together.id}"]'
    scene.row(row, f"{NAME}.add", "chain", "runs", f"with {NAME}.wait_for")
    scene.row(idle, f"{NAME}.add", "group", "waits", "3")
    scene.row(f'[data-workflow="{header.id}"]', f"{NAME}.add", "chord", "failed")
    scene.window.click(f"{row} button")
    scene.row("#task", "done", "runs", "to come")
    scene.window.click("#task [data-close]")
    go.touch()
    scene.window.click(f"{idle} button")
    scene.row("#task", "3 tasks together", "waits in idle")
    assert 4 == scene.window.count("#task .tree li")
    scene.window.click("#task [data-close]")
    scene.row(row, "✓ done", "3")
    scene.window.click(f"{row} button")
    scene.row("#task", f"{NAME}.add", "Workflow")
    assert (3, 3) == (scene.window.count("#task .tree li"), scene.window.count("#task .tree .tag.ok"))
    scene.window.click("#task [data-close]")
    scene.client.ask("purge", queue="idle")


def test_a_hidden_page_asks_nothing(scene: Scene) -> None:
    """An open task is asked for again and again, not while the page is hidden, and then again."""
    scene.open()
    scene.window.ask(COUNTING)
    scene.window.fill("#find-id", "no-such-task")
    scene.window.press_enter("#find-id")
    asked, turns = "return window.asked", "return window.turns"
    wait_until(lambda: scene.window.ask(asked) >= 3, what="questions")
    scene.window.ask("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    before = scene.window.ask(turns)
    # One may be under way.
    wait_until(lambda: scene.window.ask(turns) >= before + 2, what="turns while it is hidden")
    count, before = scene.window.ask(asked), scene.window.ask(turns)
    wait_until(lambda: scene.window.ask(turns) >= before + 3, what="turns while it is hidden")
    assert count == scene.window.ask(asked)
    scene.window.ask("delete document.hidden")
    wait_until(lambda: scene.window.ask(asked) >= count + 2, what="questions again")
    scene.open()


def test_it_works_by_keyboard(scene: Scene) -> None:
    """Buttons are reached and pressed, and a dialog is left, without a pointer."""
    scene.publish("keys")
    scene.row('[data-queue="keys"]', "1")
    scene.window.ask("""document.querySelector('[aria-label="Pause keys"]').focus()""")
    scene.window.press(Keys.ENTER)
    scene.row('[data-queue="keys"]', "paused")
    assert scene.queue("keys")["paused"] is True
    scene.window.press(Keys.TAB)
    scene.window.press(Keys.ENTER)
    scene.row("#ask", "Purge keys?")
    scene.window.press(Keys.ESCAPE)
    wait_until(lambda: not scene.window.shown("#ask"), what="the dialog to close")
    assert 1 == scene.queue("keys")["waiting"]
    scene.client.ask("purge", queue="keys")
    scene.client.ask("resume_queue", queue="keys")


def test_it_fits_a_phone_and_goes_dark(scene: Scene) -> None:
    """At 360 px nothing is wider than the page, and the colours follow the system and the button."""
    scene.window.resize(360, 800)
    wide = scene.window.ask("return document.documentElement.scrollWidth")
    assert 360 == wide
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = scene.window.ask(colour)
    scene.window.prefer("dark")
    dark = scene.window.ask(colour)
    scene.window.click("#theme")
    assert ("Dark", dark) == (scene.window.text_of("#theme"), scene.window.ask(colour))
    scene.window.click("#theme")
    assert ("Light", light) == (scene.window.text_of("#theme"), scene.window.ask(colour))
    scene.window.click("#theme")
    assert ("Auto", dark) == (scene.window.text_of("#theme"), scene.window.ask(colour))
    assert light != dark
    scene.window.prefer("light")
    scene.window.resize(1300, 1000)


def test_a_locked_dashboard_asks_for_its_token_and_only_shows(scene: Scene) -> None:
    """Nothing is there before the token; --read-only has no buttons, --show-args arguments."""
    scene.window.open(scene.locked)
    scene.row("#login", "Log in")
    assert "" == scene.window.text_of("#page")
    scene.window.fill("#token", "wrong token, and long enough")
    scene.window.click("#login button")
    scene.row("#login", "This is not the token.")
    scene.window.fill("#token", TOKEN)
    scene.window.click("#login button")
    scene.row('[data-queue="celery"]', "celery")
    assert ("read only" in scene.window.text_of("#about"), 0) == (True, scene.window.shown(".acts button"))
    waiting = scene.tasks.add.apply_async((4711, 2), queue="idle")
    scene.window.fill("#find-id", waiting.id)
    scene.window.press_enter("#find-id")
    scene.row("#task", "waits in idle", "4711, 2")
    assert 0 == scene.window.shown("#task .do button")
    scene.window.click("#task [data-close]")
    scene.window.click("#leave")
    scene.row("#login", "Log in")
    assert [] == scene.mistakes()


@pytest.mark.long
def test_the_page_survives_the_brokers_restart(scene: Scene) -> None:
    """While it is away the page says so, and goes on by itself."""
    scene.open()
    assert scene.broker.proc is not None
    scene.broker.proc.kill()
    scene.row("#verdict", "The broker doesn't answer")
    scene.row("#fresh", "what stands below is as it was")
    scene.window.open(scene.locked)  # where nobody has looked for a while
    scene.row("#login", "Log in")
    scene.window.fill("#token", TOKEN)
    scene.window.click("#login button")
    scene.row("#verdict", "The broker doesn't answer")
    scene.row("#fresh", "nothing has been seen of it yet")
    scene.window.open(scene.home)
    scene.broker.start()
    scene.row("#verdict", "No worker takes from idle")
    scene.row("#fresh", "live")
    assert [] == scene.mistakes()
