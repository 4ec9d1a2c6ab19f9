"""What is announced under some topics, over one connection at a time: the broker pushes, it keeps nothing."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterable

from emq_compat.bulk import refused_as
from emq_compat.channel import Channel, Channels, Cut, Silent
from emq_compat.errors import OperationalError
from emq_compat.message import new_id
from emq_compat.protocol.commands import Answer, Ask, Command, PublishTopic
from emq_compat.protocol.frames import encode
from emq_compat.words import amount

__all__ = ["Subscription"]

logger = logging.getLogger(__name__)

#: The broker sends 1,000 messages and 8 MiB, and remembers the subscription for 150 s (docs/protocol.md): it
#: is asked again well before.
_AGAIN_MESSAGES = 400
_AGAIN_BYTES = 3 << 20
_AGAIN_S = 60.0


class Subscription:
    """Takes in what is announced; for one thread.

    A connection that is cut is replaced at the next ``take``; what is announced meanwhile is missed. So is
    what isn't taken in time: the broker drops it.

    Args:
        topics: what the topics begin with; an empty text: all of them.
        timeout_s: bounds each try to connect.

    Attributes:
        missed: how many messages the broker has dropped because they were not taken in time, as far as known.
        opened: how often a broker has taken the subscription.
    """

    def __init__(self, channels: Channels, topics: Iterable[str], timeout_s: float) -> None:
        self.topics = tuple(topics)
        self.missed = 0
        self.opened = 0
        self._channels = channels
        self._timeout_s = timeout_s
        self._channel: Channel | None = None
        self._early: deque[PublishTopic] = deque()
        self._asked = ""
        self._messages_left = 0
        self._bytes_left = 0
        self._again = 0.0

    @property
    def connected(self) -> bool:
        """Whether a broker has taken the subscription, as far as is known."""
        return self._channel is not None

    def open(self, timeout_s: float | None = None) -> None:
        """Connect, unless that is done: what is announced from now on comes.

        Raises:
            OperationalError: no broker answers in time, or it doesn't know subscriptions.
        """
        if self._channel is not None:
            return
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            channel = self._channels.borrow(deadline, limit_s)
            try:
                self._ask(channel)
                while not isinstance(command := channel.receive(deadline), Answer):
                    self._keep(command)
                self._take_answer(command)
            except (Cut, Silent) as exc:
                self._channels.drop(channel)
                if time.monotonic() >= deadline:
                    where = f"the broker at {channel.address}"
                    raise OperationalError(f"{where} took no subscription within {limit_s:.3g} s") from exc
            except BaseException:
                self._channels.drop(channel)
                raise
            else:
                self._channel = channel
                self.opened += 1
                return

    def take(self, deadline: float) -> PublishTopic | None:
        """Return the next message; None: not until ``deadline`` (monotonic).

        Raises:
            OperationalError: there is no broker; the next call tries again.
        """
        while True:
            if self._early:
                return self._early.popleft()
            now = time.monotonic()
            if self._channel is None:
                self.open(max(0.0, min(self._timeout_s, deadline - now)))
                continue
            channel = self._channel
            try:
                if self._messages_left <= 0 or self._bytes_left <= 0 or now >= self._again:
                    self._ask(channel)
                command = channel.receive_now()
                if command is None:
                    channel.sleep(min(self._again, deadline))
                    continue
            except Silent:
                if time.monotonic() >= deadline:
                    return None
                continue
            except Cut as exc:
                logger.warning("the connection to %s was cut, announcements may be missed", channel.address)
                logger.debug("it was cut", exc_info=exc)
                self._drop()
                continue
            if isinstance(command, PublishTopic):
                self._messages_left -= 1
                self._bytes_left -= len(command.payload)
                return command
            if isinstance(command, Answer) and command.asked == self._asked:
                self._take_answer(command)

    def close(self) -> None:
        """End it: the broker forgets it with the connection. A later ``take`` begins anew."""
        self._early.clear()
        self._drop()

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._channels.drop(channel)

    def _keep(self, command: Command) -> None:
        if isinstance(command, PublishTopic):
            self._early.append(command)

    def _ask(self, channel: Channel) -> None:
        self._asked = new_id()
        arguments = {"topics": list(self.topics)}
        channel.send(encode(Ask(msgid=self._asked, verb="subscribe", arguments=arguments)))
        self._messages_left, self._bytes_left = _AGAIN_MESSAGES, _AGAIN_BYTES
        self._again = time.monotonic() + _AGAIN_S

    def _take_answer(self, answer: Answer) -> None:
        try:
            document = json.loads(answer.body)
            refused = None if "ok" in document else refused_as(document["error"])
            missed = document["ok"]["dropped"] if refused is None else 0
        except (ValueError, LookupError, TypeError, RecursionError) as exc:
            raise OperationalError(f"the broker's answer to 'subscribe' can't be read: {exc!r}") from exc
        if refused is not None:
            raise refused
        if missed > self.missed:
            logger.warning(
                "dropped, for they were not taken in time: %s", amount(missed - self.missed, "announcement")
            )
        self.missed = missed
