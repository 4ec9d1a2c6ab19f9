"""The one who looks: asks the broker once a second while a browser is there, and tells all browsers.

Each browser has a short queue. One that doesn't keep up loses what waits in it and begins again with all of
the page, so that nobody waits for it and nothing grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from emq_compat.errors import BrokerRefused, EmqError, JournalUnwritable
from emq_compat.monitor.overview.history import History, away
from emq_compat.monitor.overview.look import ANSWER_S, Asker, look
from emq_compat.monitor.overview.workflows import Workflows

__all__ = ["DEAD_SHOWN", "Watch"]

logger = logging.getLogger("emq_compat.dashboard")

#: Dead letters that the page lists at first.
DEAD_SHOWN = 25
_QUEUE = 4
#: Schedules and workflows are asked for with the first of so many overviews.
_SELDOM = 3


class _Browser:
    """One page: what it is to be told next; ``behind``: everything, since it has missed something."""

    __slots__ = ("behind", "queue")

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue(_QUEUE)
        self.behind = True

    def tell(self, text: str) -> None:
        while self.queue.full():
            self.queue.get_nowait()
        self.queue.put_nowait(text)


class Watch:
    """Looks at a broker for all browsers.

    Args:
        client: asks the broker; used in threads.
        every_s: seconds between two looks.
    """

    def __init__(self, client: Asker, every_s: float = 1.0) -> None:
        self._client = client
        self._every_s = every_s
        self._history = History()
        self._workflows = Workflows()
        self._broker = ""
        self._browsers: set[_Browser] = set()
        #: Section of the page → its JSON text, as it is now.
        self._sections: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._looks = 0
        self._dead_seen = -1
        self._soon = asyncio.Event()
        self._over = False
        # A thread of its own: those that ask workers may all be waiting for one that doesn't answer.
        self._thread = ThreadPoolExecutor(1, "look")

    @property
    def browsers(self) -> int:
        """How many look."""
        return len(self._browsers)

    @property
    def looks(self) -> int:
        """How often the broker was asked."""
        return self._looks

    def beside(self, task_id: str) -> dict[str, str]:
        """Return id → name of the tasks that were seen of the workflow that a task belongs to."""
        return self._workflows.members(task_id)

    def look_soon(self) -> None:
        """Look again at once: something was changed."""
        self._dead_seen = -1
        self._soon.set()

    async def updates(self) -> AsyncGenerator[str, None]:
        """Yield JSON objects of sections of the page, first all, then what has changed, until ``end``."""
        browser = _Browser()
        if self._sections:
            self._tell_all(browser)
        self._browsers.add(browser)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            while not self._over:
                yield await browser.queue.get()
        finally:
            self._browsers.discard(browser)

    def end(self) -> None:
        """End what is told to browsers, with one more message to each."""
        self._over = True
        for browser in self._browsers:
            browser.tell("{}")

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._browsers:
            began = loop.time()
            self._soon.clear()
            await self._look()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._soon.wait(), max(0.05, self._every_s - (loop.time() - began)))
        self._task = None
        # What a browser sees first is then not of long ago.
        self._sections.clear()

    async def _look(self) -> None:
        try:
            sections = await asyncio.get_running_loop().run_in_executor(self._thread, self._ask)
        except EmqError as exc:
            sections = away(str(exc))
        except Exception as exc:
            why = f"its answer was not understood: {exc!r}"
            if self._sections.get("verdict") != json.dumps(away(why)["verdict"], separators=(",", ":")):
                logger.exception("the broker's answer was not understood")
            sections = away(why)
        changed: dict[str, str] = {}
        for name, value in sections.items():
            text = json.dumps(value, separators=(",", ":"))
            if self._sections.get(name) != text:
                self._sections[name] = changed[name] = text
        told = _joined(changed)
        for browser in self._browsers:
            if browser.behind:
                self._tell_all(browser)
            elif browser.queue.full():
                browser.behind = True
            else:
                browser.tell(told)

    def _tell_all(self, browser: _Browser) -> None:
        sparks = json.dumps(self._history.sparks(), separators=(",", ":"))
        browser.tell(_joined({**self._sections, "sparks": sparks}))
        browser.behind = False

    def _ask(self) -> dict[str, Any]:
        seldom = self._looks % _SELDOM == 0 or "schedules" not in self._sections
        everything = "failures" not in self._sections
        sections = look(self._client, self._history, everything=everything, schedules=seldom)
        self._looks += 1
        if self._broker != (broker := sections["broker"]["id"]):
            self._broker = broker
            self._workflows.clear()
        if seldom:
            sections["workflows"] = self._listed()
        dead = sections["totals"]["dead"]
        if dead != self._dead_seen or "dead" not in self._sections:
            sections["dead"] = []
            self._dead_seen = dead  # before it asks: meanwhile look_soon may want another look
            if dead:
                try:
                    sections["dead"] = self._client.ask("dead_list", timeout_s=ANSWER_S, limit=DEAD_SHOWN)
                except EmqError:
                    self._dead_seen = -1
                    raise
        return sections

    def _listed(self) -> list[dict[str, Any]] | None:
        """Return the workflows; None: the broker is older and tells nothing of them."""
        known = self._workflows
        try:
            told = self._client.ask("workflows", timeout_s=ANSWER_S, after=known.after, ids=known.unsettled())
        except JournalUnwritable:
            raise
        except BrokerRefused:
            return None
        return known.note(told)


def _joined(sections: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{text}' for name, text in sections.items()) + "}"
