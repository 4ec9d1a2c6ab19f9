"""Chords: a message is held until all parts have succeeded, or ends with the first that failed.

    (unknown) ──first part, or the body──▶ open ──all parts succeeded──▶ the body is released
                                             │
                                             └──one part failed──▶ failed: the body ends; the rest is dropped
                                                    └──all parts in, or a day without any──▶ forgotten

In memory there is one small object for each chord; values are on disk only. ``arrived`` is an upper bound: a
part that ended twice was counted twice, and only when the number is reached the journal tells how many
different parts there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from emq_compat.broker.desk import Desk
from emq_compat.broker.queues import QueueSet
from emq_compat.broker.records import ChordRow, ChordState, Moment, home_key, marked, queue_of
from emq_compat.errors import MessageError
from emq_compat.headers import GROWN
from emq_compat.message import Headers

__all__ = ["FORGET_S", "Body", "Chord", "Chords", "Completed", "Failed", "Part", "arranged", "with_values"]

#: A chord without a body (it failed, or its body never came) is forgotten after so many seconds of silence.
FORGET_S = 86_400.0


class Body(NamedTuple):
    """A message that is held for its chord, its payload on disk only; ``home``: queue and priority."""

    key: int
    home: int
    msgid: str
    headers: Headers


class Part(NamedTuple):
    """The end of one part: its value as JSON, or (``value`` is None) what the chord's error says of it."""

    chord: str
    place: tuple[int, ...]
    value: bytes | None
    failure: str = ""


class Completed(NamedTuple):
    """All parts succeeded: the body can run, with these values in the order of their places."""

    body: Body
    values: list[bytes]


class Failed(NamedTuple):
    """A part failed: the body ends; ``text`` is what its error says."""

    body: Body
    text: str


class Chord:
    """One chord, open or failed.

    Attributes:
        size: how many parts the body awaits; -1: the body has not come yet.
        grown: how many parts were added to them.
        arrived: parts that have ended, at most.
        failure: what the error says; None: none has failed.
        at: unix seconds at which it was last heard of.
    """

    __slots__ = ("arrived", "at", "body", "changed", "failure", "grown", "id", "number", "size")

    def __init__(self, number: int, chord_id: str, at: float) -> None:
        self.number = number
        self.id = chord_id
        self.size = -1
        self.grown = 0
        self.arrived = 0
        self.failure: str | None = None
        self.body: Body | None = None
        self.at = at
        self.changed = False

    @property
    def full(self) -> bool:
        """Whether as many parts have ended as are awaited."""
        return 0 <= self.size and self.size + self.grown <= self.arrived

    def kept(self) -> ChordState:
        """Return what the journal keeps of it."""
        return ChordState(
            number=self.number,
            id=self.id,
            size=self.size,
            grown=self.grown,
            arrived=self.arrived,
            body=None if self.body is None else self.body.key,
            failure=self.failure,
            at=self.at,
        )


