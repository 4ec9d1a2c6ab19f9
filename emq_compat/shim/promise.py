"""A promise: callbacks that are called once, as soon as there is something to call them with."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Promise"]

logger = logging.getLogger("emq_compat.task")


class Promise:
    """Called once with arguments, it calls what ``then`` was given, before or after.

    Attributes:
        ready: it has been called.
        cancelled: nothing will be called any more.
        failed: ``throw`` was called, or its own function raised; ``reason`` is the exception.
        value: the arguments that it was called with: none, the only one, or a tuple of them.
    """

    def __init__(
        self,
        fun: Callable[..., Any] | None = None,
        args: tuple[Any, ...] = (),
        *,
        on_error: Callable[[BaseException], Any] | None = None,
    ) -> None:
        """``fun(*args, *called_with)`` is called first; what it raises goes to ``on_error``, or is logged."""
        self.fun = fun
        self.args = args
        self.on_error = on_error
        self.ready = self.cancelled = self.failed = False
        self.value: Any = None
        self.reason: BaseException | None = None
        self._called_with: tuple[Any, ...] = ()
        self._waiting: list[Promise] = []
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> None:
        """Fulfil it; a second call does nothing."""
        with self._lock:
            if self.ready or self.cancelled:
                return
            self.ready = True
            self._called_with = args
            self.value = args[0] if len(args) == 1 else args or None
            waiting, self._waiting = self._waiting, []
        if self.fun is not None:
            try:
                self.fun(*self.args, *args)
            except Exception as exc:  # noqa: BLE001 - a callback of the user's; told or logged
                self._failed(exc)
        for promise in waiting:
            promise(*args)

    def then(
        self, callback: Callable[..., Any], on_error: Callable[[BaseException], Any] | None = None
    ) -> Promise:
        """Have ``callback`` called with what this is called with, maybe at once; returns its promise."""
        promise = callback if isinstance(callback, Promise) else Promise(callback, on_error=on_error)
        with self._lock:
            if not self.ready:
                self._waiting.append(promise)
                return promise
        promise(*self._called_with)
        return promise

    def throw(self, exc: BaseException | None = None, *args: Any) -> None:
        """Raise an exception, unless ``on_error`` takes it."""
        reason = exc or self.reason or RuntimeError("thrown")
        self.failed, self.reason = True, reason
        if self.on_error is None:
            raise reason
        self.on_error(reason)

    def cancel(self) -> None:
        """Call nothing any more."""
        self.cancelled = True
        with self._lock:
            self._waiting.clear()

    def _failed(self, exc: Exception) -> None:
        self.failed, self.reason = True, exc
        if self.on_error is not None:
            self.on_error(exc)
        else:
            logger.error("the callback %r of a result failed", self.fun, exc_info=exc)
