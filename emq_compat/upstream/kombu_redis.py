"""Redis, in the layout of kombu's transport, so that Celery's workers share the queues.

Messages are taken in batches by a script that notes them as unacknowledged in the same step; how an idle
worker waits for them stands in kombu_idle.py. Each worker keeps a list of what it holds, and says every few
seconds that it lives: what one held that says no more is put back by another one. Celery's workers take no
notice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import redis
from kombu.transport.redis import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from emq_compat.celery_message import CeleryMessage
from emq_compat.upstream.kombu_idle import WAITS, Idle, put_back
from emq_compat.upstream.kombu_scripts import ACK, FETCH, RENEW, RESTORE, call
from emq_compat.upstream.kombu_tap import Arrival, Saying, Tap
from emq_compat.words import amount

if TYPE_CHECKING:
    from kombu.connection import Connection

__all__ = ["TAP", "prepare"]

logger = logging.getLogger("emq_compat.upstream.kombu")

#: Sorted set: worker → a number that grows while it lives; and, before a worker's name, the hash of what it
#: holds: tag → list. Both behind the global key prefix.
HOLDERS: Final = "emq-compat.holders"
HELD: Final = "emq-compat.held."
#: Messages taken at once.
_BATCH: Final = 256


def prepare(connection: Connection) -> None:
    """Have a connection, not connected yet, make channels that a tap can take over."""
    transport = connection.transport
    transport.Channel = type("Channel", (_Channel, transport.Channel), {})


class _Channel:
    """What a tap changes of kombu's channel; those of others, remote control's for instance, are as ever."""

    tap: RedisTap | None = None

    def _brpop_start(self, timeout: Any = None) -> None:
        if self.tap is None:
            super()._brpop_start(timeout)  # type: ignore[misc]


class _TapQoS(QoS):
    """Knows nothing of messages: the tap has them."""

    restore_at_shutdown = False

    def __init__(self, channel: Any, tap: RedisTap) -> None:
        super().__init__(channel)  # type: ignore[no-untyped-call]
        self._tap = tap

    def can_consume(self) -> bool:
        return False  # the tap does, in its own ways

    def append(self, message: Any, delivery_tag: str) -> None:
        """Do nothing: the tap notes it."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Do nothing: the tap gives back what is to go back."""


