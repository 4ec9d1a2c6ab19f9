"""Waiting for results over one connection at a time, with failover: the broker pushes, nothing is polled."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emq_compat.channel import Channel, Channels, Cut, Silent
from emq_compat.errors import OperationalError
from emq_compat.message import FINAL_STATES, SUCCESS, new_id
from emq_compat.protocol.commands import Ask, Reply
from emq_compat.protocol.frames import encode
from emq_compat.stored import StoredResult
from emq_compat.words import amount

__all__ = ["Waiting"]

logger = logging.getLogger(__name__)

#: Ids in one ASK: answers stay small beside the codec's limits.
_WAITS_A_TIME = 10_000
#: The broker forgets a wait after 150 s (docs/protocol.md).
_WAIT_AGAIN_S = 60.0


class Waiting:
    """The results of some tasks, which may become more or fewer, as they become final; for one thread.

    A connection that is cut is replaced, and what is still missing is asked for again: it lasts over restarts
    of the broker. ``timeout_s`` bounds each try to connect.

    Attributes:
        pending: the ids that are waited for.
    """

    def __init__(
        self,
        channels: Channels,
        ids: Iterable[str],
        timeout_s: float,
        *,
        every: bool = False,
        unless_done: Iterable[str] = (),
    ) -> None:
        """``every``: ``take`` also gives each state that a task has on the way.

        ``unless_done``: further ids, of which only those are given that end as anything but SUCCESS. The
        waiting is over when the others are.
        """
        self.pending = dict.fromkeys(ids)
        self._unless_done = {one: None for one in unless_done if one not in self.pending}
        self._channels = channels
        self._timeout_s = timeout_s
        self._channel: Channel | None = None
        self._again = 0.0
        self._told = False
        self._more: dict[str, Any] = {"every": True} if every else {}

    def add(self, ids: Iterable[str]) -> None:
        """Wait for these, too."""
        new = [task_id for task_id in ids if task_id not in self.pending]
        self.pending.update(dict.fromkeys(new))
        self._say("wait", new)

    def discard(self, ids: Iterable[str]) -> None:
        """Don't wait for these any more."""
        gone = [task_id for task_id in ids if task_id in self.pending]
        for task_id in gone:
            del self.pending[task_id]
        self._say("unwait", gone)

    def take(self, deadline: float, wake_fd: int | None = None) -> tuple[str, StoredResult] | None:
        """Return the next (task id, result); None: not until ``deadline``, or ``wake_fd`` can be read."""
        while self.pending:
            channel = self._channel or self._open(deadline)
            if channel is None:
                return None
            try:
                command = channel.receive_now()
                if command is None:
                    woken = channel.sleep(min(self._again, deadline), wake_fd)
                    if woken:
                        return None
                    continue
            except (Cut, Silent) as exc:
                if isinstance(exc, Silent) and time.monotonic() >= deadline:
                    return None
                self._drop()
                continue
            if not isinstance(command, Reply):
                continue
            task_id = command.request_msgid
            asked = self.pending if task_id in self.pending else self._unless_done
            if task_id in asked:
                stored = _pushed(command)
                if stored.state in FINAL_STATES or not self._more:
                    del asked[task_id]
                    if not self.pending:
                        self.close()
                return task_id, stored
        return None

    def close(self) -> None:
        """End the waiting; the connection is given back, and its next user skips what still comes on it."""
        if self._channel is not None:
            self._say("unwait", [*self.pending, *self._unless_done])
        if self._channel is not None:
            channel, self._channel = self._channel, None
            self._channels.give_back(channel)

    def abandon(self) -> None:
        """End the waiting after an error: the connection is closed."""
        self._drop()

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._channels.drop(channel)

    def _say(self, verb: str, ids: Sequence[str]) -> None:
        """Tell the broker; on a connection that is cut nothing is lost, the next one says it all."""
        if self._channel is None or not ids or self._channel.closed:  # closed: all goes to the collector
            return
        try:
            self._ask(verb, self._channel, ids, self._more if verb == "wait" else {})
        except (Cut, Silent):
            self._drop()

    def _open(self, deadline: float) -> Channel | None:
        """Return a connection on which all pending results will come; None: there is none by ``deadline``."""
        while True:
            now = time.monotonic()
            if now >= deadline:
                return None
            until = min(now + self._timeout_s, deadline)
            try:
                channel = self._channels.borrow(until, until - now)
            except OperationalError as exc:
                if not self._told:
                    logger.warning("still waiting for %s: %s", amount(len(self.pending), "result"), exc)
                self._told = True
                if deadline == math.inf:
                    return None  # so that whoever waits for ever hears of changes meanwhile
                continue
            try:
                self._ask("wait", channel, list(self._unless_done), {"failures": True})
                self._ask("wait", channel, list(self.pending), self._more)
            except (Cut, Silent):
                self._channels.drop(channel)
            except BaseException:
                self._channels.drop(channel)
                raise
            else:
                self._channel = channel
                self._again = time.monotonic() + _WAIT_AGAIN_S
                return channel

    @staticmethod
    def _ask(verb: str, channel: Channel, ids: Sequence[str], more: Mapping[str, Any]) -> None:
        for i in range(0, len(ids), _WAITS_A_TIME):
            some = ids[i : i + _WAITS_A_TIME]
            channel.send(encode(Ask(msgid=new_id(), verb=verb, arguments={"ids": some, **more})))


def _pushed(reply: Reply) -> StoredResult:
    if reply.headers is not None:
        return StoredResult(reply.headers.state, body=reply.body)
    document = json.loads(reply.body)
    return StoredResult(document.get("state", SUCCESS), reply=document)
