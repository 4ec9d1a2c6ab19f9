"""Who looks at the broker: once for all pages, not at all for none, and nobody waits for a slow page."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from emq_compat.errors import BrokerRefused, OperationalError
from emq_compat.monitor.dashboard.watch import Watch
from tests.monitor.dashboard.fake import FakeBroker
from tests.monitor.overview import test_workflows as workflows
from tests.monitor.overview.test_history import failure, overview

pytestmark = pytest.mark.unit


def run(scene: Callable[[FakeBroker, Watch], Coroutine[Any, Any, None]]) -> None:
    """Play a scene with a broker and a watch that looks every 10 ms."""

    async def play() -> None:
        broker = FakeBroker()
        watch = Watch(broker, every_s=0.01)
        try:
            await asyncio.wait_for(scene(broker, watch), 20)
        finally:
            await watch.close()

    asyncio.run(play())


async def told_of(updates: AsyncIterator[str], section: str) -> dict[str, Any]:
    """Return the next message that has this section."""
    while section not in (told := json.loads(await anext(updates))):
        pass
    return told  # type: ignore[no-any-return]


def test_a_page_is_told_everything_first_and_then_what_changes() -> None:
    """The first message has all sections; a later one only those that differ."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        updates = watch.updates()
        first = json.loads(await anext(updates))
        sections = ("verdict", "totals", "queues", "workers", "failures", "dead", "broker", "sparks")
        assert all(name in first for name in sections)
        broker.answers["overview"] = overview(101.0)
        assert ["broker"] == list(await told_of(updates, "broker"))
        await updates.aclose()

    run(scene)


def test_nobody_asks_for_nobody() -> None:
    """Without a page the broker is asked nothing; with ten no more often than with one."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        assert (None, []) == (watch._task, broker.asked)
        pages = [watch.updates() for _ in range(10)]
        firsts = await asyncio.gather(*map(anext, pages))
        assert [True] * 10 == ["queues" in json.loads(text) for text in firsts]
        asked = watch.looks
        await broker.until(lambda: watch.looks >= asked + 3)
        assert broker.count("overview") == watch.looks
        for page in pages:
            await page.aclose()
        assert 0 == watch.browsers
        looking = watch._task
        assert looking is not None
        await asyncio.wait((looking,))  # it ends by itself: there is nothing left that could ask
        assert watch._task is None
        broker.answers["overview"] = overview(500.0, waiting=77)
        again = watch.updates()
        first = json.loads(await anext(again))
        assert (77, True) == (first["totals"]["waiting"], "failures" in first), "not what was seen long ago"
        await again.aclose()

    run(scene)


def test_questions_to_workers_hold_no_look_up() -> None:
    """Pages are told what changes while all threads for questions wait for workers that don't answer."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        answered = threading.Event()
        questions = [asyncio.create_task(asyncio.to_thread(answered.wait, 30)) for _ in range(100)]
        updates = watch.updates()
        try:
            assert "queues" in json.loads(await asyncio.wait_for(anext(updates), 10))
        finally:
            answered.set()
            await asyncio.gather(*questions)
        await updates.aclose()

    run(scene)


def test_a_slow_page_begins_anew() -> None:
    """One that doesn't read has a short queue; what it gets afterwards makes its page whole again."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        slow = watch.updates()
        await anext(slow)
        for n in range(8):
            broker.answers["overview"] = overview(200.0 + n, failures=[failure(n + 1)])
            looks = watch.looks
            await broker.until(lambda at=looks: watch.looks >= at + 2)  # type: ignore[misc]
        texts = [json.loads(await anext(slow)) for _ in range(8)]
        assert any("sparks" in text and "workers" in text for text in texts)
        [browser] = watch._browsers
        assert browser.queue.maxsize <= 4
        await slow.aclose()

    run(scene)


def test_at_the_end_pages_are_let_go() -> None:
    """What is told to them ends by itself, so that the server needn't cut their connections off."""

    async def to_the_end(updates: AsyncIterator[str]) -> None:
        async for _ in updates:
            pass

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        updates = [watch.updates() for _ in range(3)]
        await asyncio.gather(*map(anext, updates))
        reading = [asyncio.create_task(to_the_end(one)) for one in updates]
        looks = watch.looks
        await broker.until(lambda: watch.looks >= looks + 2)
        watch.end()
        await asyncio.gather(*reading)
        assert 0 == watch.browsers

    run(scene)