class RedisTap(Tap):
    """Takes from the lists of its queues, in the order of their priorities.

    Attributes:
        credit: how many more messages are wanted.
    """

    survives = True

    def _attach(self) -> None:
        self.credit = 0
        self._cancelled = False
        self._queues: tuple[str, ...] = ()
        self._turns = 0
        self._acks: list[str] = []
        self._backs: list[tuple[tuple[str, str], bool]] = []
        channel = self._channel = self.connection.channel()
        prefix = self._prefix = channel.global_keyprefix or ""
        self._unacked = prefix + channel.unacked_key
        self._index = prefix + channel.unacked_index_key
        self._held = f"{prefix}{HELD}{self.name}"
        self._holders = prefix + HOLDERS
        self._visible_s = float(channel.visibility_timeout)
        self._beat_due = self._renew_due = 0.0
        #: Other worker → (its number, since when it has not grown, in how many looks).
        self._seen: dict[str, tuple[float, float, int]] = {}
        self._looked_at = 0.0
        channel._qos = _TapQoS(channel, self)
        channel.tap = self
        self._idle = Idle(channel.client, self.hub, prefix, self.name, self._moved)
        self.connection.transport.register_with_event_loop(self.connection.connection, self.hub)
        # That our messages are due is told to the server before it is to say whose have expired.
        self.beat()

    def open(self, queues: Sequence[Any]) -> None:
        self._cancelled = False
        self.listen(queues)

    def listen(self, queues: Sequence[Any]) -> None:
        channel = self._channel
        wanted = tuple(queue.name for queue in queues)
        for queue in queues:
            if queue.name not in self._queues:
                self.declare(channel, queue)
                channel.basic_consume(queue.name, False, _never, queue.name)
        for name in self._queues:
            if name not in wanted:
                channel.basic_cancel(name)
        self._queues = wanted
        self._idle.listen(self._lists(wanted))

    def _lists(self, queues: Sequence[str]) -> list[str]:
        """Return the lists of these queues: all of the first priority, all of the next …"""
        channel = self._channel
        steps = channel.priority_steps
        return [self._prefix + channel._q_for_pri(queue, step) for step in steps for queue in queues]

    def want(self, credit: int, held: int) -> None:
        self.credit = credit
        if credit > 0 and self._queues and not self._cancelled:
            self._fetch()
            if self.credit > 0:
                self._idle.wait()

    def _fetch(self) -> None:
        """Take as much as is wanted and there."""
        queues = self._queues
        self._turns += 1
        first = self._turns % len(queues)
        order = queues[first:] + queues[:first]
        channel = self._channel
        keys = self._lists(order)
        wanted = min(self.credit, _BATCH)
        with channel.conn_or_acquire() as client:
            taken = call(
                client,
                FETCH,
                [self._unacked, self._index, self._held, *keys],
                [wanted, len(order), repr(time.time())],
            )
        for position in range(0, len(taken), 2):
            self._read(taken[position + 1], order[(int(taken[position]) - 1) % len(order)])

    def _moved(self, own: str, origin: str) -> None:
        """Take what came while this worker was idle, from its own list; it came from the list ``origin``."""
        with self._channel.conn_or_acquire() as client:
            keys = [self._unacked, self._index, self._held, own]
            taken = call(client, FETCH, keys, [_BATCH, 1, repr(time.time()), origin])
        queue = origin.removeprefix(self._prefix).rsplit(self._channel.sep, 1)[0]
        for raw in taken[1::2]:
            self._read(raw, queue)

    def _read(self, raw: Any, queue: str) -> None:
        """Give on a message that is noted as held."""
        try:
            payload = loads(bytes_to_str(raw))
        except ValueError:
            payload = {"body": raw, "headers": {}, "properties": {}}
        self._arrived(payload, queue)

    def _arrived(self, payload: Any, queue: str) -> None:
        properties = payload.get("properties") or {}
        headers = payload.get("headers") or {}
        tag = properties.get("delivery_tag") or ""
        told = properties.get("delivery_info") or {}
        self.credit -= 1
        if self._cancelled or self.credit < 0:  # as many come at once as there are lists that are waited for
            self.give_back((tag, queue), began=False)
            return
        body = payload.get("body") or b""
        try:
            body = self._channel.decode_body(body, properties.get("body_encoding"))
        except Exception as exc:  # noqa: BLE001 - it is refused by whoever reads it
            logger.debug("a body can't be decoded: %r", exc)
        self.take(
            Arrival(
                message=CeleryMessage(
                    body=body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body,
                    content_type=payload.get("content-type") or "application/data",
                    content_encoding=payload.get("content-encoding") or "binary",
                    headers=headers,
                    properties={
                        name: value
                        for name, value in properties.items()
                        if name not in ("delivery_info", "delivery_tag", "body_encoding")
                    },
                ),
                queue=queue,
                tag=(tag, queue),
                identity=tag,
                redelivered=bool(headers.get("redelivered") or told.get("redelivered")),
            )
        )

    # What became of them.

    def ack(self, tag: Any) -> None:
        self._acks.append(tag[0])

    def reject(self, tag: Any) -> None:
        self._acks.append(tag[0])

    def give_back(self, tag: Any, *, began: bool) -> None:
        self._backs.append((tag, began))

    def flush(self) -> None:
        if self._acks:
            with self._channel.conn_or_acquire() as client:
                call(client, ACK, [self._unacked, self._index, self._held], self._acks)
            self._acks = []
        if self._backs:
            self._restore(self._held, {tag: began for (tag, _), began in self._backs})
            self._backs = []

    def unsaid(self) -> list[Saying]:
        return [
            *(("ack", (tag, ""), {}) for tag in self._acks),
            *(("give_back", tag, {"began": began}) for tag, began in self._backs),
        ]

    def _restore(self, held: str, tags: Mapping[str, bool | None]) -> int:
        """Put messages of a worker back; ``tags`` says whether they began: those come last. None: unknown."""
        channel = self._channel
        with channel.conn_or_acquire() as client:
            kept = redis.Redis.execute_command(client, "HMGET", self._unacked, *tags)
            arguments: list[Any] = []
            for (tag, began), text in zip(tags.items(), kept, strict=True):
                if text is None:
                    arguments += [tag, "", ""]
                    continue
                payload = loads(bytes_to_str(text))[0]
                if began is not False:
                    payload.setdefault("headers", {})["redelivered"] = True
                    payload["properties"].setdefault("delivery_info", {})["redelivered"] = True
                arguments += [tag, dumps(payload), "LPUSH" if began else "RPUSH"]
            return int(call(client, RESTORE, [self._unacked, self._index, held], arguments))

    # Who lives.

    def beat(self) -> None:
        now = time.monotonic()
        dead_after_s = self.settings.dead_after_s
        if now < self._beat_due:
            return
        self._beat_due = now + min(dead_after_s / 4, self._visible_s / 4)
        with self._channel.conn_or_acquire() as client:
            redis.Redis.execute_command(client, "ZADD", self._holders, repr(time.time()), self.name)
            if now >= self._renew_due:
                call(client, RENEW, [self._index, self._held], [repr(time.time())])
                self._renew_due = now + self._visible_s / 4
            others = redis.Redis.execute_command(client, "ZRANGE", self._holders, 0, -1, "WITHSCORES")
        self._look_after(_scored(others), now)

    def _look_after(self, others: dict[str, float], now: float) -> None:
        """Put back what those held that have not said, while this one looked for so long, that they live."""
        dead_after_s = self.settings.dead_after_s
        if now - self._looked_at > dead_after_s:
            self._seen.clear()  # the server, or this one, was away: so may others have been
        self._looked_at = now
        seen: dict[str, tuple[float, float, int]] = {}
        for worker, number in others.items():
            before = self._seen.get(worker)
            if before is None or before[0] != number:
                seen[worker] = (number, now, 1)
            else:
                seen[worker] = (number, before[1], before[2] + 1)
        self._seen = seen
        for worker, (_, since, looks) in list(seen.items()):
            if worker != self.name and now - since >= dead_after_s and looks > 3:
                try:
                    self._bury(worker)
                except redis.exceptions.ResponseError as exc:
                    logger.error("what %s held can't be put back: %s", worker, exc)

    def _bury(self, worker: str) -> None:
        held = f"{self._prefix}{HELD}{worker}"
        with self._channel.conn_or_acquire() as client:
            tags = [bytes_to_str(tag) for tag in redis.Redis.execute_command(client, "HKEYS", held)]
        count = self._restore(held, dict.fromkeys(tags)) if tags else 0
        with self._channel.conn_or_acquire() as client:
            count += put_back(client, f"{self._prefix}{WAITS}{worker}")
            redis.Redis.execute_command(client, "ZREM", self._holders, worker)
        self._seen.pop(worker, None)
        if count:
            held_by_it = amount(count, "message")
            logger.warning("%s says no more that it lives; what it held goes back: %s", worker, held_by_it)

    # The end.

    def cancel(self) -> None:
        self._cancelled = True
        self.credit = 0

    def close(self) -> None:
        channel = self._channel
        self._cancelled = True
        self._idle.close()
        self.flush()
        for queue in self._queues:
            channel.basic_cancel(queue)
        self._queues = ()
        with channel.conn_or_acquire() as client:
            redis.Redis.execute_command(client, "DEL", self._held)
            redis.Redis.execute_command(client, "ZREM", self._holders, self.name)
        channel.close()


def _never(message: Any) -> None:
    """Is told of no message: kombu doesn't take any."""


def _scored(answer: Any) -> dict[str, float]:
    """Return member → score of an answer in either of redis-py's shapes."""
    if answer and isinstance(answer[0], (list, tuple)):
        return {bytes_to_str(name): float(score) for name, score in answer}
    return {bytes_to_str(answer[i]): float(answer[i + 1]) for i in range(0, len(answer), 2)}


TAP = RedisTap
