"""A producer's connection to the broker: publish with confirm, wait for results, ask."""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from emq_compat.address import Address
from emq_compat.bulk import Bulk, joined_to, publish_frames, refusal, refused_as
from emq_compat.channel import Channel, Channels, Cut, Silent
from emq_compat.errors import BrokerRefused, OperationalError
from emq_compat.ids import plain_name
from emq_compat.message import Publish, new_id
from emq_compat.protocol.commands import Ack, Answer, Ask, PublishTopic, Reply
from emq_compat.protocol.frames import encode
from emq_compat.stored import StoredResult
from emq_compat.subscription import Subscription
from emq_compat.waiting import Waiting
from emq_compat.words import amount

__all__ = ["Client", "StoredResult", "client_for"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Ids in one ASK: answers stay small beside the codec's limits.
_RESULTS_A_TIME = 1_000
#: How long an announcement may hold its caller up.
_ANNOUNCE_S = 1.0
#: For so long none is tried after one that has.
_ANNOUNCE_AGAIN_S = 2.0


class Client:
    """Synchronous, for any number of threads, and safe across fork.

    Every call ends within its time limit, whatever the broker does. ``addresses`` is a URL (``;`` separates
    failover addresses) or what Address.parse made of one. ``timeout_s`` bounds each call that names no other
    limit. ``identity`` begins the names under which the broker sees this client's connections.
    ``pool_limit`` is the number of idle connections kept (Celery's broker_pool_limit).

    A stock router (``tcp://``, ``?stock=1``) confirms nothing, keeps no results: publish returns once sent,
    and ask, results and wait raise OperationalError at once.
    """

    def __init__(
        self,
        addresses: str | Sequence[Address],
        *,
        timeout_s: float = 4.0,
        identity: str | None = None,
        pool_limit: int = 10,
    ) -> None:
        parsed = Address.parse(addresses) if isinstance(addresses, str) else tuple(addresses)
        self.addresses: tuple[Address, ...] = parsed
        self.timeout_s = timeout_s
        self._identity = identity or "client"
        self._pool_limit = pool_limit
        self._by_pid: dict[int, Channels] = {}
        self._no_announcement_before = 0.0

    def __repr__(self) -> str:
        return f"Client({';'.join(map(str, self.addresses))!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, exc: object, trace: object) -> None:
        self.close()

    @property
    def stock(self) -> bool:
        """True when the addresses are stock routers': nothing is confirmed, no results exist."""
        return self.addresses[0].stock

    def publish(self, message: Publish) -> str | None:
        """Publish one message; returns once it is on the broker's disk.

        Returns the id of the task that is there in its place, where it is a unique one that joins another
        (nothing of it is stored then); otherwise None.

        Calling it again with the same Publish (the same msgid) after an error never makes a second message.

        Raises:
            QueueFull, DuplicateTask, BrokerRefused: the broker refused it.
            LocalProtocolError: it is too large, or its queue is no name; nothing was sent.
            OperationalError: not confirmed within ``timeout_s``; it names the address and the limit. Whether
                the message is on the broker's disk is then unknown; it won't leave this process any more.
        """
        stock = self.stock
        frames = publish_frames(message, stock=stock)
        msgid = message.msgid

        def confirm(channel: Channel, deadline: float) -> str | None:
            channel.send(frames)
            while not stock:
                command = channel.receive(deadline)
                if isinstance(command, Ack):
                    if msgid in command.acked:
                        return None
                elif isinstance(command, Reply) and command.request_msgid == msgid:
                    if (first := joined_to(command)) is not None:
                        return first
                    refused = refusal(command)
                    if refused is not None:
                        raise refused
            return None

        return self._perform(self.timeout_s, "did not confirm a message", confirm)

    def publish_all(self, messages: Iterable[Publish]) -> None:
        """Publish many, pipelined; returns once all are on the broker's disk.

        ``timeout_s`` bounds the time without any progress, not the whole. A message that is refused, or that
        can't be encoded, stops none of the others.

        Raises:
            NotPublished: ``msgids`` are those that were refused (the message says why) or not confirmed.
        """
        bulk = Bulk(messages, stock=self.stock, timeout_s=self.timeout_s)
        channels = self._own()
        cuts = 0
        while True:
            try:
                channel = channels.borrow(bulk.deadline, self.timeout_s)
            except OperationalError as exc:
                raise bulk.not_published(str(exc)) from exc
            try:
                bulk.run(channel)
            except Cut as exc:
                cuts += 1
                if not channels.after_cut(channel, cuts, bulk.deadline):
                    raise bulk.not_published(_cut_off(channel, cuts, self.timeout_s)) from exc
            except Silent as exc:
                channels.drop(channel)
                channels.distrust()
                why = f"the broker at {channel.address} did not answer within {self.timeout_s:g} s"
                raise bulk.not_published(why) from exc
            except OperationalError as exc:
                channels.drop(channel)
                raise bulk.not_published(str(exc)) from exc
            except BaseException:
                channels.drop(channel)
                raise
            else:
                channels.give_back(channel)
                bulk.raise_refused()
                return

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Ask the broker (docs/protocol.md, verbs) and return the answer's ``ok``; for ``inspect`` see there.

        After a cut it is asked again: counts (of ``purge``, ``dead_drop`` …) are those of the last time.

        Raises:
            BrokerRefused: the answer is an error; the message holds its type and message.
            OperationalError: no answer in time.
        """
        return self._ask(verb, arguments, self.timeout_s if timeout_s is None else timeout_s)

    def inspect(
        self,
        verb: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        timeout_s: float = 1.0,
    ) -> dict[str, Any]:
        """Ask workers through the broker; returns worker's name → its answer, of those that gave one in time.

        ``destination`` names the workers (None: all). Raises as ``ask``.
        """
        asked = {"verb": verb, "arguments": dict(arguments or {}), "timeout_s": timeout_s}
        # A beat is known by its name as it is, a worker by what a socket's identity can hold of it.
        names = None if destination is None else [*destination, *map(plain_name, destination)]
        asked["destination"] = None if names is None else list(dict.fromkeys(names))
        answers: dict[str, Any] = self._ask("inspect", asked, timeout_s + self.timeout_s)
        return answers

    def results(self, ids: Sequence[str]) -> dict[str, StoredResult | None]:
        """Return what is stored of each task id now; None: nothing (pending, unknown or expired).

        Raises as ``ask``.
        """
        found: dict[str, StoredResult | None] = {}
        for i in range(0, len(ids), _RESULTS_A_TIME):
            some = list(ids[i : i + _RESULTS_A_TIME])
            stored = self._ask("results", {"ids": some}, self.timeout_s)
            for task_id in some:
                one = stored.get(task_id)
                found[task_id] = None if one is None else StoredResult(one["state"], reply=one["reply"])
        return found

    def wait(
        self,
        ids: Iterable[str],
        timeout_s: float | None,
        on_result: Callable[[str, StoredResult], object] | None = None,
        unless_done: Iterable[str] = (),
    ) -> Iterator[tuple[str, StoredResult]]:
        """Yield (task id, result) of each id as soon as its result is final, in the order they become so.

        The broker pushes; nothing is polled. Lasts over restarts of the broker. ``timeout_s`` is for all of
        them, from the first ``next`` (None: for ever). ``on_result`` is called with each before its yield.
        ``unless_done``: further ids, of which only those are yielded, while the others are waited for, that
        end as anything but SUCCESS; a broker that is older yields the others, too.

        Raises:
            TimeoutError: some are not final within ``timeout_s``; those that were have been yielded.
            OperationalError: the address is a stock router's; raised at once.
        """
        self._need_ours("wait")
        waiting = Waiting(self._own(), ids, self.timeout_s, unless_done=unless_done)
        return self._waited(waiting, timeout_s, on_result)

    def announce(self, topic: str, payload: bytes) -> None:
        """Tell those who have subscribed to the topic; nothing is kept, and nobody confirms it.

        Raises:
            LocalProtocolError: the topic or the payload is too long; nothing was sent.
            OperationalError: no broker answers within a second, or none did two seconds ago, or it is a stock
                router.
        """
        self._need_ours("announce")
        frames = encode(PublishTopic(msgid=new_id(), topic=topic, payload=payload))
        if time.monotonic() < self._no_announcement_before:
            raise OperationalError(f"no broker answered at {self.addresses[0]} a moment ago")
        limit_s = min(self.timeout_s, _ANNOUNCE_S)
        try:
            self._perform(limit_s, "did not take an announcement", lambda channel, _: channel.send(frames))
        except OperationalError:
            self._no_announcement_before = time.monotonic() + _ANNOUNCE_AGAIN_S
            raise

    def subscribe(self, topics: Iterable[str]) -> Subscription:
        """Return what takes in all that is announced under topics that begin so; for one thread.

        Raises:
            OperationalError: the address is a stock router's.
        """
        self._need_ours("subscribe")
        return Subscription(self._own(), topics, self.timeout_s)

    def close(self) -> None:
        """Close idle connections; those in use close when their call ends. A later call opens new ones."""
        channels = self._by_pid.pop(os.getpid(), None)
        if channels is not None:
            atexit.unregister(channels.close)
            channels.close()

    def _own(self) -> Channels:
        """Return this process's connections; those of the process it was forked from are left alone."""
        pid = os.getpid()
        channels = self._by_pid.get(pid)
        if channels is None:
            made = Channels(self.addresses, name=self._identity, idle_limit=self._pool_limit)
            # setdefault is atomic: threads that come here at once all get the same one.
            channels = self._by_pid.setdefault(pid, made)
            if channels is not made:
                made.close()
            elif self.stock:
                atexit.register(made.close)  # so that what was sent last leaves before the process ends
        return channels

    def _perform(self, limit_s: float, failure: str, operation: Callable[[Channel, float], T]) -> T:
        """Do ``operation(channel, deadline)``; again, on another connection, whenever one is cut."""
        deadline = time.monotonic() + limit_s
        channels = self._own()
        cuts = 0
        while True:
            channel = channels.borrow(deadline, limit_s)
            try:
                result = operation(channel, deadline)
            except Cut:
                cuts += 1
                if not channels.after_cut(channel, cuts, deadline):
                    raise OperationalError(_cut_off(channel, cuts, limit_s)) from None
                continue
            except Silent:
                channels.drop(channel)
                channels.distrust()
                where = f"the broker at {channel.address}"
                raise OperationalError(f"{where} {failure} within {limit_s:g} s") from None
            except BrokerRefused:
                channels.give_back(channel)
                raise
            except BaseException:
                channels.drop(channel)
                raise
            channels.give_back(channel)
            return result

    def _ask(self, verb: str, arguments: Mapping[str, Any], limit_s: float) -> Any:
        self._need_ours(verb)
        msgid = new_id()
        frames = encode(Ask(msgid=msgid, verb=verb, arguments=arguments))

        def answer(channel: Channel, deadline: float) -> bytes:
            channel.send(frames)
            while True:
                command = channel.receive(deadline)
                if isinstance(command, Answer) and command.asked == msgid:
                    return command.body

        body = self._perform(limit_s, f"did not answer {verb!r}", answer)
        try:
            document = json.loads(body)
            if "error" not in document:
                return document["ok"]
            refused = refused_as(document["error"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
            raise OperationalError(f"the broker's answer to {verb!r} can't be read: {exc!r}") from exc
        raise refused

    def _need_ours(self, verb: str) -> None:
        if self.stock:
            raise OperationalError(
                f"{self.addresses[0]} is a stock eventmq router, which can't do {verb!r}: it keeps no "
                "results and answers no questions; set a result_backend, or use an emq-compat broker (emq://)"
            )

    def waiting(self, ids: Iterable[str], *, every: bool = False) -> Waiting:
        """Return what waits for these results, and for more or fewer, as they become final; for one thread.

        ``every``: and for each state that they have on the way.

        Raises:
            OperationalError: the address is a stock router's.
        """
        self._need_ours("wait")
        return Waiting(self._own(), ids, self.timeout_s, every=every)

    def _waited(
        self,
        waiting: Waiting,
        timeout_s: float | None,
        on_result: Callable[[str, StoredResult], object] | None,
    ) -> Iterator[tuple[str, StoredResult]]:
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        try:
            while waiting.pending:
                one = waiting.take(deadline)
                if one is not None:
                    if on_result is not None:
                        on_result(*one)
                    yield one
                elif time.monotonic() >= deadline:
                    raise _not_final(waiting.pending)
        except (TimeoutError, GeneratorExit):
            waiting.close()
            raise
        except BaseException:
            waiting.abandon()
            raise


def _cut_off(channel: Channel, cuts: int, limit_s: float) -> str:
    return (
        f"the broker at {channel.address} cut the connection {amount(cuts, 'time')} within {limit_s:g} s; "
        "is a message larger than it allows?"
    )


def _not_final(pending: Iterable[str]) -> TimeoutError:
    ids = list(pending)
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return TimeoutError(f"the result of {ids[0]}{more} is not there yet")


_clients: dict[str, Client] = {}


def client_for(url: str) -> Client:
    """Return this process's client for ``url``: the same one for the same text, made on first use."""
    client = _clients.get(url)
    if client is None:
        # setdefault is atomic: threads that come here at once all get the same one.
        client = _clients.setdefault(url, Client(url))
    return client
