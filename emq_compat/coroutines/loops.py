"""Coroutines in event loops: a body that can be interrupted, a thread's own loop, a new loop for one body.

How a soft limit gets into a coroutine: ``except SoftTimeLimitExceeded`` around an ``await`` must see it, and
the libraries that the coroutine waits in must clean up as they do when they are cancelled (a TaskGroup ends
its tasks, ``wait_for`` cancels what it waits for). So the asyncio task is cancelled, and what is thrown into
the coroutine is both: an instance of the limit's exception and of CancelledError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextvars import copy_context
from types import FrameType
from typing import Any

from emq_compat.coroutines.base import running

__all__ = ["Body", "OwnLoop", "a_loop_runs_here", "end_all", "run_in_new_loop"]

logger = logging.getLogger(__name__)

#: How long what is cancelled for good may take to end, before that is told.
_ENDS_S = 2.0


class _Cancelling(asyncio.CancelledError):
    """Thrown in place of a CancelledError: its other base is what the body is to see."""

    told: type[BaseException]


_cancelling_as: dict[type[BaseException], type[_Cancelling]] = {}


def _cancelling(raised: type[BaseException]) -> type[_Cancelling]:
    known = _cancelling_as.get(raised)
    if known is None:
        members = {"told": raised, "__module__": raised.__module__, "__doc__": raised.__doc__}
        known = _cancelling_as[raised] = type(raised.__name__, (raised, _Cancelling), members)
    return known


class Body:
    """An awaitable that is run to its end in some loop, and can be interrupted (base.Run).

    ``label`` is for people.
    """

    def __init__(
        self, awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop, *, label: str = ""
    ) -> None:
        self.coroutine: Coroutine[Any, Any, Any] = (
            awaitable if asyncio.iscoroutine(awaitable) else _awaiting(awaitable)
        )
        self.label = label or str(getattr(self.coroutine, "__qualname__", self.coroutine))
        self.task: asyncio.Task[None] | None = None
        self._loop = loop
        self._wanted: BaseException | type[BaseException] | None = None
        self._stopped: BaseException | type[BaseException] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._ended = False

    def start(self) -> asyncio.Task[None]:
        """Begin, in the loop's thread, in a copy of the context of the caller."""
        self.task = self._loop.create_task(self._main(), name=self.label)
        if self._stopped is not None or self._wanted is not None:
            self.task.cancel()
        return self.task

    def result(self) -> Any:
        """Return or raise, once it has ended, what it came to.

        A body that was stopped raises what stopped it, even if it went on to return something.
        """
        if not self._ended:  # cancelled before its first step
            self.coroutine.close()
        if self._stopped is not None:
            raise self._stopped from self._error
        if not self._ended:
            raise _plain(self._wanted) if self._wanted is not None else asyncio.CancelledError()
        if self._error is not None:
            error, self._error = self._error, None
            raise _told(error)
        return self._value

    def interrupt(self, raised: type[BaseException]) -> None:
        """See base.Run."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(self.interrupt_now, raised)

    def interrupt_here(self, raised: type[BaseException], frame: FrameType) -> bool:
        """See base.Run."""
        if asyncio.current_task(self._loop) is self.task and frame.f_code not in _AROUND_THE_BODY:
            return False
        self.interrupt(raised)
        return True

    def interrupt_now(self, raised: BaseException | type[BaseException]) -> None:
        """Interrupt it, in the loop's thread."""
        if self.task is not None and self.task.done():
            return
        kind = raised if isinstance(raised, type) else type(raised)
        if issubclass(kind, Exception):
            self._wanted = raised
        else:
            self._stopped = raised
            self._loop.call_later(_ENDS_S, self._tell_if_it_goes_on)
        if self.task is not None:
            self.task.cancel()

    def stack(self) -> str:
        """Return where it awaits, outermost call first, as of now; any thread may ask."""
        stack: list[tuple[FrameType, int]] = []
        awaiting: Any = self.coroutine
        while awaiting is not None:
            frame = getattr(awaiting, "cr_frame", None) or getattr(awaiting, "gi_frame", None)
            if frame is not None:
                stack.append((frame, frame.f_lineno))
            awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "gi_yieldfrom", None)
        return "".join(traceback.StackSummary.extract(stack).format())

    def _tell_if_it_goes_on(self) -> None:
        if not self._ended:
            logger.error("%s goes on though it was cancelled; what it comes to is dropped", self.label)

    async def _main(self) -> None:
        # Nothing leaves: an asyncio task lets a SystemExit out of its loop.
        try:
            self._value = await self
        except BaseException as exc:  # noqa: BLE001 - raised again where the value is waited for
            self._error = exc
        self._ended = True

    def __await__(self) -> Generator[Any, None, Any]:
        coroutine = self.coroutine
        thrown: BaseException | None = None
        while True:
            try:
                awaited = coroutine.send(None) if thrown is None else coroutine.throw(thrown)
            except StopIteration as end:
                return end.value
            try:
                yield awaited
                thrown = None
            except asyncio.CancelledError as exc:
                thrown = self._in_place_of(exc)
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as exc:  # noqa: BLE001 - what it awaited has failed: it is to know
                thrown = exc

    def _in_place_of(self, cancelled: asyncio.CancelledError) -> BaseException:
        """Return what is thrown where the body awaits, now that its task was cancelled."""
        wanted, self._wanted = self._wanted, None
        if wanted is None:
            return cancelled
        uncancel: Callable[[], int] | None = getattr(self.task, "uncancel", None)  # since Python 3.11
        if uncancel is not None:
            uncancel()
        if isinstance(wanted, type):
            return _cancelling(wanted)()
        return wanted


