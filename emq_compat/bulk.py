"""A publish as frames, the broker's refusal as an exception, and many publishes under way at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace

from emq_compat.channel import Channel
from emq_compat.errors import (
    BrokerRefused,
    DuplicateTask,
    EmqError,
    JournalUnwritable,
    NotPermitted,
    NotPublished,
    QueueFull,
)
from emq_compat.message import Publish
from emq_compat.protocol.commands import Ack, Command, Reply, Request
from emq_compat.protocol.frames import encode

__all__ = ["Bulk", "joined_to", "publish_frames", "refusal", "refused_as"]

#: Unconfirmed messages under way: enough to fill the broker's batches while it writes one.
_WINDOW = 2_000
_WINDOW_BYTES = 8 << 20


def publish_frames(message: Publish, *, stock: bool) -> list[bytes]:
    """Return the REQUEST of a publish; to our broker it asks for the ACK that promises it is on disk.

    Raises:
        LocalProtocolError: it is too large, or its queue or msgid is no name.
    """
    headers = message.headers
    if not stock and not headers.guarantee:
        headers = replace(headers, guarantee=True)
    request = Request(msgid=message.msgid, queue=message.queue, headers=headers, payload=message.payload)
    return encode(request, stock=stock)


def refused_as(error: object) -> BrokerRefused:
    """Make an exception of the ``{"type", "message"}`` that the broker gives as an error."""
    kind, text = "error", str(error)
    if isinstance(error, dict):
        kind, text = str(error.get("type", kind)), str(error.get("message", ""))
    if kind == QueueFull.__name__:
        return QueueFull(text or None)
    if kind == JournalUnwritable.__name__:
        return JournalUnwritable(text or None)
    if kind == NotPermitted.__name__:
        return NotPermitted(text or None)
    if kind == DuplicateTask.__name__ and isinstance(error, dict):
        return DuplicateTask(text or None, first=str(error.get("first", "")))
    refused = BrokerRefused(text or kind)
    refused.kind = kind
    return refused


def refusal(reply: Reply) -> BrokerRefused | None:
    """Return what a REPLY to a publish refuses it with; None: it is no refusal."""
    if reply.headers is None or reply.headers.state != "REFUSED":
        return None
    try:
        document = json.loads(reply.body)
        return refused_as(document["error"])
    except (ValueError, TypeError, KeyError):
        return BrokerRefused(f"the broker refused it with {reply.body[:200]!a}")


def joined_to(reply: Reply) -> str | None:
    """Return the id of the task that a REPLY to a publish names in its place; None: it names none."""
    if reply.headers is None or reply.headers.state != "JOINED":
        return None
    try:
        return str(json.loads(reply.body)["value"])
    except (ValueError, TypeError, KeyError):
        return None


class Bulk:
    """A bulk publish under way; outlives the connections on which ``run`` carries it on.

    At most a window of messages is unconfirmed; after a cut all of them are said again, in order.
    ``deadline`` (monotonic) lies ``timeout_s`` after the last progress.
    """

    def __init__(self, messages: Iterable[Publish], *, stock: bool, timeout_s: float) -> None:
        self.deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._source = iter(messages)
        self._stock = stock
        self._unconfirmed: dict[str, Publish] = {}
        self._bytes = 0
        self._refused: dict[str, EmqError] = {}
        self._confirmed = 0

    def run(self, channel: Channel) -> None:
        """Publish until all messages are confirmed or refused.

        Raises:
            Cut: the connection is lost: run again on another.
            Silent: the deadline passed.
        """
        for message in self._unconfirmed.values():
            channel.send(publish_frames(message, stock=False), more=True)
        while True:
            self._fill(channel)
            if not self._unconfirmed:
                return
            command: Command | None = channel.receive(self.deadline)
            progress = False
            while command is not None:
                progress = self._take(command) or progress
                command = channel.receive_now()
            if progress:
                self.deadline = time.monotonic() + self._timeout_s

    def raise_refused(self) -> None:
        """Raise NotPublished if some were refused; called when ``run`` has returned."""
        if self._refused:
            raise NotPublished(self._told(), msgids=tuple(self._refused))

    def not_published(self, why: str) -> NotPublished:
        """Make the exception for a bulk that can't go on; reads the rest of the source for its msgids."""
        for message in self._source:
            self._unconfirmed[message.msgid] = message
        missing = (*self._refused, *self._unconfirmed)
        return NotPublished(f"{self._told()}; {why}" if self._refused else self._told(why), msgids=missing)

    def _told(self, why: str = "") -> str:
        total = self._confirmed + len(self._unconfirmed) + len(self._refused)
        parts = []
        if self._unconfirmed:
            parts.append(f"{len(self._unconfirmed)} of {total} messages were not confirmed")
        if why:
            parts.append(why)
        if self._refused:
            msgid, first = next(iter(self._refused.items()))
            parts.append(f"{len(self._refused)} of {total} messages were refused, first {msgid}: {first}")
        return "; ".join(parts)

    def _fill(self, channel: Channel) -> None:
        unconfirmed, stock, send = self._unconfirmed, self._stock, channel.send
        while len(unconfirmed) < _WINDOW and self._bytes < _WINDOW_BYTES:
            message = next(self._source, None)
            if message is None:
                return
            try:
                frames = publish_frames(message, stock=stock)
            except EmqError as exc:
                self._refused[message.msgid] = exc
                continue
            if stock:
                send(frames, more=True)
                self._confirmed += 1
                continue
            if message.msgid not in unconfirmed:
                unconfirmed[message.msgid] = message
                self._bytes += len(message.payload)
            send(frames, more=True)

    def _take(self, command: Command) -> bool:
        """Note an ACK, a refusal, or that another is there; tells whether it was one of this bulk's."""
        if isinstance(command, Ack):
            before = self._confirmed
            for msgid in command.acked:
                message = self._unconfirmed.pop(msgid, None)
                if message is not None:
                    self._bytes -= len(message.payload)
                    self._confirmed += 1
            return self._confirmed > before
        if isinstance(command, Reply) and command.request_msgid in self._unconfirmed:
            if joined_to(command) is not None:
                message = self._unconfirmed.pop(command.request_msgid)
                self._bytes -= len(message.payload)
                self._confirmed += 1
                return True
            refused = refusal(command)
            if refused is not None:
                message = self._unconfirmed.pop(command.request_msgid)
                self._bytes -= len(message.payload)
                self._refused[message.msgid] = refused
                return True
        return False
