"""What a kombu upstream holds: message by message, whether it began, and by which tags it is settled.

A broker knows deliveries, a job manager jobs. When a connection is lost, the deliveries are void and come
again, here or elsewhere, while the jobs run on: a copy of a running job is put aside and settled with it, and
one that comes after it has ended is settled at once.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

from emq_compat.celery_message import CeleryMessage
from emq_compat.message import Delivery, Headers

__all__ = ["Held", "Ledger", "epilogue_of", "identity_of"]

#: Ends that are remembered, and for how long (seconds): copies may come after them.
_ENDED: Final = 20_000
_ENDED_S: Final = 3_600.0


class Held:
    """A message that is here.

    Attributes:
        delivery: what the job manager gets.
        tags: by which its deliveries are settled, the newest last; empty: they are void, or acknowledged.
        given: the job manager has it.
        began: it runs, or ran.
        acked: it was acknowledged when it began.
        concludes: it is the epilogue of this one.
        tries: how often it was given to the job manager, where it is an epilogue.
    """

    __slots__ = ("acked", "began", "concludes", "delivery", "given", "tags", "tries")

    def __init__(self, delivery: Delivery, tag: Any = None) -> None:
        self.delivery = delivery
        self.tags: list[Any] = [] if tag is None else [tag]
        self.given = False
        self.began = False
        self.acked = False
        self.concludes: Held | None = None
        self.tries = 0

    @property
    def stays(self) -> bool:
        """It ends here: it is an epilogue, or it has expired and its broker would drop it without a word."""
        return self.concludes is not None or 0 < self.delivery.headers.expires <= time.time()


class Ledger:
    """All that is held, by msgid. ``now`` is unix time where etas are compared, else monotonic."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._later: list[tuple[float, int, Held]] = []
        self._number = 0
        #: How many of the held ones wait for their eta.
        self.waiting_for_eta = 0
        #: How many tags are not settled.
        self.unsettled = 0

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def get(self, msgid: str) -> Held | None:
        return self._held.get(msgid)

    def free_name(self, msgid: str) -> str:
        """Return the msgid, or one made of it that nothing held has."""
        while msgid in self._held:
            self._number += 1
            msgid = f"{msgid}.{self._number}"
        return msgid

    def add(self, held: Held) -> None:
        self._held[held.delivery.msgid] = held
        self.unsettled += len(held.tags)

    def join(self, held: Held, tag: Any) -> None:
        """Note that a copy came of what is here."""
        held.tags.append(tag)
        self.unsettled += 1

    def settle(self, held: Held) -> list[Any]:
        """Return the tags of a message, which has none from now on."""
        tags, held.tags = held.tags, []
        self.unsettled -= len(tags)
        return tags

    def remove(self, held: Held, *, ended: bool) -> None:
        """Forget a message; ``ended``: but for its name, as copies may come."""
        msgid = held.delivery.msgid
        self._held.pop(msgid, None)
        self.unsettled -= len(held.tags)
        held.tags = []
        if ended:
            self._ended[msgid] = time.monotonic()
            self._ended.move_to_end(msgid)
            if len(self._ended) > _ENDED:
                self._ended.popitem(last=False)

    def has_ended(self, msgid: str) -> bool:
        """Return whether this one ended here, less than an hour ago."""
        ended = self._ended.get(msgid)
        return ended is not None and time.monotonic() - ended < _ENDED_S

    def void(self) -> list[Held]:
        """Note that the connection is lost and all tags with it; return what the job manager never got.

        That is forgotten here: it will come again.
        """
        lost = []
        for held in self:
            held.tags = []
            if not held.given and held.concludes is None:
                del self._held[held.delivery.msgid]
                lost.append(held)
        self._later.clear()
        self.unsettled = self.waiting_for_eta = 0
        return lost

    # Etas.

    def hold(self, held: Held) -> None:
        """Keep a message until its eta."""
        self._number += 1
        heapq.heappush(self._later, (held.delivery.headers.eta, self._number, held))
        self.waiting_for_eta += 1

    def later(self) -> list[Held]:
        """Return the messages that wait for their eta, the first due first; from any thread."""
        return [held for _, _, held in sorted(self._later, key=lambda one: one[:2])]

    def next_eta(self) -> float | None:
        """Return the unix time of the next eta."""
        return self._later[0][0] if self._later else None

    def due(self, now: float) -> list[Held]:
        """Return the messages whose eta has come."""
        found = []
        while self._later and self._later[0][0] <= now:
            held = heapq.heappop(self._later)[2]
            self.waiting_for_eta -= 1
            if held.delivery.msgid in self._held:
                found.append(held)
        return found

    def held_for_eta(self) -> list[Held]:
        """Return the messages that wait for their eta, and keep them no longer for that."""
        waiting = [held for _, _, held in self._later if held.delivery.msgid in self._held]
        self._later.clear()
        self.waiting_for_eta = 0
        return waiting

    def tags(self) -> Iterable[Any]:
        """Return every tag that is not settled."""
        return [tag for held in self._held.values() for tag in held.tags]


def identity_of(message: CeleryMessage) -> str:
    """Return what names a message that its broker gives no name: the same for each of its deliveries.

    A retry, a replaced task and a link have the task's id or its body in common with others, not both and
    their times, too.
    """
    headers = message.headers
    told = blake2b(message.body, digest_size=8)
    get = headers.get
    told.update(
        f"{get('task')}{get('retries')}{get('eta')}{get('expires')}{get('replaced_task_nesting')}"
        f"{get('parent_id')}{get('group_index')}".encode("utf-8", "surrogatepass")
    )
    return f"{get('id') or message.properties.get('correlation_id') or '-'}-{told.hexdigest()}"


def epilogue_of(delivery: Delivery, reply: bytes) -> Delivery | None:
    """Return what has a child do what follows from an end that its task had no word in; None: nothing has.

    Args:
        delivery: the message that ended.
        reply: the JSON object that it ended with.
    """
    headers = delivery.headers
    if not headers.epilogue or headers.concludes:
        return None
    try:
        document = json.loads(delivery.payload)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(document, list) and len(document) == 2 and document[0] == "run"):
        return None
    payload = b'["epilogue",%s,%s]' % (json.dumps(document[1], separators=(",", ":")).encode(), reply)
    return replace(
        delivery,
        msgid=f"{delivery.msgid}/end",
        headers=Headers(
            task=headers.task,
            priority=headers.priority,
            retries=headers.retries,
            concludes=True,
            attempt=1,
        ),
        payload=payload,
    )
