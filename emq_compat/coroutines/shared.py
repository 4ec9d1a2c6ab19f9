"""A loop in a thread of its own, in which other threads have their coroutines run, and its watchdog."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
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
#: A loop that is blocked by what was told to stop is left to it after so long.
_LEFT_S = 2.0
#: The least time that coroutines have for their end when the loop closes.
_LEAST_S = 0.4
#: Frames in the log, of the code that blocks.
_FRAMES = 12

_body: ContextVar[SharedBody | None] = ContextVar("emq_compat_body", default=None)


class SharedBody(Body):
    """A body whose loop is settled when it begins: until then it can go to another one."""

    def __init__(
        self, awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop, *, label: str = ""
    ) -> None:
        super().__init__(awaitable, loop, label=label)
        self._lock = threading.Lock()
        #: Monotonic time at which it was told to stop for good.
        self.stopped_at = math.inf

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[None] | None:
        """Begin in this loop, whose thread calls; None: it has begun in another one."""
        with self._lock:
            if self.task is not None:
                return None
            self._loop = loop
            return self.start()

    def interrupt(self, raised: type[BaseException]) -> None:
        """See base.Run."""
        with self._lock:
            for_good = not issubclass(raised, Exception)
            if for_good:
                self.stopped_at = min(self.stopped_at, time.monotonic())
            if self.task is not None:
                super().interrupt(raised)
            elif for_good:
                self._stopped = raised
            else:
                self._wanted = raised


class _Host:
    """A loop and its thread.

    Attributes:
        bodies: what has begun and not ended.
        ticked: monotonic time at which it last came to something new.
        left: another loop has taken its place; it ends with its bodies.
    """

    def __init__(self) -> None:
        self.bodies: set[SharedBody] = set()
        self.ticked = time.monotonic()
        self.left = False
        self._ended = False
        self.loop = asyncio.new_event_loop()
        # With threads that can be told from others by their name.
        self.loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=THREAD_PREFIX))
        self.thread = threading.Thread(target=self._serve, name="emq-asyncio", daemon=True)
        self.thread.start()

    @property
    def ident(self) -> int:
        """Its thread's."""
        return self.thread.ident or 0

    def begin(self, body: SharedBody, on_end: Callable[[], None]) -> None:
        """Run a body, in the loop's thread, unless it runs somewhere else."""
        task = body.begin(self.loop)
        if task is None:
            return
        self.bodies.add(body)

        def ended(task: asyncio.Task[None]) -> None:
            self.bodies.discard(body)
            on_end()
            if self.left and not self.bodies:
                self.stop()

        task.add_done_callback(ended)

    def leave(self) -> None:
        """End with what has begun; called in the loop's thread."""
        self.left = True
        if not self.bodies:
            self.stop()

    def stop(self) -> None:
        """Have the loop stop for good; any thread may call."""
        self._ended = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def tick(self) -> None:
        """Note that the loop came to this."""
        self.ticked = time.monotonic()

    def _serve(self) -> None:
        while not self._ended:
            try:
                self.loop.run_forever()
            except BaseException as exc:  # noqa: BLE001 - an asyncio task lets SystemExit out of its loop
                logger.error("%r left a task of the loop, which goes on", exc)
        if self.left:
            self.loop.run_until_complete(end_all(_LEAST_S))
            self.loop.close()

    # What blocks it, seen from other threads.

    def frames(self) -> tuple[list[FrameType], FrameType | None]:
        """Return the frames of what the loop calls now, outermost first, and the one of asyncio around it."""
        frames = []
        frame = sys._current_frames().get(self.ident)
        while frame is not None and frame.f_code is not _HANDLE_RUN:
            frames.append(frame)
            frame = frame.f_back
        return frames[::-1], frame

    def running(self) -> SharedBody | None:
        """Return the body on whose behalf the loop's thread runs code now."""
        handle_run = self.frames()[1]
        if handle_run is None:
            return None
        context = getattr(handle_run.f_locals.get("self"), "_context", None)
        return context.get(_body) if context is not None else None

    def stack(self) -> str:
        """Return where its thread stands."""
        frames = [frame for frame in self.frames()[0] if frame.f_globals.get("__package__") != __package__]
        found = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[-_FRAMES:])
        return "".join(found.format())


def _named(body: SharedBody | None) -> str:
    return "something" if body is None else body.label


