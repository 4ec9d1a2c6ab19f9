"""Unique keys: of messages with the same key only one is taken while it holds it.

    publish ──the key is free──▶ the message holds it ──its end, its hand-out, or the time──▶ free
       │
       └──somebody holds it──▶ told the holder's id, refused, or (part of a workflow) kept until its end

Who holds a key is on disk only; a turn looks up the keys of all that it is to publish at once, and writes
what it comes to when it closes. The holder is named by its task id, so that a retry holds on.
"""

from __future__ import annotations

from collections.abc import Iterable

from emq_compat.broker.desk import Desk
from emq_compat.broker.gates import FOLLOWS
from emq_compat.broker.queues import QueueSet
from emq_compat.broker.records import LockRow, Moment, StoredMessage, marked, queue_of
from emq_compat.message import Headers, Publish
from emq_compat.terms import ELAPSED, STARTED, Once

__all__ = ["Locks"]

#: Rows of keys that are free by their time, deleted at once.
_FORGET = 1000


class Locks:
    """All unique keys of a broker.

    Attributes:
        followed: id of a message → how many are kept until its end.
    """

    def __init__(self, desk: Desk, queues: QueueSet) -> None:
        self._journal = desk.journal
        self._queues = queues
        self.followed: dict[str, int] = {}
        #: What this turn knows of keys, None: free; those of them that it has changed; and (key, holder) of
        #: those that it frees unseen.
        self._known: dict[str, LockRow | None] = {}
        self._changed: set[str] = set()
        self._freed: set[tuple[str, str]] = set()
        for gate, home, n in self._journal.parked_counts():
            if gate[0] == FOLLOWS:
                self.followed[gate[1:]] = self.followed.get(gate[1:], 0) + n
                self._queues.by_id[queue_of(home)].held += n

    # Who holds a key

    def look_up(self, texts: Iterable[str]) -> None:
        """Read at once who holds the keys of these headers."""
        keys = {Once.decode(text).key for text in texts} - self._known.keys()
        if keys:
            rows = {row.key: row for row in self._journal.locks(list(keys))}
            for key in keys:
                row = rows.get(key)
                if row is not None and (key, row.owner) in self._freed:
                    row = None
                    self._changed.add(key)
                self._known[key] = row

    def holder(self, headers: Headers, msgid: str, now: Moment) -> LockRow | None:
        """Return who holds a message's key instead of it now."""
        row = self._row(headers.once)
        if row is None or 0 < row.until <= now.wall or 0 < row.expires <= now.wall:
            return None
        return None if row.owner == (headers.task_id or msgid) else row

    def _row(self, text: str) -> LockRow | None:
        key = Once.decode(text).key
        if key not in self._known:
            self.look_up((text,))
        return self._known[key]

    def claim(self, msgid: str, headers: Headers, now: Moment) -> None:
        """Have a message hold its key, of which ``holder`` has said that no other does; a retry holds on."""
        once, owner = Once.decode(headers.once), headers.task_id or msgid
        row = self._row(headers.once)
        if row is not None and row.owner == owner and not 0 < row.until <= now.wall:
            return
        until = max(now.wall, headers.eta) + once.seconds if once.seconds else 0.0
        expires = 0.0 if once.until == ELAPSED else headers.expires
        self._set(once.key, LockRow(once.key, owner, until, expires))

    def handed_out(self, msgid: str, headers: Headers) -> None:
        """Note that a message is handed out: it will not expire any more, or its key is free from then on."""
        once, owner = Once.decode(headers.once), headers.task_id or msgid
        if once.until == STARTED:
            self._free(once.key, owner)
        elif headers.expires and once.until != ELAPSED:
            row = self._row(headers.once)
            if row is not None and row.owner == owner and row.expires:
                self._set(once.key, row._replace(expires=0.0))

    def ended(self, msgid: str, headers: Headers, follow_ups: Iterable[Publish] = ()) -> None:
        """Note that a message has ended: its key is free, unless one of its follow-ups (a retry) holds on."""
        once = Once.decode(headers.once)
        owner = headers.task_id or msgid
        if once.until == ELAPSED:
            return
        for message in follow_ups:
            theirs = message.headers
            if theirs.once and theirs.task_id == owner and Once.decode(theirs.once).key == once.key:
                return
        self._free(once.key, owner)

    def free(self, key: str) -> bool:
        """Free a key whoever holds it; returns whether somebody did."""
        self.look_up((Once(key=key).encode(),))
        if self._known[key] is None:
            return False
        self._set(key, None)
        return True

    def _free(self, key: str, owner: str) -> None:
        if key not in self._known:
            self._freed.add((key, owner))
        elif (row := self._known[key]) is not None and row.owner == owner:
            self._set(key, None)

    def _set(self, key: str, row: LockRow | None) -> None:
        if row is None and (before := self._known.get(key)) is not None:
            self._freed.add((key, before.owner))
        self._known[key] = row
        self._changed.add(key)

    def write(self) -> None:
        """Write what has changed; the end of a turn."""
        if self._freed:
            for key, owner in self._freed:
                self._journal.drop_lock(key, owner)
            self._freed.clear()
        if self._known:
            for key in self._changed:
                if (row := self._known[key]) is not None:
                    self._journal.put_lock(row)
            self._changed.clear()
            self._known.clear()

    def forget_old(self, now: Moment) -> bool:
        """Delete a bounded number of keys that are free by their time; returns whether there may be more."""
        self.write()
        return self._journal.expire_locks(now.wall, _FORGET) == _FORGET

    # Who waits for a holder's end

    def follow(
        self, holder: str, home: int, msgid: str, headers: Headers, header_text: str, payload: bytes
    ) -> None:
        """Keep a message until the holder has ended."""
        sequence = self._journal.next_sequence()
        self._journal.add_parked(
            sequence, home, FOLLOWS + holder, msgid, header_text, payload, marked(headers)
        )
        self.followed[holder] = self.followed.get(holder, 0) + 1
        self._queues.by_id[queue_of(home)].held += 1

    def followers(self, ended: str) -> list[tuple[StoredMessage, int]]:
        """Return (message, home) of what waited for this end; from now on nothing does."""
        del self.followed[ended]
        rows = self._journal.parked_at(FOLLOWS + ended)
        for _, home in rows:
            self._queues.by_id[queue_of(home)].held -= 1
        return rows

    def withdrawn(self, gate: str, home: int) -> None:
        """Note that a message that waited for a holder's end has ended before it."""
        holder = gate[1:]
        self._queues.by_id[queue_of(home)].held -= 1
        self.followed[holder] -= 1
        if not self.followed[holder]:
            del self.followed[holder]

    def purge(self, queue_id: int) -> None:
        """Forget what of a queue waits for a holder's end; it is about to be purged."""
        for gate, home, n in self._journal.parked_counts():
            if gate[0] == FOLLOWS and queue_of(home) == queue_id:
                for _ in range(n):
                    self.withdrawn(gate, home)
