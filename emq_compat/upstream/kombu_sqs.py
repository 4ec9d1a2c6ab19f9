"""SQS: what is held here stays invisible while it is, and is named by its receipt, not by a connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from emq_compat.upstream.kombu_plain import PlainTap
from emq_compat.upstream.kombu_plain import prepare as prepare_plain
from emq_compat.upstream.kombu_tap import Saying

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["TAP", "prepare"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: What a look at a queue may take, in seconds, unless the settings say: what is to be said waits for it.
_LOOK_S: Final = 1


def prepare(connection: Connection) -> None:
    """Have looks at queues be short."""
    options: Any = connection.transport_options
    options.setdefault("wait_time_seconds", _LOOK_S)
    prepare_plain(connection)


class SqsTap(PlainTap):
    """A tag is (queue, its URL, receipt)."""

    survives = True

    def _attach(self) -> None:
        super()._attach()
        self._channel.do_restore = False  # it would send a copy of what becomes visible by itself
        self._visible_s = float(self._channel.visibility_timeout)
        self._held: dict[Any, None] = {}
        self._renew_due = time.monotonic() + self._visible_s / 3
        self._sayings: list[Saying] = []

    def keep(self, tags: Any) -> None:
        self._held.update(dict.fromkeys(tags))

    def _tag(self, message: Any, queue: str) -> tuple[Any, str, bool]:
        told = message.delivery_info
        sqs = told["sqs_message"]
        message.channel.qos.ack(message.delivery_tag)  # this tap has it now
        tag = (queue, told["sqs_queue"], sqs["ReceiptHandle"])
        self._held[tag] = None
        count = (sqs.get("Attributes") or {}).get("ApproximateReceiveCount", 1)
        return tag, str(sqs.get("MessageId", "")), int(count) > 1

    def ack(self, tag: Any) -> None:
        self._sayings.append(("ack", tag, {}))

    def reject(self, tag: Any) -> None:
        self._sayings.append(("reject", tag, {}))

    def give_back(self, tag: Any, *, began: bool) -> None:
        self._sayings.append(("give_back", tag, {"began": began}))

    def unsaid(self) -> list[Saying]:
        return self._sayings

    def flush(self) -> None:
        while self._sayings:
            what, tag, _ = self._sayings[0]
            queue, url, _ = tag
            channel = self._channel
            # Where SQS itself keeps dead letters it counts how often one came.
            returns = what == "give_back" or (
                what == "reject" and channel._has_redrive_policy(channel.canonical_queue_name(queue), url)
            )
            if returns:
                self._say(tag, lambda client, to: client.change_message_visibility(**to, VisibilityTimeout=0))
            else:
                self._say(tag, lambda client, to: client.delete_message(**to))
            self._held.pop(tag, None)
            self._sayings.pop(0)

    def _say(self, tag: Any, said: Callable[[Any, dict[str, str]], object]) -> None:
        from botocore.exceptions import ClientError  # noqa: PLC0415 - an optional extra

        queue, url, receipt = tag
        client = self._channel.sqs(queue=self._channel.canonical_queue_name(queue))
        try:
            said(client, {"QueueUrl": url, "ReceiptHandle": receipt})
        except ClientError as exc:
            logger.warning("SQS takes no word on a message of %s: %s", queue, exc)

    def beat(self) -> None:
        if time.monotonic() < self._renew_due:
            return
        self._renew_due = time.monotonic() + self._visible_s / 3
        seconds = int(self._visible_s)
        for tag in list(self._held):
            self._say(
                tag, lambda client, to: client.change_message_visibility(**to, VisibilityTimeout=seconds)
            )


TAP = SqsTap