class LoopRunner:
    """One thread's way into a SharedLoop (base.Runner); ``label`` names, for people, what it runs next."""

    def __init__(self, loop: SharedLoop) -> None:
        self.label = ""
        self._loop = loop
        self._body: SharedBody | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Have it run in the loop, and wait for its end."""
        around, self._body = self._body, SharedBody(awaitable, self._loop.loop, label=self.label)
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

    Code that blocks the loop for longer than a second is logged: what runs, and where it stands. If its body
    was told to stop (a hard limit, terminated) two seconds ago, the loop is left to it, and a new one takes
    its place: for what comes, and what has not begun.
    """

    def __init__(self) -> None:
        self._host: _Host
        #: What has not begun: what tells its end, and its context.
        self._coming: dict[SharedBody, tuple[Callable[[], None], Context]] = {}
        self._ended = threading.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of what comes now."""
        return self._host.loop

    @property
    def ident(self) -> int:
        """The loop's thread."""
        return self._host.ident

    def start(self) -> None:
        """Begin to run."""
        self._host = _Host()
        threading.Thread(target=self._watch, name="emq-asyncio-watchdog", daemon=True).start()

    def run(self, body: SharedBody) -> Any:
        """Run a body to its end, in a copy of this thread's context; returns and raises what it does."""
        ended = threading.Lock()
        ended.acquire()
        context = copy_context()
        context.run(_body.set, body)
        ident = threading.get_ident()
        around, running[ident] = running.get(ident), body
        begun = False
        try:
            while True:
                try:
                    if not begun:
                        # In this order: whoever changes the host looks afterwards at what is coming.
                        self._coming[body] = ended.release, context
                        self._submit(body, ended.release, context)
                        begun = True
                    ended.acquire()
                    break
                except BaseException as exc:
                    if self._host.loop.is_closed():
                        body.coroutine.close()
                        raise
                    # Raised in this thread by the pool, in the moment before the body could be told.
                    body.interrupt(type(exc))
        finally:
            self._coming.pop(body, None)
            if around is None:
                del running[ident]
            else:
                running[ident] = around
        return body.result()

    def _submit(self, body: SharedBody, on_end: Callable[[], None], context: Context) -> None:
        while True:
            host = self._host
            try:
                host.loop.call_soon_threadsafe(self._begin, host, body, on_end, context=context)
                return
            except RuntimeError:  # it is closed
                if host is self._host:
                    raise

    def _begin(self, host: _Host, body: SharedBody, on_end: Callable[[], None]) -> None:
        self._coming.pop(body, None)
        host.begin(body, on_end)

    def _leave(self, blocker: SharedBody) -> None:
        """Put a new loop in the place of this one, which does nothing but run ``blocker``."""
        old, self._host = self._host, _Host()
        for body, (on_end, context) in tuple(self._coming.items()):
            self._submit(body, on_end, context)
        old.loop.call_soon_threadsafe(old.leave)
        others = sorted(body.label for body in tuple(old.bodies) if body is not blocker)
        logger.error(
            "%s was told to stop and blocks the loop: it is left to it, a new one takes its place; "
            "begun there, and waiting for it: %s",
            blocker.label,
            ", ".join(others) or "nothing",
        )

    def close(self, deadline: float) -> None:
        """Give bodies until ``deadline`` (monotonic) to end, cancel what is left, stop and close the loop.

        A loop that is blocked is left behind, in a thread that doesn't keep the process from ending.
        """
        self._ended.set()
        host = self._host
        left_s = max(_LEAST_S, deadline - time.monotonic())
        ending = asyncio.run_coroutine_threadsafe(self._end(host, left_s / 2), host.loop)
        try:
            ending.result(left_s + _LEAST_S)
        except TimeoutError:
            logger.error("the loop is blocked by %s, and left so", _named(host.running()))
        except Exception:
            logger.exception("the end of what coroutines have left running failed")
        host.stop()
        host.thread.join(_LEAST_S)
        if not host.thread.is_alive():
            host.loop.close()

    async def _end(self, host: _Host, limit_s: float) -> None:
        # Bodies that were interrupted are cleaning up: to cancel them once more would cut that short.
        tasks = [body.task for body in host.bodies if body.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=limit_s)
        await end_all(limit_s)

    # The watchdog, in a thread of its own.

    def _watch(self) -> None:
        told_at = 0.0
        host = self._host
        asked = host.ticked
        while not self._ended.wait(_LOOK_S):
            now = time.monotonic()
            if host.ticked >= asked:
                if told_at:
                    logger.warning("the loop goes on after %.1f s", now - asked)
                    told_at = 0.0
                if host.bodies or self._coming:
                    asked = now
                    host.loop.call_soon_threadsafe(host.tick)
                continue
            if now - asked < _BLOCKED_S:
                continue
            blocker = host.running()
            if not told_at:
                told_at = now
                logger.warning(
                    "%s blocks the loop, and with it all other coroutines, for %.1f s now; it stands at\n%s",
                    _named(blocker),
                    now - asked,
                    host.stack(),
                )
            if blocker is not None and now - blocker.stopped_at >= _LEFT_S:
                self._leave(blocker)
                host, told_at = self._host, 0.0
                asked = host.ticked


_HANDLE_RUN = asyncio.Handle._run.__code__