_AROUND_THE_BODY = frozenset({Body._main.__code__, Body.__await__.__code__, Body._in_place_of.__code__})


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _told(error: BaseException) -> BaseException:
    """Return an exception that left a body, without what is ours in it.

    Until Python 3.12 a TaskGroup takes what was thrown into its block for a failure of the block.
    """
    grouped: Sequence[BaseException] = getattr(error, "exceptions", ())
    ours = grouped[0] if len(grouped) == 1 else error
    if isinstance(ours, _Cancelling):
        return ours.told(*ours.args).with_traceback(error.__traceback__)
    return error


def _plain(raised: BaseException | type[BaseException]) -> BaseException:
    return raised() if isinstance(raised, type) else raised


class OwnLoop:
    """A loop that belongs to this thread and runs one body after another (base.Runner).

    Tasks that a body leaves behind go on whenever the next body runs.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run it to its end.

        What is raised in the loop's own code (a KeyboardInterrupt, most likely) goes on in the body; at its
        second time it leaves.
        """
        if self._pid != os.getpid():
            # This is a copy of the loop of the process that this one was forked from.
            self._pid, self._loop = os.getpid(), asyncio.new_event_loop()
        body, loop, ident = Body(awaitable, self._loop), self._loop, threading.get_ident()
        task = body.start()
        around, running[ident] = running.get(ident), body
        interrupted = False
        try:
            while not task.done():
                try:
                    loop.run_until_complete(task)
                except BaseException as exc:
                    if interrupted and not task.done():
                        raise
                    interrupted = True
                    body.interrupt_now(exc)
        finally:
            if around is None:
                del running[ident]
            else:
                running[ident] = around
        return body.result()

    def close(self) -> None:
        """Cancel what is left, have async generators end, close the loop."""
        if self._pid != os.getpid():
            return
        try:
            self._loop.run_until_complete(end_all(_ENDS_S))
        except BaseException:
            logger.exception("the end of what coroutines have left running failed")
        self._loop.close()


async def end_all(limit_s: float) -> None:
    """Cancel every other task of this loop, see them end, end async generators; logs who goes on.

    Each of the two may take ``limit_s`` seconds.
    """
    loop = asyncio.get_running_loop()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    if tasks:
        done, going_on = await asyncio.wait(tasks, timeout=limit_s)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("%s failed when it was cancelled", task.get_name(), exc_info=error)
        for task in going_on:
            logger.error("%s goes on though it was cancelled, and is cut off: %r", task.get_name(), task)
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(loop.shutdown_asyncgens(), limit_s)


def a_loop_runs_here() -> bool:
    """Return whether this thread is inside of a running loop."""
    return asyncio._get_running_loop() is not None


def run_in_new_loop(awaitable: Awaitable[Any]) -> Any:
    """Run it to its end in a loop of its own: here, or in another thread where a loop runs here already."""
    if not a_loop_runs_here():
        return _run_and_close(awaitable)
    context = copy_context()
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(context.run(_run_and_close, awaitable))
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(exc)

    thread = threading.Thread(target=run, name="emq-coroutine", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _run_and_close(awaitable: Awaitable[Any]) -> Any:
    own = OwnLoop()
    try:
        return own.run(awaitable)
    finally:
        own.close()
