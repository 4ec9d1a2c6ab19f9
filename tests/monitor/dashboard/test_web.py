"""The dashboard's HTTP: what is answered to whom, and what each action asks the broker."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from emq_compat.client import Client
from emq_compat.errors import BrokerRefused
from emq_compat.message import Headers, Job
from emq_compat.monitor.dashboard import web
from emq_compat.monitor.dashboard.access import Access
from emq_compat.monitor.dashboard.watch import Watch
from emq_compat.monitor.dashboard.web import Shown, application
from tests.monitor.dashboard.fake import FakeBroker

pytestmark = pytest.mark.unit

TOKEN = "t0ken-of-sixteen-or-more"
PAGE = Path(web.__file__).with_name("page")
HOME = "http://127.0.0.1:8420"


class Site:
    """A dashboard without sockets, and a browser's requests to it."""

    def __init__(self, token: str = "", **shown: Any) -> None:
        self.broker = FakeBroker()
        client = cast("Client", self.broker)
        access = Access("127.0.0.1", token)
        self.watch = Watch(client, every_s=0.01)
        self.app = application(client, access, Shown(url="emq://here", **shown), self.watch)
        self.cookies = httpx.Cookies()
        self.secret = ""

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return asyncio.run(self.ask(method, path, **more))

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, client=("10.1.2.3", 5))
        async with httpx.AsyncClient(transport=transport, base_url=HOME, cookies=self.cookies) as client:
            response = await client.request(method, path, **more)
            self.cookies = client.cookies
            return response

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def act(self, action: str, headers: dict[str, str] | None = None, **given: Any) -> httpx.Response:
        if not self.secret:
            self.secret = self.get("/api/session").json().get("secret", "")
        sent = {"X-Emq-Secret": self.secret, "Origin": HOME, **(headers or {})}
        return self.request("POST", f"/api/do/{action}", json=given, headers=sent)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/dashboard.js",
        "/queues.js",
        "/dashboard.css",
        "/icon.svg",
        "/api/session",
        "/api/task",
        "/nothing",
        "/api/do/x",
    ],
)
def test_every_answer_has_the_headers(path: str) -> None:
    """The page may load and run only what is its own, nobody may frame it, and nothing is kept."""
    headers = Site().get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert ("nosniff", "no-store") == (headers["x-content-type-options"], headers["cache-control"])


def test_the_page_is_of_one_piece() -> None:
    """It names no other site, has no script or style of its own within, and no handler in its tags."""
    page = Site().get("/").text
    for forbidden in ("http://", "https://", "<style", "style=", "onclick", "javascript:", "<script>"):
        assert forbidden not in page
    scripts, found = ["/dashboard.js", "/old.js"], ""
    for path in scripts:  # each adds those that it imports
        response = Site().get(path)
        assert 200 == response.status_code, path
        imported = re.findall('"[.](/.*)";', response.text)
        scripts += [name for name in imported if name not in scripts]
        found += response.text
    assert {file.name for file in PAGE.glob("*.js")} == {path[1:] for path in scripts}
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://"):
        assert forbidden not in found


def test_another_name_is_refused() -> None:
    """Under a name that was made to point here neither the page nor anything else is answered."""
    site = Site()
    for path in ("/", "/api/session", "/api/task?id=x"):
        assert 421 == site.get(path, headers={"Host": "evil.example"}).status_code
    assert [] == site.broker.asked


