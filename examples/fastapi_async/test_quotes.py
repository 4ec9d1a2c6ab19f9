"""The application's own tests: `python -m pytest`. Broker and worker are in the test's process."""

import asyncio
import json

import httpx
import pytest
from quotes import tasks
from quotes.celery import app
from quotes.main import web

from emq_compat.testing.worker import start_worker

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(autouse=True)
def _own_broker(monkeypatch):
    """The broker is in this process, and the suppliers are the application itself."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.setattr(tasks, "transport", httpx.ASGITransport(app=web))
    app.conf.broker_url = "memory://"
    yield
    del app.conf["broker_url"]


@pytest.fixture
def _worker(_own_broker):
    """A worker runs."""
    with start_worker(app, pool="asyncio", perform_ping_check=False):
        yield


def with_browser(scenario):
    """Run a scenario, a coroutine function that is given a client of the application."""

    async def run():
        transport = httpx.ASGITransport(app=web)
        async with (
            web.router.lifespan_context(web),
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as browser,
        ):
            await scenario(browser)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.usefixtures("_worker")
def test_quotes_arrive_and_the_best_is_found():
    """They are streamed as they come: the slowest is the last."""

    async def scenario(browser):
        ordered = await browser.post("/quotes", json={"article": "hinge", "pieces": 100})
        assert ordered.status_code == 202
        stream = await browser.get(ordered.json()["stream"])
        lines = [line for line in stream.text.splitlines() if line.startswith("data: ")]
        told = [json.loads(line.removeprefix("data: ")) for line in lines]
        assert {"acme", "bolts & co", "closed", "dusty"} == {quote["supplier"] for quote in told[:4]}
        assert told[3]["supplier"] == "dusty"
        assert told[4] == {"supplier": "acme", "price": 1000.0}
        polled = await browser.get(f"/quotes/{ordered.json()['best']}")
        assert polled.json() == {"state": "SUCCESS", "best": told[4]}

    with_browser(scenario)


@pytest.mark.usefixtures("_worker")
def test_polling_says_how_far_it_is():
    """PENDING first, then SUCCESS."""

    async def scenario(browser):
        best = (await browser.post("/quotes", json={"article": "nail"})).json()["best"]
        answer = (await browser.get(f"/quotes/{best}")).json()
        assert answer == {"state": "PENDING", "best": None}
        while answer["state"] != "SUCCESS":
            answer = (await browser.get(f"/quotes/{best}")).json()

    with_browser(scenario)


@pytest.mark.usefixtures("_worker")
def test_what_is_wrong_is_refused():
    """Nothing is published."""

    async def scenario(browser):
        for wrong in ({}, {"article": "nail", "pieces": 0}):
            assert (await browser.post("/quotes", json=wrong)).status_code == 422
        assert (await browser.get(f"/quotes/{NOBODY}/stream/{NOBODY}")).status_code == 404

    with_browser(scenario)


def test_a_broker_that_is_away_is_told():
    """503: what wasn't confirmed was not accepted."""
    app.conf.broker_url = "emq://127.0.0.1:2"

    async def scenario(browser):
        answer = await browser.post("/quotes", json={"article": "nail"})
        assert answer.status_code == 503
        assert answer.json()["detail"].startswith("not now: ")

    with_browser(scenario)
