"""What a task of a genuine app stores and publishes at its end, held back for its Outcome.

Celery's tracer stores results and publishes callbacks, retries and chord bodies by itself. While our worker
runs a task whose broker and result backend are both ``emq://``, there is a Capture: the transport gives it
each message before sending it, the result backend each final state before storing it. What the Capture takes
becomes part of the Reply: one transaction in the broker. What it doesn't take is sent as always.

| who asks | is taken |
| --- | --- |
| ``publish``, while the body runs | what repeats or replaces the running task |
| ``publish``, after the body | everything |
| ``store`` | a state of the running task; one that isn't final is told at once, by the worker |

A Capture belongs to one thread: what the task's other threads do is not its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from emq_compat.message import FINAL_STATES, IGNORED, RETRY, Publish
from emq_compat.run import Report

__all__ = ["Capture", "capturing", "current", "replaces_current"]

_current: ContextVar[Capture | None] = ContextVar("emq_compat_capture", default=None)


def current() -> Capture | None:
    """Return the Capture of the task that this thread runs; None: what is sent and stored leaves at once."""
    return _current.get()


@contextmanager
def capturing(capture: Capture | None) -> Iterator[None]:
    """Have this be the Capture inside of the block; None: there is none."""
    token = _current.set(capture)
    try:
        yield
    finally:
        _current.reset(token)


def replaces_current(message: Mapping[str, Any]) -> bool:
    """Whether a message of kombu's is one of those by which the running task is replaced (Task.replace)."""
    nesting = (message.get("headers") or {}).get("replaced_task_nesting")
    if not nesting:
        return False
    from celery._state import get_current_task  # noqa: PLC0415 - kombu is used without celery, too

    task = get_current_task()
    return task is not None and nesting > (task.request.get("replaced_task_nesting") or 0)


class Capture:
    """The end of one run, as far as it has come.

    Args:
        task_id: of the running task.
        report: tells the broker a state that isn't final; None: the result backend does it.

    Attributes:
        follow_ups: messages taken, in their order.
        state, body: the last state that was stored and its reply JSON (``{"value": …, "state": …}``);
            None: none was.
        keep_s: how long that state is to be kept in seconds, 0: without end; None: as the broker is told.
        in_body, body_ended: the task's body has begun; it has returned or raised.
    """

    __slots__ = ("_report", "body", "body_ended", "follow_ups", "in_body", "keep_s", "state", "task_id")

    def __init__(self, task_id: str, report: Report | None = None) -> None:
        self.task_id = task_id
        self._report = report
        self.in_body = False
        self.follow_ups: list[Publish] = []
        self.state: str | None = None
        self.body: bytes | None = None
        self.keep_s: float | None = None
        self.body_ended = False

    def publish(self, message: Publish, *, replaces: bool = False) -> bool:
        """Take a message; False: it is to be sent at once.

        ``replaces``: it belongs to what the running task is replaced by, under whatever id: a chain's first
        step, a chord's parts.
        """
        if not self.body_ended and not replaces and message.headers.task_id != self.task_id:
            return False
        self.follow_ups.append(message)
        return True

    def store(self, task_id: str, state: str, body: bytes, keep_s: float | None = None) -> bool:
        """Take a state of a task, its reply JSON and how long it is kept; False: it is to be stored."""
        if task_id != self.task_id:
            return False
        if state in _AT_THE_END:
            self.state, self.body, self.keep_s = state, body, keep_s
            return True
        if self._report is None:
            return False
        self._report(state, body)
        return True


_AT_THE_END = FINAL_STATES | {RETRY, IGNORED}
