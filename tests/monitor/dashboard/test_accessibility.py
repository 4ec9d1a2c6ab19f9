"""The page for who uses a keyboard or a screen reader: in a real browser, of a broker that tells tales."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
from selenium.webdriver.common.keys import Keys

from emq_compat.client import Client
from emq_compat.message import Job
from emq_compat.monitor.dashboard.access import Access
from emq_compat.monitor.dashboard.serve import server
from emq_compat.monitor.dashboard.web import Shown
from tests.browser import Browser, browser
from tests.monitor.dashboard.fake import FakeBroker
from tests.monitor.overview import test_workflows as workflows
from tests.monitor.overview.test_history import failure, overview, queue, worker
from tests.processes import wait_until

pytestmark = pytest.mark.integration

SCHEDULE = {"schedule": "s", "name": "tidy", "task": "t.tidy", "shown": "<freq: 1.00 hour>", "last": None}
DEAD = {"msgid": "m", "queue": "mail", "task": "t.send", "reason": "rejected by the task", "at": 1000.0}
#: Of all text that is seen: how much there is, and that whose contrast to what is behind it is too little.
PALE = """
const parse = (text) => {
  const parts = text.match(/[\\d.]+/g).map(Number);
  const values = parts.slice(0, 3).map((part) => (text.startsWith("color(") ? part * 255 : part));
  return [...values, parts[3] ?? 1];
};
const over = (top, below) => top.slice(0, 3).map((part, i) => part * top[3] + below[i] * (1 - top[3]));
const linear = (part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
const light = (colour) => {
  const [r, g, b] = colour.map((part) => linear(part / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  const colour = parse(getComputedStyle(element).backgroundColor);
  if (colour[3] === 1) return colour;
  return over(colour, element.parentElement ? behind(element.parentElement) : [255, 255, 255]);
};
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
  if (!text || !element.checkVisibility() || element.closest("[aria-disabled=true], .unseen")) continue;
  const style = getComputedStyle(element), back = behind(element), size = parseFloat(style.fontSize);
  const [dark, bright] = [light(over(parse(style.color), back)), light(back)].sort((a, b) => a - b);
  const large = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700);
  found.push([text, (bright + 0.05) / (dark + 0.05), large ? 3 : 4.5]);
}
return [found.length, found.filter(([, ratio, least]) => ratio < least)];
"""
#: Notes what changes in regions whose changes are read out; returns how many there are.
SPOKEN = """
window.spoken = [];
const regions = document.querySelectorAll("[aria-live], [role=status], [role=alert]");
const what = {subtree: true, childList: true, characterData: true};
const note = (changes) => spoken.push(...changes.map((one) => one.target.textContent));
const observer = new MutationObserver(note);
for (const region of regions) observer.observe(region, what);
return regions.length;
"""
#: Whether each section has come.
WHOLE = """
const sections = ["queue", "worker", "failure", "dead", "workflow", "schedule"];
return sections.every((name) => document.querySelector(`[data-${name}]`));
"""
#: The name of what has the focus, and whether that is seen.
FOCUSED = """
const one = document.activeElement, style = getComputedStyle(one);
const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
return [one.getAttribute("aria-label") ?? one.textContent, seen];
"""
INSIDE = """
const one = document.activeElement;
return one === document.body || document.querySelector("#task").contains(one);
"""
REVOKE = "[...document.querySelectorAll('#task button')].find((one) => one.textContent === 'Revoke').focus()"


class Shop(FakeBroker):
    """A broker at work: with each look a second has passed and something was handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.failed = 1
        self.dead = [1, 2, 3]
        self.dead_as: dict[str, str] = {}
        #: What stands in its answers instead of these words.
        self.words: dict[str, str] = {}
        self.traces = 0
        #: Further queues and workers.
        self.crowd: tuple[list[Any], list[Any]] = [], []
        payload = Job(path="m", callable="f", celery={"group": "g"}).encode().decode()
        members = [{**workflows.member(one, "waiting"), "payload": payload} for one in ("m1", "m2")]
        last = [workflows.ended("e1", "e1", goes_on=True)]
        self.answers["workflows"] = workflows.told(members=members, ended=last)

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        text = json.dumps(self._answer(verb, timeout_s, arguments))
        for word, instead in self.words.items():
            text = text.replace(word, instead)
        return json.loads(text)

    def _answer(self, verb: str, timeout_s: float | None, arguments: dict[str, Any]) -> Any:
        if verb == "overview":
            return self._overview(arguments)
        if verb == "dead_list":
            return [{**DEAD, **self.dead_as, "key": key, "task_id": f"dead-{key}"} for key in self.dead]
        if verb == "dead_requeue":
            self.dead = [key for key in self.dead if key not in arguments["keys"]]
            return 1
        if verb == "trace":
            self.traces += 1
            runs = {"where": "running", "task": "t.add", "queue": "mail", "worker": "w@here", "attempt": 1}
            return {one: {**runs, "for_s": float(self.traces), "payload": None} for one in arguments["ids"]}
        return super().ask(verb, timeout_s, **arguments)

    def _overview(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self.looks += 1
        looks = self.looks
        queues = [queue("mail", waiting=looks % 7 + 3, handed_out=5 * looks, oldest_s=61.0, delayed=3)]
        queues += [queue("idle", waiting=2, workers=0, oldest_s=1.0), queue("off", paused=True)]
        running = [{"task": "t.add", "task_id": "r1", "queue": "mail", "for_s": float(looks), "attempt": 2}]
        at = {"pid": 5, "hostname": "here", "stock": False, "silent_s": 1.0, "finished": looks}
        queues += self.crowd[0]
        workers = [
            worker("w@here", busy=1, running=running, **at),
            worker("away", **{**at, "present": False}),
        ]
        more = (
            {"schedules": [], "periodic": [{**SCHEDULE, "next": 5000.0, "total": 5}]}
            if arguments["schedules"]
            else {}
        )
        return overview(
            100.0 + looks,
            queues=queues,
            queues_total=len(queues),
            waiting=5,
            workers=[*workers, *self.crowd[1]],
            failures=[failure(self.failed)] if arguments["failures_after"] < self.failed else [],
            failed_by_task={"t": 1},
            dead=len(self.dead),
            counters={"published": 5 * looks, "finished": 5 * looks, "failed": 1},
            **more,
        )


class Scene:
    """The page of a shop, in a window."""

    def __init__(self, shop: Shop, window: Browser, url: str) -> None:
        self.shop = shop
        self.window = window
        self.url = url

    def open(self) -> None:
        self.window.open(self.url)
        wait_until(lambda: self.window.ask(WHOLE), 30, interval_s=0.02, what="the page")

    def later(self, looks: int = 3) -> None:
        """Wait until the page has been told of as many further looks."""
        for _ in range(looks):
            known = ("", self._told())
            wait_until(lambda known=known: self._told() not in known, 20, interval_s=0.02)  # type: ignore[misc]

    def _told(self) -> str:
        return self.window.text_of("[data-worker='w@here']")

    def focused(self) -> str:
        return str(self.window.ask(FOCUSED)[0])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("scene")
    shop = Shop()
    client = cast("Client", shop)
    served = server(client, Access("127.0.0.1", ""), Shown(url="emq://here"), every_s=0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener, browser(folder) as window:
        thread = threading.Thread(target=served.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            made = Scene(shop, window, f"http://127.0.0.1:{listener.getsockname()[1]}/")
            made.open()
            yield made
        finally:
            served.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def value(node: dict[str, Any], name: str) -> Any:
    return node.get(name, {}).get("value")


def focusable(node: dict[str, Any]) -> bool:
    return any(one["name"] == "focusable" and one["value"]["value"] for one in node.get("properties", ()))


@pytest.mark.parametrize("width", [1300, 375])
def test_every_control_has_a_name_and_a_role(scene: Scene, width: int) -> None:
    """Buttons that do the same to different things are told apart by their names."""
    scene.window.resize(width, 900)
    scene.open()
    scene.window.click("#failure-list summary")
    nodes = scene.window.nodes()
    controls = [
        node for node in nodes if focusable(node) and value(node, "role") not in ("RootWebArea", "main")
    ]
    assert len(controls) > 30
    assert [] == [node for node in controls if not value(node, "name") or value(node, "role") == "generic"]
    buttons = [node for node in controls if value(node, "role") == "button"]
    # Of those that open tasks of the same name, the title is the id.
    told = [(value(node, "name"), value(node, "description")) for node in buttons]
    assert sorted(set(told), key=str) == sorted(told, key=str)
    names = [name for name, _ in told]
    assert {"Pause mail", "Purge idle", "Requeue t.send dead-1", "One slot more on w@here"} <= set(names)
    scene.window.resize(1300, 1000)


@pytest.mark.parametrize("width", [1300, 375])
def test_tables_have_headers(scene: Scene, width: int) -> None:
    """On a phone, too, where they aren't seen as tables; each has a name, and each row as many cells."""
    scene.window.resize(width, 900)
    scene.open()
    nodes = {node["nodeId"]: node for node in scene.window.nodes()}

    def inside(node: dict[str, Any], role: str) -> list[dict[str, Any]]:
        below = [nodes[one] for one in node.get("childIds", ()) if one in nodes]
        return [one for one in below if value(one, "role") == role] + [
            found for one in below for found in inside(one, role)
        ]

    tables = [node for node in nodes.values() if value(node, "role") == "table"]
    assert {"Queues", "Dead letters", "Workflows", "Schedules"} == {value(table, "name") for table in tables}
    for table in tables:
        heads = inside(table, "columnheader")
        rows = inside(table, "row")
        assert all(value(head, "name") for head in heads)
        assert {len(heads)} == {len(inside(row, "cell")) or len(heads) for row in rows[1:]}, value(
            table, "name"
        )
        assert len(rows) > 1
    scene.window.resize(1300, 1000)


def test_what_is_read_out_is_little(scene: Scene) -> None:
    """While numbers change nothing is said; what somebody did is said once."""
    scene.open()
    assert scene.window.ask(SPOKEN) >= 3
    polite = "return [...document.querySelectorAll('[aria-live]')].every((one) => one.ariaLive === 'polite')"
    assert scene.window.ask(polite)
    scene.later(5)
    assert [] == scene.window.ask("return window.spoken")
    scene.shop.answers["pause_queue"] = True
    scene.window.click('[aria-label="Pause mail"]')
    scene.window.wait_for("mail is paused")
    scene.later(3)
    assert 1 == len(scene.window.ask("return window.spoken"))


def test_the_focus_is_seen_wherever_it_goes(scene: Scene) -> None:
    """Each stop of the tab key has an outline."""
    scene.open()
    stops: list[str] = []
    while "Requeue t.send dead-2" not in stops and len(stops) < 60:
        scene.window.press(Keys.TAB)
        name, seen = scene.window.ask(FOCUSED)
        assert seen, name
        stops.append(name)
    assert "Skip to the queues" == stops[0]
    assert {"Pause mail", "One slot less on w@here", "Requeue t.send dead-1"} <= set(stops)


def test_the_focus_stays_where_it_is(scene: Scene) -> None:
    """Through updates, and through an action; when its row goes it is on the same button of the next one."""
    scene.open()
    scene.shop.answers["pause_queue"] = False
    scene.window.ask("""document.querySelector('[aria-label="Pause mail"]').focus()""")
    scene.later()
    assert "Pause mail" == scene.focused()
    scene.window.press(Keys.ENTER)
    scene.window.wait_for("mail is paused already")
    assert "Pause mail" == scene.focused()
    scene.window.ask("""document.querySelector('[aria-label="Requeue t.send dead-1"]').focus()""")
    scene.window.press(Keys.ENTER)
    wait_until(lambda: scene.window.count("[data-dead]") == 2, 20, what="the row to go")
    assert "Requeue t.send dead-2" == scene.focused()
    scene.window.press(Keys.ENTER)
    wait_until(lambda: scene.window.count("[data-dead]") == 1, 20, what="the row to go")
    assert "Requeue t.send dead-3" == scene.focused()
    scene.window.press(Keys.ENTER)
    wait_until(lambda: scene.window.count("[data-dead]") == 0, 20, what="the row to go")
    assert "Dead letters" == scene.focused()
    scene.shop.dead = [1, 2, 3]


def test_a_dialog_keeps_the_focus_and_gives_it_back(scene: Scene) -> None:
    """The tab key goes round in it, what is drawn anew keeps the focus, and what opened it gets it back."""
    scene.open()
    opener = "document.querySelector('.running .link')"
    scene.window.ask(f"{opener}.focus()")
    scene.window.press(Keys.ENTER)
    scene.window.wait_for("on w@here for")
    scene.window.ask(REVOKE)
    before = scene.window.text_of("#task")
    wait_until(lambda: scene.window.text_of("#task") not in ("", before), 20, what="what is new")
    assert "Revoke" == scene.focused()
    for _ in range(6):
        scene.window.press(Keys.TAB)
        assert scene.window.ask(INSIDE)
    scene.window.press(Keys.ESCAPE)
    wait_until(lambda: not scene.window.shown("#task"), 20, what="the dialog to close")
    assert scene.window.ask(f"return document.activeElement === {opener}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scene: Scene, scheme: str) -> None:
    """At least 4.5 to 1, and 3 to 1 where it is large; also in dialogs."""
    scene.window.prefer(scheme)
    scene.open()
    scene.window.click("#failure-list summary")
    seen, pale = scene.window.ask(PALE)
    assert seen > 100
    assert [] == pale
    scene.window.click(".running .link")
    scene.window.wait_for("on w@here for")
    scene.window.click("#task .grave")
    assert [] == scene.window.ask(PALE)[1]
    scene.window.prefer("light")


def test_of_many_those_that_want_a_look_come_first(scene: Scene) -> None:
    """Forty queues and workers are shown, the others on demand, or found by their names."""
    queues = [queue(f"q{n:03}", waiting=n) for n in range(60)]
    queues[50] = queue("q050", waiting=1, workers=0)
    at = {"pid": 5, "hostname": "here", "stock": False, "silent_s": 1.0}
    scene.shop.crowd = queues, [worker(f"w{n:03}", **at) for n in range(43)]
    scene.open()
    first = (
        "return [...document.querySelectorAll('[data-queue]')].slice(0, 2).map((one) => one.dataset.queue)"
    )
    assert ["idle", "q050"] == scene.window.ask(first)
    assert (40, 40) == (scene.window.count("[data-queue]"), scene.window.count("[data-worker]"))
    assert "23 more queues" in scene.window.text_of("#queues-more")
    scene.window.fill("#queues-filter", "Q01")
    wait_until(lambda: scene.window.count("[data-queue]") == 10, 20, what="those that are wanted")
    assert "10 queues of 63 with “q01”." in scene.window.text_of("#queues-more")
    scene.window.fill("#queues-filter", "none")
    wait_until(lambda: scene.window.count("[data-queue]") == 0, 20, what="those that are wanted")
    scene.window.fill("#queues-filter", "q")
    scene.window.fill("#queues-filter", Keys.BACKSPACE)
    wait_until(lambda: scene.window.count("[data-queue]") == 40, 20, what="the first ones")
    scene.window.click("#queues-more button")
    wait_until(lambda: scene.window.count("[data-queue]") == 63, 20, what="all of them")
    scene.window.click("#workers-more button")
    wait_until(lambda: scene.window.count("[data-worker]") == 45, 20, what="all of them")
    assert "Workers" == scene.focused()
    scene.shop.crowd = [], []


def test_what_is_told_is_text(scene: Scene) -> None:
    """Whatever looks like markup, in each place where a name or a message stands."""
    hostile = "<img src=x onerror=document.title=1>&<script>document.title=2</script>"
    words = ("mail", "idle", "t.add", "w@here", "t.send", "rejected by the task", "tidy", "1.00 hour", "t.m1")
    words += ("ValueError", "no 2", "Trace 2")
    scene.shop.words, scene.shop.failed = dict.fromkeys(words, hostile), 2
    scene.open()
    scene.window.click("#failure-list summary")
    scene.window.click(".running .link")
    scene.window.wait_for("for")
    scene.window.click("#task .grave")
    tables = ("queue-table", "dead-table", "workflow-table", "schedule-table")
    for place in (*tables, "reasons", "worker-list", "failure-list", "task", "ask"):
        assert hostile in scene.window.text_of(f"#{place}"), place
    assert (1, 2) == (scene.window.count("img"), scene.window.count("script"))
    assert "Needs you now" in scene.window.ask("return document.title")
    scene.shop.words = {}


@pytest.mark.parametrize("width", [1300, 375])
def test_names_without_end_fit(scene: Scene, width: int) -> None:
    """Names and reasons without a place for a break make the page no wider, and no column a letter wide."""
    name, shop = "n" * 250, scene.shop
    about: dict[str, Any] = {"queues": [name], "hostname": name, "pid": 5}
    shop.crowd = (
        [queue(name, waiting=9_999_999, workers=0)],
        [worker(name, **about)],
    )
    shop.dead_as = {"task": name, "reason": name, "queue": name}
    scene.window.resize(width, 900)
    scene.open()
    shop.crowd, shop.dead_as = ([], []), {}
    wide = scene.window.ask("return document.documentElement.scrollWidth")
    assert width - 15 <= wide <= width
    widths = "return [...document.querySelectorAll('td .name')].map((one) => one.closest('td').clientWidth)"
    assert min(scene.window.ask(widths)) > 150
    scene.window.resize(1300, 1000)


def test_a_browser_that_cannot_run_it_says_so(scene: Scene) -> None:
    """Where the page's modules are not run, as in an old browser, a notice is there instead of nothing."""
    scene.open()
    assert 0 == scene.window.shown("#old")
    scene.window.block("*/dashboard.js")
    scene.window.open(scene.url)
    scene.window.wait_for("needs a browser of the last few years", "emq-compat top")
    scene.window.block()
    scene.window.errors()