class Chords:
    """Every chord that is not over.

    Attributes:
        by_id: chord id → chord.
        by_task: task id of a held body → its chord.
    """

    def __init__(self, desk: Desk, queues: QueueSet) -> None:
        self._journal = desk.journal
        self._queues = queues
        self.by_id: dict[str, Chord] = {}
        self.by_task: dict[str, Chord] = {}
        self._changed: list[Chord] = []
        for row in self._journal.chords():
            self._take_up(row)

    def _take_up(self, row: ChordRow) -> None:
        kept = row.chord
        chord = self.by_id[kept.id] = Chord(kept.number, kept.id, kept.at)
        chord.size, chord.grown, chord.arrived = kept.size, kept.grown, kept.arrived
        chord.failure = kept.failure
        if kept.body is not None:
            self._hold(chord, Body(kept.body, row.home, row.msgid, Headers.decode(row.header_text)))

    def _hold(self, chord: Chord, body: Body) -> None:
        chord.body = body
        self._queues.by_id[queue_of(body.home)].held += 1
        if body.headers.task_id:
            self.by_task[body.headers.task_id] = chord

    def _let_go(self, chord: Chord) -> Body:
        body = chord.body
        assert body is not None
        chord.body = None
        self._queues.by_id[queue_of(body.home)].held -= 1
        self.by_task.pop(body.headers.task_id, None)
        return body

    def _get(self, chord_id: str, now: Moment) -> Chord:
        chord = self.by_id.get(chord_id)
        if chord is None:
            chord = Chord(self._journal.next_sequence(), chord_id, now.wall)
            self.by_id[chord_id] = chord
        chord.at = now.wall
        self._touch(chord)
        return chord

    def _touch(self, chord: Chord) -> None:
        if not chord.changed:
            chord.changed = True
            self._changed.append(chord)

    def hold(
        self,
        queue_id: int,
        msgid: str,
        headers: Headers,
        header_text: str,
        payload: bytes,
        now: Moment,
    ) -> Completed | Failed | None:
        """Take in a body. Returns what becomes of it, if that is settled already.

        A second message of the same task is dropped.
        """
        assert headers.barrier is not None
        chord_id, size = headers.barrier
        chord = self._get(chord_id, now)
        if chord.body is not None and headers.task_id and headers.task_id == chord.body.headers.task_id:
            # What applied the chord was run twice: the body is here already.
            self._journal.remember(msgid)
            return None
        home = home_key(queue_id, headers.priority)
        body = Body(self._journal.next_sequence(), home, msgid, headers)
        self._journal.add_held(body.key, home, msgid, header_text, payload, marked(headers))
        if chord.body is not None:
            return Failed(body, f"another message awaits the chord {chord_id} already")
        chord.size = size
        self._hold(chord, body)
        if chord.failure is not None:
            return self._fail(chord)
        return self._complete(chord) if chord.full else None

    def grow(self, headers: Headers, now: Moment) -> None:
        """Have a chord await a part that was added to it (once for each place)."""
        assert headers.part_of is not None
        chord_id, place, _ = headers.part_of
        chord = self._get(chord_id, now)
        if self._journal.expect_part(chord.number, _text(place)):
            chord.grown += 1

    def count(self, part: Part, now: Moment) -> Completed | Failed | None:
        """Count a part that has ended. Returns what becomes of the body, if it is settled by this part."""
        chord = self._get(part.chord, now)
        chord.arrived += 1
        if chord.failure is None:
            if part.value is None:
                chord.failure = part.failure
                self._journal.drop_parts(chord.number)
                return self._fail(chord) if chord.body is not None else None
            self._journal.add_part(chord.number, _text(part.place), part.value)
            return self._complete(chord) if chord.full else None
        if chord.full:
            self._forget(chord)
        return None

    def end_body(self, chord: Chord) -> Body:
        """Let a body go that ends without its chord (revoked, purged); what its parts come to is dropped."""
        if chord.failure is None:
            chord.failure = "its body has ended"
            self._journal.drop_parts(chord.number)
        self._touch(chord)
        return self._fail(chord).body

    def _fail(self, chord: Chord) -> Failed:
        body = self._let_go(chord)
        if chord.full:
            self._forget(chord)
        return Failed(body, chord.failure or "")

    def _complete(self, chord: Chord) -> Completed | None:
        parts = self._journal.parts(chord.number)
        chord.arrived = len(parts)
        if not chord.full:
            return None
        body = self._let_go(chord)
        self._forget(chord)
        return Completed(body, arranged(parts))

    def _forget(self, chord: Chord) -> None:
        del self.by_id[chord.id]
        self._journal.drop_parts(chord.number)
        self._journal.drop_chord(chord.number)

    def of_queue(self, queue_id: int) -> list[Chord]:
        """Return the chords whose bodies are held for a queue."""
        return [
            chord
            for chord in self.by_id.values()
            if chord.body is not None and queue_of(chord.body.home) == queue_id
        ]

    def write(self) -> None:
        """Write the counts that changed."""
        for chord in self._changed:
            chord.changed = False
            if self.by_id.get(chord.id) is chord:
                self._journal.put_chord(chord.kept())
        self._changed.clear()

    def expire(self, now: Moment) -> None:
        """Forget chords without a body of which nothing was heard for a day."""
        until = now.wall - FORGET_S
        for chord in [c for c in self.by_id.values() if c.body is None and c.at <= until]:
            self._forget(chord)


def arranged(parts: Iterable[tuple[str, bytes]]) -> list[bytes]:
    """Return the values of parts, each a place and JSON, in their order; those below one place as a list."""
    return _nested(sorted((_steps(place), value) for place, value in parts), 0)


def _steps(place: str) -> list[tuple[int, ...]]:
    """Return a place's steps; what a part has added to the chord stands beside that part, not below it."""
    steps: list[tuple[int, ...]] = []
    for number in map(int, place.split(".")):
        if number >= GROWN and steps:
            steps[-1] += (number,)
        else:
            steps.append((number,))
    return steps


def _nested(parts: list[tuple[list[tuple[int, ...]], bytes]], depth: int) -> list[bytes]:
    values = []
    for _, same in groupby(parts, key=lambda part: part[0][depth]):
        below = []
        for part in same:
            if len(part[0]) == depth + 1:
                values.append(part[1])
            else:
                below.append(part)
        if below:
            values.append(b"[%s]" % b",".join(_nested(below, depth + 1)))
    return values


def _text(place: tuple[int, ...]) -> str:
    return ".".join(map(str, place))


def with_values(payload: bytes, values: list[bytes]) -> bytes:
    """Return a ``run`` payload whose first argument is the list of these JSON values.

    Raises:
        MessageError: it is no ``["run", {…}]`` with a list of arguments.
    """
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise MessageError(f"the payload is not JSON: {exc}") from exc
    if not (isinstance(document, list) and len(document) == 2 and isinstance(document[1], dict)):
        raise MessageError('the payload is not ["run", {…}]')
    args = document[1].pop("args", None) or []
    if not isinstance(args, list):
        raise MessageError(f"run needs 'args' as a list, not a {type(args).__name__}")
    encoded = [json.dumps(part, separators=(",", ":")).encode() for part in (document[0], args, document[1])]
    subcommand, rest, options = encoded
    members = b"," + options[1:-1] if document[1] else b""
    more = b"," + rest[1:-1] if args else b""
    return b'[%s,{"args":[[%s]%s]%s}]' % (subcommand, b",".join(values), more, members)
