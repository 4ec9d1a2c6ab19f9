"""A loop in a thread of its own, in which other threads have their coroutines run, and its watchdog."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from types import FrameType
from typing import Any

from emq_compat.coroutines.base import running
from emq_compat.coroutines.loops import Body, end_all

__all__ = ["THREAD_PREFIX", "LoopRunner", "SharedLoop"]

logger = logging.getLogger(__name__)

#: What the threads of ``asyncio.to_thread`` are called.
THREAD_PREFIX = "emq-to-thread"

#: A loop that comes to nothing else for so long is blocked.
_BLOCKED_S = 1.0
_LOOK_S = 0.25
#: The least time that coroutines have for their end when the loop closes.
_LEAST_S = 0.4
#: Frames in the log, of the code that blocks.
_FRAMES = 12

_label: ContextVar[str] = ContextVar("emq_compat_label", default="")


class LoopRunner:
    """One thread's way into a SharedLoop (base.Runner); ``label`` names, for people, what it runs next."""

    def __init__(self, loop: SharedLoop) -> None:
        self.label = ""
        self._loop = loop
        self._body: Body | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Have it run in the loop, and wait for its end."""
        around, self._body = self._body, Body(awaitable, self._loop.loop, label=self.label)
        try:
            return self._loop.run(self._body)
        finally:
            self._body = around

    def stack(self) -> str:
        """Return where the coroutine that is run stands; empty where there is none."""
        body = self._body
        return body.stack() if body is not None else ""

    def close(self) -> None:
        """The loop isn't this thread's to close."""


class SharedLoop:
    """The loop. ``start`` and ``close`` once each, from one thread; ``run`` from any, between them.

    Code that blocks the loop for longer than a second is logged: what runs, and where it stands.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop
        self.ident = 0
        self._bodies: set[Body] = set()
        self._closing = False
        self._ended = threading.Event()
        self._ticked = 0.0

    def start(self) -> None:
        """Begin to run."""
        self.loop = asyncio.new_event_loop()
        # With threads that can be told from others by their name.
        self.loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=THREAD_PREFIX))
        self._thread = threading.Thread(target=self._serve, name="emq-asyncio", daemon=True)
        self._thread.start()
        assert self._thread.ident is not None
        self.ident = self._thread.ident
        threading.Thread(target=self._watch, name="emq-asyncio-watchdog", daemon=True).start()

    def run(self, body: Body) -> Any:
        """Run a body to its end, in a copy of this thread's context; returns and raises what it does."""
        ended = threading.Lock()
        ended.acquire()
        context = copy_context()
        context.run(_label.set, body.label)
        ident = threading.get_ident()
        around, running[ident] = running.get(ident), body
        begun = False
        try:
            while True:
                try:
                    if not begun:
                        self.loop.call_soon_threadsafe(self._begin, body, ended.release, context=context)
                        begun = True
                    ended.acquire()
                    break
                except BaseException as exc:
                    if self.loop.is_closed():
                        body.coroutine.close()
                        raise
                    # Raised in this thread by the pool, in the moment before the body could be told.
                    body.interrupt(type(exc))
        finally:
            if around is None:
                del running[ident]
            else:
                running[ident] = around
        return body.result()

    def _begin(self, body: Body, on_end: Callable[[], None]) -> None:
        if body.task is not None:
            return
        self._bodies.add(body)

        def ended(task: asyncio.Task[None]) -> None:
            self._bodies.discard(body)
            on_end()

        body.start().add_done_callback(ended)

    def close(self, deadline: float) -> None:
        """Give bodies until ``deadline`` (monotonic) to end, cancel what is left, stop and close the loop.

        A loop that is blocked is left behind, in a thread that doesn't keep the process from ending.
        """
        self._closing = True
        left_s = max(_LEAST_S, deadline - time.monotonic())
        ending = asyncio.run_coroutine_threadsafe(self._end(left_s / 2), self.loop)
        try:
            ending.result(left_s + _LEAST_S)
        except TimeoutError:
            logger.error("the loop is blocked by %s, and left so", self._blocked_by() or "something")
        except Exception:
            logger.exception("the end of what coroutines have left running failed")
        self._ended.set()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_LEAST_S)
        if not self._thread.is_alive():
            self.loop.close()

    async def _end(self, limit_s: float) -> None:
        # Bodies that were interrupted are cleaning up: to cancel them once more would cut that short.
        tasks = [body.task for body in self._bodies if body.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=limit_s)
        await end_all(limit_s)

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                self.loop.run_forever()
            except BaseException as exc:  # noqa: BLE001 - an asyncio task lets SystemExit out of its loop
                logger.error("%r left a task of the loop, which goes on", exc)

    # The watchdog, in a thread of its own.

    def _watch(self) -> None:
        told_at = 0.0
        self._tick()
        asked = self._ticked
        while not self._ended.wait(_LOOK_S):
            now = time.monotonic()
            if self._ticked >= asked:
                if told_at:
                    logger.warning("the loop goes on after %.1f s", now - asked)
                    told_at = 0.0
                if self._bodies:
                    asked = now
                    self.loop.call_soon_threadsafe(self._tick)
            elif not told_at and now - asked >= _BLOCKED_S:
                told_at = now
                logger.warning(
                    "%s blocks the loop, and with it all other coroutines, for %.1f s now; it stands at\n%s",
                    self._blocked_by() or "something",
                    now - asked,
                    self._stack(),
                )

    def _tick(self) -> None:
        self._ticked = time.monotonic()

    def _frames(self) -> tuple[list[FrameType], FrameType | None]:
        """Return the frames of what the loop calls now, outermost first, and the one of asyncio around it."""
        frames = []
        frame = sys._current_frames().get(self.ident)
        while frame is not None and frame.f_code is not _HANDLE_RUN:
            frames.append(frame)
            frame = frame.f_back
        return frames[::-1], frame

    def _blocked_by(self) -> str:
        """Return the label of the body on whose behalf the loop's thread runs code now."""
        handle_run = self._frames()[1]
        if handle_run is None:
            return ""
        context = getattr(handle_run.f_locals.get("self"), "_context", None)
        return str(context.get(_label, "")) if context is not None else ""

    def _stack(self) -> str:
        frames = [frame for frame in self._frames()[0] if frame.f_globals.get("__package__") != __package__]
        found = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[-_FRAMES:])
        return "".join(found.format())


_HANDLE_RUN = asyncio.Handle._run.__code__