def test_a_broker_that_is_away_is_told_and_comes_back() -> None:
    """While it doesn't answer the page says so; then it is as before."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        updates = watch.updates()
        await anext(updates)
        broker.answers["overview"] = OperationalError("no answer within 3 s")
        told = await told_of(updates, "verdict")
        assert "no answer within 3 s" == told["verdict"]["reasons"][0]["text"]
        broker.answers["overview"] = overview(500.0)
        assert "ok" == (await told_of(updates, "verdict"))["verdict"]["level"]
        await updates.aclose()

    run(scene)


def test_an_answer_that_isnt_understood_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours, or of another release, is logged once and shown, and the next look is another."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        broker.answers["overview"] = {"broker": "b"}
        updates = watch.updates()
        assert "not understood" in await anext(updates)
        asked = broker.count("overview")
        await broker.until(lambda: broker.count("overview") >= asked + 3)
        assert 1 == len(caplog.records)
        broker.answers["overview"] = overview(1.0)
        await told_of(updates, "queues")
        await updates.aclose()

    run(scene)


def test_dead_letters_are_asked_for_when_their_number_changes() -> None:
    """Rows are fetched with the first look, with each change, and after an action."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        broker.answers["overview"] = overview(1.0, dead=1)
        broker.answers["dead_list"] = [{"key": 1}]
        updates = watch.updates()
        assert [{"key": 1}] == json.loads(await anext(updates))["dead"]
        await broker.until(lambda: watch.looks >= 5)
        assert 1 == broker.count("dead_list")
        broker.answers["overview"] = overview(2.0, dead=2)
        await broker.until(lambda: broker.count("dead_list") == 2)
        watch.look_soon()
        await broker.until(lambda: broker.count("dead_list") == 3)
        await updates.aclose()

    run(scene)


def test_after_an_action_during_a_look_dead_letters_are_asked_for_again() -> None:
    """What was done while they were being told may not stand in what is told."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        broker.answers["overview"] = overview(1.0, dead=1)
        home, acted = asyncio.get_running_loop(), threading.Event()

        def act() -> None:
            if broker.count("dead_list") and not acted.is_set():
                home.call_soon_threadsafe(lambda: [watch.look_soon(), acted.set()])
                assert acted.wait(10)

        broker.on_ask = act
        updates = watch.updates()
        await anext(updates)
        await broker.until(lambda: broker.count("dead_list") == 2)
        await updates.aclose()

    run(scene)


def test_workflows_are_those_of_one_broker() -> None:
    """Each look goes on from the last one; with another broker it begins anew, without those known."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        last = [workflows.ended("a", "a", goes_on=True)]
        broker.answers["workflows"] = workflows.told(
            number=7, ended=last, members=[workflows.member("b", root_id="a")]
        )
        updates = watch.updates()
        assert ["a"] == [row["id"] for row in (await told_of(updates, "workflows"))["workflows"]]
        assert {"a": "t.a", "b": "t.b"} == watch.beside("b")
        await broker.until(lambda: broker.count("workflows") >= 2)
        asked = [arguments for verb, arguments in broker.asked if verb == "workflows"]
        assert [{"after": 0, "ids": []}, {"after": 7, "ids": ["b"]}] == asked[:2]
        broker.answers["overview"] = overview(1.0, broker="b2")
        broker.answers["workflows"] = workflows.told()
        while (await told_of(updates, "workflows"))["workflows"]:
            pass
        assert {} == watch.beside("b")
        await updates.aclose()

    run(scene)


def test_an_older_broker_tells_of_no_workflows() -> None:
    """One that doesn't know the verb: the page says so, and shows all the rest."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        broker.answers["workflows"] = BrokerRefused("MessageError: the verb 'workflows' is unknown")
        updates = watch.updates()
        told = json.loads(await anext(updates))
        assert (None, "ok") == (told["workflows"], told["verdict"]["level"])
        await updates.aclose()

    run(scene)


def test_only_new_failures_are_asked_for() -> None:
    """Each look names the last failure that is known."""

    async def scene(broker: FakeBroker, watch: Watch) -> None:
        broker.answers["overview"] = overview(1.0, failures=[failure(41)])
        updates = watch.updates()
        await anext(updates)
        await broker.until(lambda: watch.looks >= 2)
        after = [arguments["failures_after"] for verb, arguments in broker.asked if verb == "overview"]
        assert [0, 41] == after[:2]
        await updates.aclose()

    run(scene)
