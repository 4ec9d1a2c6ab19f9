"""``with app.pipeline():`` – publishes that are confirmed as a whole – and the tries of a single publish."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol

from emq_compat.errors import BrokerRefused, NotConfirmed, NotPublished, OperationalError
from emq_compat.message import Publish
from emq_compat.shim.exceptions import join_kombu
from emq_compat.stored import StoredResult

__all__ = ["Pipeline", "Publisher", "collecting", "pipeline_of", "publish_with_tries"]


class Publisher(Protocol):
    """What the shim needs of a client: emq_compat.client.Client is one, a test's stand-in another."""

    @property
    def stock(self) -> bool: ...
    def publish(self, message: Publish) -> str | None: ...
    def publish_all(self, messages: Iterable[Publish]) -> None: ...
    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any: ...
    def results(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]: ...
    def wait(
        self, ids: Iterable[str], timeout_s: float | None, *, unless_done: Iterable[str] = ()
    ) -> Iterable[tuple[str, StoredResult]]: ...


class Pipeline:
    """Collects what its block publishes and publishes it as one when the block ends.

    A block that raises publishes nothing. Blocks of one app may stand inside each other: the outermost
    publishes. The ids of the tasks are known at once, their results only after the block. Belongs to the
    thread (or coroutine) that opened it; other threads publish as ever.

    Raises, at the block's end: NotPublished; ``msgids`` and the message's text (task ids) name those that
    were not confirmed, all others are on the broker's disk.
    """

    def __init__(self, client: Publisher | None) -> None:
        #: None: any client's messages are collected.
        self.client = client
        self.messages: list[Publish] = []
        #: The pipeline open around it, which may be another broker's.
        self.around: Pipeline | None = None
        self._token: Token[Pipeline | None] | None = None

    def add(self, message: Publish) -> None:
        """Collect a message."""
        self.messages.append(message)

    def __enter__(self) -> Pipeline:
        assert self.client is not None
        outer = pipeline_of(self.client)
        if outer is not None:
            self.messages = outer.messages
        else:
            self.around = _innermost.get()
            self._token = _innermost.set(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._token is None:
            return
        _innermost.reset(self._token)
        if exc_type is not None or not self.messages:
            return
        assert self.client is not None
        try:
            self.client.publish_all(self.messages)
        except NotPublished as error:
            join_kombu()
            missing = set(error.msgids)
            ids = [m.headers.task_id for m in self.messages if m.msgid in missing]
            shown = ", ".join(ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
            raise NotPublished(
                f"{len(ids)} of {len(self.messages)} tasks were not published ({error}): {shown}",
                msgids=error.msgids,
            ) from error
        except OperationalError:
            join_kombu()
            raise


_innermost: ContextVar[Pipeline | None] = ContextVar("emq_compat_pipeline", default=None)


def pipeline_of(client: Publisher) -> Pipeline | None:
    """Return the pipeline that is open here for this client's broker."""
    pipeline = _innermost.get()
    while pipeline is not None and pipeline.client is not None and pipeline.client is not client:
        pipeline = pipeline.around
    return pipeline


@contextmanager
def collecting() -> Iterator[list[Publish]]:
    """Collect what the block publishes, to whatever broker, and leave it to the caller to publish it."""
    collector = Pipeline(None)
    collector.around = _innermost.get()
    token = _innermost.set(collector)
    try:
        yield collector.messages
    finally:
        _innermost.reset(token)


def publish_with_tries(client: Publisher, message: Publish, policy: Mapping[str, Any] | None) -> str | None:
    """Publish; where the broker doesn't answer, again as Celery's retry policy says.

    Returns the id of the task that is there in its place, if it is a unique one that joins another.

    It is the same message each time, so it is published once. The client's own limit holds for each try.
    ``policy``: max_retries (3; None: without end), interval_start (0), interval_step (0.2) and interval_max
    (0.2), in seconds; None: one try.
    """
    most = 0 if policy is None else policy.get("max_retries", 3)
    tries = math.inf if most is None else most
    pause_s = _seconds(policy, "interval_start", 0)
    while True:
        try:
            return client.publish(message)
        except (BrokerRefused, NotConfirmed):
            join_kombu()
            raise
        except OperationalError:
            join_kombu()
            if tries <= 0:
                raise
        tries -= 1
        time.sleep(pause_s)
        pause_s = min(pause_s + _seconds(policy, "interval_step", 0.2), _seconds(policy, "interval_max", 0.2))


def _seconds(policy: Mapping[str, Any] | None, name: str, default: float) -> float:
    value = (policy or {}).get(name)
    return default if value is None else float(value)
