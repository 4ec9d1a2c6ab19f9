"""``async def`` tasks of a Django project: in which thread their calls of the ORM run.

Django runs the ORM's calls of a coroutine in a thread (asgiref's ``sync_to_async``): one for all coroutines
of the process, unless a context says otherwise. Each run of a task has a context of its own, as each request
has under ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync
from django.core.cache import close_caches
from django.db import connections

from emq_compat.coroutines import loops
from emq_compat.coroutines import settle as coroutines
from emq_compat.coroutines.shared import THREAD_PREFIX

__all__ = ["call_elsewhere", "settle", "settle_here"]


def settle(awaitable: Awaitable[Any]) -> Any:
    """Run it to its end where this thread's coroutines run, its calls of the ORM in a thread of their own."""
    return coroutines.settle(_with_thread(awaitable))


def settle_here(awaitable: Awaitable[Any]) -> Any:
    """Run it to its end, its calls of the ORM in this very thread, unless a loop runs in it."""
    if loops.a_loop_runs_here():
        return coroutines.settle(awaitable)
    return async_to_sync(_awaited)(awaitable)


def call_elsewhere(call: Callable[[], Any]) -> Any:
    """Return what a call does in another thread, for which this one waits; its connections are closed."""
    thread = _Thread()
    try:
        return thread.submit(copy_context().run, call).result()
    finally:
        thread.end()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _with_thread(awaitable: Awaitable[Any]) -> Any:
    context = ThreadSensitiveContext()
    thread = _Thread()
    async with context:
        SyncToAsync.context_to_thread_executor[context] = thread
        try:
            return await awaitable
        finally:
            # Not waited for: a query that goes on though its task was cancelled would hold up the loop.
            SyncToAsync.context_to_thread_executor.pop(context, None)
            thread.end()
            close_caches()  # caches belong to a context, connections to a thread


class _Thread(ThreadPoolExecutor):
    """A thread that starts with its first call."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix=THREAD_PREFIX)
        self._used = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have it call a function."""
        self._used = True
        return super().submit(fn, *args, **kwargs)

    def end(self) -> None:
        """Have it close its connections after what it does now, and end."""
        if self._used:
            self.submit(connections.close_all)
        self.shutdown(wait=False)
