"""``with app.pipeline():`` – publishes that are confirmed as a whole – and the tries of a single publish."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Protocol

from emq_compat.client import StoredResult
from emq_compat.errors import BrokerRefused, NotPublished, OperationalError
from emq_compat.message import Publish
from emq_compat.shim.exceptions import join_kombu

__all__ = ["Pipeline", "Publisher", "collecting", "publish_with_tries"]


class Publisher(Protocol):
    """What the shim needs of a client: emq_compat.client.Client is one, a test's stand-in another."""

    @property
    def stock(self) -> bool: ...
    def publish(self, message: Publish) -> None: ...
    def publish_all(self, messages: Iterable[Publish]) -> None: ...
    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any: ...
    def results(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]: ...
    def wait(self, ids: Iterable[str], timeout_s: float | None) -> Iterable[tuple[str, StoredResult]]: ...


class Pipeline:
    """Collects what its block publishes and publishes it as one when the block ends.

    A block that raises publishes nothing. Blocks may stand inside each other: the outermost publishes. The
    ids of the tasks are known at once, their results only after the block. Belongs to the thread (or
    coroutine) that opened it.

    Raises, at the block's end: NotPublished; ``msgids`` and the message's text (task ids) name those that
    were not confirmed, all others are on the broker's disk.
    """

    def __init__(self, client: Publisher) -> None:
        self.client = client
        self.messages: list[Publish] = []
        self._token: Token[Pipeline | None] | None = None

    def add(self, message: Publish) -> None:
        """Collect a message."""
        self.messages.append(message)

    def __enter__(self) -> Pipeline:
        outer = collecting.get()
        if outer is not None:
            self.messages = outer.messages
        else:
            self._token = collecting.set(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._token is None:
            return
        collecting.reset(self._token)
        if exc_type is not None or not self.messages:
            return
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


#: The pipeline that is open here.
collecting: ContextVar[Pipeline | None] = ContextVar("emq_compat_pipeline", default=None)


def publish_with_tries(client: Publisher, message: Publish, policy: Mapping[str, Any] | None) -> None:
    """Publish; where the broker doesn't answer, again as Celery's retry policy says.

    It is the same message each time, so it is published once. The client's own limit holds for each try.
    ``policy``: max_retries (3), interval_start (0), interval_step (0.2) and interval_max (1) seconds.
    """
    tries = 0 if policy is None else int(policy.get("max_retries") or 0)
    pause_s = float((policy or {}).get("interval_start", 0))
    while True:
        try:
            client.publish(message)
        except BrokerRefused:
            join_kombu()
            raise
        except OperationalError:
            join_kombu()
            if tries <= 0:
                raise
        else:
            return
        tries -= 1
        threading.Event().wait(pause_s)
        pause_s = min(pause_s + float((policy or {}).get("interval_step", 0.2)), _most(policy))


def _most(policy: Mapping[str, Any] | None) -> float:
    return float((policy or {}).get("interval_max", 1))