def test_without_the_token_nothing_is_told() -> None:
    """With a token each question is refused until the browser has logged in; the cookie is for HTTP alone."""
    site = Site(TOKEN)
    for path in (
        "/api/session",
        "/api/updates",
        "/api/task?id=x",
        "/api/worker?name=w",
        "/api/dead",
        "/api/dead/1",
    ):
        assert 401 == site.get(path).status_code, path
    assert 401 == site.act("purge", queue="q", confirmed="q").status_code
    assert [] == site.broker.asked
    wrong = site.request("POST", "/api/login", json={"token": "wrong"})
    assert (403, "This is not the token.") == (wrong.status_code, wrong.json()["error"])
    right = site.request("POST", "/api/login", json={"token": TOKEN})
    cookie = right.headers["set-cookie"]
    assert all(term in cookie for term in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert "Secure" not in cookie
    over_tls = site.request("POST", "https://127.0.0.1:8420/api/login", json={"token": TOKEN})
    assert "Secure" in over_tls.headers["set-cookie"]
    site.request("POST", "/api/login", json={"token": TOKEN})
    assert site.get("/api/session").json()["leaves"] is True
    site.secret = site.get("/api/session").json()["secret"]
    headers = {"X-Emq-Secret": site.secret}
    assert 200 == site.request("POST", "/api/logout", json={}, headers=headers).status_code
    assert 401 == site.get("/api/session").status_code


def test_updates_end_with_their_session() -> None:
    """A page that is open when its session ends is told nothing more, and asks again without being let in."""
    site = Site(TOKEN)
    assert 200 == site.request("POST", "/api/login", json={"token": TOKEN}).status_code
    headers = {"X-Emq-Secret": site.get("/api/session").json()["secret"]}

    async def scene() -> None:
        updates = asyncio.create_task(site.ask("GET", "/api/updates"))
        await site.broker.until(lambda: site.watch.looks >= 2)
        await site.ask("POST", "/api/logout", json={}, headers=headers)
        response = await asyncio.wait_for(updates, 20)
        assert (200, True) == (response.status_code, '"verdict"' in response.text)
        assert 401 == (await site.ask("GET", "/api/updates")).status_code
        assert 0 == site.watch.browsers
        await site.watch.close()

    asyncio.run(scene())


def test_a_task_is_told_with_those_that_were_seen_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The members of a group, which don't name each other, by what the watch has seen."""
    site = Site()
    monkeypatch.setattr(site.watch, "beside", lambda task_id: {"a": "t.a", "b": "t.b"})
    site.broker.answers["trace"] = {one: {"where": "unknown", "state": "SUCCESS"} for one in "ab"}
    tree = site.get("/api/task?id=a").json()["tree"]
    assert ["t.a", "t.b"] == [child["task"] for child in tree["children"]]


def test_pages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many pages can be open; a further one is refused, and told why."""
    monkeypatch.setattr(web, "_BROWSERS", 1)
    site = Site()

    async def scene() -> None:
        first = asyncio.create_task(site.ask("GET", "/api/updates"))
        await site.broker.until(lambda: site.watch.browsers)
        refused = await asyncio.wait_for(site.ask("GET", "/api/updates"), 20)
        assert (503, True) == (refused.status_code, "no more can be" in refused.json()["error"])
        first.cancel()
        await asyncio.wait((first,))
        await site.watch.close()

    asyncio.run(scene())


def test_what_was_changed_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an action the broker is asked again, not after one that was refused."""
    site = Site()
    looks: list[str] = []
    monkeypatch.setattr(site.watch, "look_soon", lambda: looks.append("look"))
    assert 409 == site.act("pause").status_code
    site.broker.answers["pause_queue"] = True
    assert ([], 200, ["look"]) == ([*looks], site.act("pause", queue="q").status_code, looks)


def test_characters_that_utf_8_cannot_have() -> None:
    """What a task has raised is told whatever is in it; such a token is a wrong one like others."""
    site = Site(TOKEN)
    token = {"content": b'{"token":"\\ud800"}', "headers": {"Content-Type": "application/json"}}
    assert 403 == site.request("POST", "/api/login", **token).status_code
    site = Site()
    reply = json.dumps({"error": {"type": "ValueError", "message": "\ud800"}})
    site.broker.answers["trace"] = {"t": {"where": "unknown", "state": "FAILURE", "reply": reply}}
    assert "ValueError: \ud800" == site.get("/api/task?id=t").json()["tree"]["error"]


def test_a_line_of_the_log_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """An action that isn't there is refused and logged, without the line breaks in its name."""
    assert 409 == Site().act("x%0Apurge by 10.0.0.1 (local): done").status_code
    assert ["x\\npurge by 10.0.0.1 (local): done"] == [
        record.message.partition(" by 10.1.2.3")[0] for record in caplog.records if "by" in record.message
    ]


ACTIONS = [
    (
        "revoke",
        {"id": "t1"},
        "revoke",
        {"ids": ["t1"], "terminate": False},
        {"t1": "revoked"},
        "t1 is revoked.",
    ),
    (
        "terminate",
        {"id": "t1"},
        "revoke",
        {"ids": ["t1"], "terminate": True},
        {"t1": "terminating"},
        "t1 is being terminated.",
    ),
    ("requeue", {"key": 3}, "dead_requeue", {"keys": [3]}, 1, "1 dead letter put back into the queue."),
    ("requeue", {"all": True}, "dead_requeue", {"all": True}, 12, "12 dead letters put back into the queue."),
    ("drop", {"key": 3}, "dead_drop", {"keys": [3]}, 1, "1 dead letter dropped."),
    ("purge", {"queue": "q", "confirmed": "q"}, "purge", {"queue": "q"}, 5, "5 messages of q dropped."),
    (
        "pause",
        {"queue": "q"},
        "pause_queue",
        {"queue": "q"},
        True,
        "q is paused: nothing is handed out of it.",
    ),
    ("resume", {"queue": "q"}, "resume_queue", {"queue": "q"}, True, "q goes on."),
]


@pytest.mark.parametrize(("action", "given", "verb", "arguments", "answer", "told"), ACTIONS)
def test_an_action_asks_the_broker_and_is_logged(
    action: str,
    given: dict[str, Any],
    verb: str,
    arguments: dict[str, Any],
    answer: Any,
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each action is one question, told in words; the log has who asked and what came of it."""
    caplog.set_level(logging.INFO, "emq_compat.dashboard")
    site = Site()
    site.broker.answers[verb] = answer
    response = site.act(action, **given)
    assert (200, told) == (response.status_code, response.json()["ok"])
    assert [(verb, arguments)] == site.broker.asked
    assert f"{action} by 10.1.2.3 (local): " in caplog.text
    assert told in caplog.text


def test_a_pool_grows_and_shrinks() -> None:
    """The worker is asked; its refusal, and its silence, are told."""
    site = Site()
    site.broker.workers["pool_grow"] = {"w.1": {"ok": 3}}
    site.broker.workers["pool_shrink"] = {"w.1": {"error": {"message": "a pool of 1 can't shrink by 1"}}}
    assert "w.1 now runs 3 at once." == site.act("grow", worker="w.1").json()["ok"]
    assert [("pool_grow", {"arguments": {"n": 1}, "destination": ["w.1"]})] == site.broker.asked
    refused = site.act("shrink", worker="w.1")
    assert (409, "a pool of 1 can't shrink by 1") == (refused.status_code, refused.json()["error"])
    site.broker.workers.clear()
    assert "did not answer" in site.act("grow", worker="w.1").json()["error"]


def test_what_changes_something_must_come_from_the_page() -> None:
    """Without the secret, from another site, as a form or by GET nothing is done."""
    site = Site()
    site.get("/api/session")
    refused = [
        site.act("purge", {"X-Emq-Secret": "wrong"}, queue="q", confirmed="q"),
        site.act("purge", {"Origin": "http://evil.example"}, queue="q", confirmed="q"),
        site.act("purge", {"Sec-Fetch-Site": "cross-site"}, queue="q", confirmed="q"),
        site.request("POST", "/api/do/purge", json={"queue": "q", "confirmed": "q"}),
    ]
    assert [403] * 4 == [response.status_code for response in refused]
    form = site.request("POST", "/api/do/purge", data={"queue": "q"}, headers={"X-Emq-Secret": site.secret})
    assert (415, 405) == (form.status_code, site.get("/api/do/purge").status_code)
    assert [] == site.broker.asked


def test_another_sites_page_asks_nothing() -> None:
    """What a page elsewhere has the browser ask is refused; its answer it could not read anyway."""
    site = Site()
    for where in ("cross-site", "same-site"):
        refused = site.get("/api/worker?name=w", headers={"Sec-Fetch-Site": where})
        assert 403 == refused.status_code
    assert 200 == site.get("/api/session", headers={"Sec-Fetch-Site": "none"}).status_code
    assert [] == site.broker.asked


def test_a_purge_needs_the_queues_name() -> None:
    """Not the page alone asks: without the name typed the broker is asked nothing."""
    site = Site()
    for typed in ({}, {"confirmed": "p"}, {"confirmed": True}):
        refused = site.act("purge", queue="q", **typed)
        assert (409, True) == (refused.status_code, "must be typed" in refused.json()["error"])
    assert [] == site.broker.asked


@pytest.mark.parametrize(
    "action", ["revoke", "terminate", "requeue", "drop", "purge", "pause", "resume", "grow", "shrink"]
)
def test_wrong_arguments_and_read_only(action: str) -> None:
    """An action without its arguments is refused; with --read-only every action is."""
    site = Site()
    assert 409 == site.act(action).status_code
    assert 409 == site.act(action, id=5, key="x", queue=[], worker={}).status_code
    only = Site(read_only=True)
    refused = only.act(action, id="t", key=1, queue="q", confirmed="q", worker="w")
    assert (403, True) == (refused.status_code, "--read-only" in refused.json()["error"])
    assert [] == site.broker.asked + only.broker.asked
    assert 409 == site.act("nothing").status_code


def test_what_the_broker_refuses_is_told() -> None:
    """Its words stand on the page."""
    site = Site()
    site.broker.answers["pause_queue"] = BrokerRefused("MessageError: there is no queue 'q'")
    refused = site.act("pause", queue="q")
    assert (409, "MessageError: there is no queue 'q'") == (refused.status_code, refused.json()["error"])


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"[" * 60_000, 400), (b'"x"', 400), (b"x" * 70_000, 413)],
)
def test_a_body_that_is_no_object_is_refused(body: bytes, status: int) -> None:
    """Nor is one that is too large read to its end."""
    site = Site()
    headers = {"X-Emq-Secret": site.get("/api/session").json()["secret"], "Content-Type": "application/json"}
    response = site.request("POST", "/api/do/pause", content=body, headers=headers)
    assert status == response.status_code


def test_arguments_are_hidden_unless_wanted() -> None:
    """Of dead letters and of what runs nothing is told that a task was given, but with --show-args."""
    payload = Job(path="m", callable="f", args=("card 4711",), kwargs={"pin": "0815"}).encode().decode()
    active = {"name": "t", "id": "i", "worker_pid": 7, "time_start": 5.0, "args": ["card 4711"], "kwargs": {}}
    texts = []
    for show in (False, True):
        site = Site(args=show)
        site.broker.answers["dead_show"] = {
            "headers": Headers(task="t").encode(), "payload": payload, "deliveries": 1, "losses": 0,
        }  # fmt: skip
        site.broker.workers["stats"] = {"w": {"ok": {"pool": {"processes": [7, 8], "completed": {"7": 3}}}}}
        site.broker.workers["active"] = {"w": {"ok": [active]}}
        worker = site.get("/api/worker?name=w")
        assert [(7, "t", 3), (8, None, 0)] == [
            (child["pid"], child["task"], child["done"]) for child in worker.json()["children"]
        ]
        texts.append(site.get("/api/dead/5").text + worker.text)
    assert ["4711" in text for text in texts] == [False, True]
    assert "0815" not in texts[0]


def test_questions_are_checked() -> None:
    """A question that names nothing, or too much, is refused before the broker is asked."""
    site = Site()
    assert 400 == site.get("/api/task").status_code
    assert 400 == site.get("/api/task?id=" + "x" * 2000).status_code
    assert 400 == site.get("/api/dead?after=-1").status_code
    assert 502 == site.get("/api/worker?name=w").status_code
    assert 404 == site.get("/api/dead/x").status_code
