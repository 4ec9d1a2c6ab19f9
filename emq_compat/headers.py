"""The headers of a REQUEST and of a REPLY: CSV on the wire, stock eventmq's and ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from emq_compat import terms
from emq_compat.errors import MessageError
from emq_compat.frozen import quickly_made

__all__ = ["GROWN", "MAX_ID_BYTES", "Headers", "ReplyHeaders", "slots_of_base", "via_text"]

#: Bytes in a msgid, task id, verb, topic or cron text.
MAX_ID_BYTES = 1024

#: From here on a step of a part's place in its chord says that it was added by the part in front.
GROWN = 900_000_000

C = TypeVar("C", bound=type)


def slots_of_base(cls: C) -> C:
    """Have a dataclass keep its fields in the slots of its base, so that both have the same layout.

    For a class decorated by ``@dataclass`` that says ``__slots__ = ()``: the defaults, which dataclass leaves
    as class attributes in front of the base's slots, are removed (``slots=True`` does so only from Python
    3.11 on; before, it makes the slots a second time).
    """
    for name in cls.__mro__[1].__dict__["__slots__"]:
        if name in cls.__dict__:
            delattr(cls, name)
    return cls


class _HeaderFields:
    """The slots of Headers, still writable.

    Decoding sets only some of them by what it reads, and then turns the object into Headers by assigning its
    class, which the equal layout allows.
    """

    __slots__ = (
        "attempt",
        "awaits",
        "chord",
        "concludes",
        "epilogue",
        "eta",
        "expires",
        "guarantee",
        "immutable",
        "keep_s",
        "limit_s",
        "no_result",
        "once",
        "pace",
        "priority",
        "redelivered",
        "reply_requested",
        "retries",
        "retry_count",
        "settled",
        "slots",
        "soft_limit_s",
        "tags",
        "task",
        "task_id",
        "timeout",
        "via",
    )


@quickly_made
@slots_of_base
@dataclass(frozen=True, kw_only=True)
class Headers(_HeaderFields):
    """The headers of a REQUEST: CSV on the wire, stock ones and ours.

    Stock eventmq matches its own by substring, so our names hold none of its words and values
    are percent-encoded: no comma, no blank. ``stock()`` gives what a stock peer may see.

    Attributes:
        guarantee: the publisher wants an ACK once the message is on disk (stock).
        reply_requested: the publisher wants the REPLY itself (stock).
        retry_count: how often a job that raised is tried again (stock; ours act on it).
        timeout: hard time limit in whole seconds (stock).
        task_id: Celery's task id; the key of the result. Empty: no result is kept.
        task: the task's name, for routing to a worker that has it; empty for a plain eventmq job.
        priority: 0 to 9, higher first.
        eta: unix time in seconds before which it isn't handed out; 0: at once.
        expires: unix time in seconds after which it isn't run any more; 0: never.
        no_result: the result isn't kept (Celery's ``ignore_result``).
        limit_s, soft_limit_s: time limits of this message in seconds; None: the task's own.
        attempt: which hand-out this is, from 1 (set by the broker).
        redelivered: an earlier hand-out was lost (set by the broker).
        retries: how many times the task asked for a retry before this message.
        chord: ``ID:INDEX`` when the outcome is a part of the chord ID; INDEX is its place among the parts:
            whole numbers joined by dots, compared one by one (a part may be a group of its own: ``2.0``,
            ``2.1``; its values are a list in the list). A ``+`` behind it adds one to the number that the
            chord awaits; the last step of such a place is GROWN or more, and its value stands behind that of
            the part in front, not in a list of its own. See ``part_of``.
        awaits: ``ID:SIZE``: the message is held until SIZE parts of the chord ID have succeeded; their
            values, a list in the order of INDEX, then become its first argument. If one fails it isn't run:
            it ends as a ChordError. See ``barrier``.
        immutable: it awaits a chord and doesn't take the values.
        epilogue: when it ends without a word of its task's own (lost, revoked, out of time, its chord
            failed), the broker hands it out once more, with its reply, for what the task's worker would have
            done then (callbacks, the rest of a chain, another result store).
        concludes: it is such an epilogue (set by the broker); its payload is
            ``["epilogue", {options of run}, {reply}]``.
        settled: a state: nothing is run, the payload is the reply JSON of a task that ended so. It is stored
            and counted as if a worker had replied; with ``redelivered`` in place of any end but a SUCCESS.
        keep_s: seconds that the result is kept, 0: without end; None: as the broker is told.
        tags: labels, ``;`` between them, by which messages are revoked together.
        once: ``KEY;SECONDS;UNTIL;MODE``: no second message with this key is taken, see terms.Once.
        slots: ``KEY`` or ``KEY;N``: of all messages with this key N run at once, see terms.Share.
        pace: ``KEY`` or ``KEY;SECONDS``: of its task's messages with this key one is handed out every so many
            seconds, see terms.Share.
        via: ``EXCHANGE;KEY``, both percent-encoded: where it was published to, instead of to a queue. It
            goes to each queue that the exchange gives the key to (no exchange: to the queue KEY, if there is
            one); see ``route``.
    """

    __slots__ = ()

    guarantee: bool = False
    reply_requested: bool = False
    retry_count: int = 0
    timeout: int | None = None
    task_id: str = ""
    task: str = ""
    priority: int = 0
    eta: float = 0.0
    expires: float = 0.0
    no_result: bool = False
    limit_s: float | None = None
    soft_limit_s: float | None = None
    attempt: int = 0
    redelivered: bool = False
    retries: int = 0
    chord: str = ""
    awaits: str = ""
    immutable: bool = False
    epilogue: bool = False
    concludes: bool = False
    settled: str = ""
    keep_s: float | None = None
    tags: str = ""
    once: str = ""
    slots: str = ""
    pace: str = ""
    via: str = ""

    @property
    def route(self) -> tuple[str, str] | None:
        """The exchange and the routing key that it came by, or goes by; None: it names its queue."""
        if not self.via:
            return None
        exchange, _, key = self.via.partition(";")
        return unquote(exchange), unquote(key)

    @property
    def part_of(self) -> tuple[str, tuple[int, ...], bool] | None:
        """The chord's id, the place in it, and whether the chord grows by it; None: it is part of none."""
        if not self.chord:
            return None
        chord, _, index = self.chord.rpartition(":")
        return chord, tuple(map(int, index.rstrip("+").split("."))), index.endswith("+")

    @property
    def barrier(self) -> tuple[str, int] | None:
        """The chord's id and its number of parts, where the message awaits one."""
        if not self.awaits:
            return None
        chord, _, size = self.awaits.rpartition(":")
        return chord, int(size)

    def stock(self) -> str:
        """Return the CSV with only the headers that stock eventmq 0.3.13 knows."""
        return self._stock()[1:]

    def _stock(self) -> str:
        text = ""
        if self.reply_requested:
            text = ",reply-requested"
        if self.guarantee:
            text += ",guarantee"
        if self.retry_count:
            text += f",retry-count:{self.retry_count}"
        if self.timeout is not None:
            text += f",timeout:{self.timeout}"
        return text

    def encode(self) -> str:
        """Return the CSV that goes on the wire; ``Headers.decode`` is its inverse."""
        text = self._stock()
        if self.task_id:
            text += ",id:" + _quoted(self.task_id)
        if self.task:
            text += ",task:" + _quoted_name(self.task)
        if self.priority:
            text += f",priority:{self.priority}"
        if self.eta:
            text += f",eta:{self.eta!r}"
        if self.expires:
            text += f",expires:{self.expires!r}"
        if self.no_result:
            text += ",no-result"
        if self.limit_s is not None:
            text += f",limit:{self.limit_s!r}"
        if self.soft_limit_s is not None:
            text += f",soft-limit:{self.soft_limit_s!r}"
        if self.attempt:
            text += f",attempt:{self.attempt}"
        if self.redelivered:
            text += ",redelivered"
        if self.retries:
            text += f",retries:{self.retries}"
        if self.chord:
            text += ",chord:" + _quoted_place(self.chord)
        if self.awaits:
            text += ",awaits:" + _quoted_place(self.awaits)
        if self.immutable:
            text += ",immutable"
        if self.epilogue:
            text += ",epilogue"
        if self.concludes:
            text += ",concludes"
        if self.settled:
            text += ",settled:" + _quoted(self.settled)
        if self.keep_s is not None:
            text += f",keep:{self.keep_s!r}"
        if self.tags:
            text += ",tags:" + quote(self.tags, safe=";")
        if self.once:
            text += ",once:" + self.once
        if self.slots:
            text += ",slots:" + self.slots
        if self.pace:
            text += ",pace:" + self.pace
        if self.via:
            text += ",via:" + self.via
        return text[1:]

    @classmethod
    def decode(cls, text: str) -> Headers:
        """Read the CSV of a REQUEST. Unknown headers are skipped, as stock eventmq does.

        Raises:
            MessageError: a known header has a value of the wrong kind; the message names it.
        """
        if not text:
            return _NO_HEADERS
        headers: Any = _HeaderFields()
        headers.guarantee = headers.reply_requested = headers.no_result = headers.redelivered = False
        headers.immutable = headers.epilogue = headers.concludes = False
        headers.retry_count = headers.priority = headers.attempt = headers.retries = 0
        headers.task_id = headers.task = headers.chord = headers.awaits = headers.settled = ""
        headers.tags = headers.once = headers.slots = headers.pace = headers.via = ""
        headers.eta = headers.expires = 0.0
        headers.timeout = headers.limit_s = headers.soft_limit_s = headers.keep_s = None
        parts = text.split(",")
        if " " in text or not text.isprintable():
            parts = [part.strip() for part in parts]
        for part in parts:
            name, _, value = part.partition(":")
            # The commonest by name: a table of readers costs twice as much.
            if name == "id":
                headers.task_id = value if "%" not in value and len(text) <= MAX_ID_BYTES else _task_id(value)
            elif name == "task":
                headers.task = unquote(value) if "%" in value else value
            elif name == "guarantee":
                headers.guarantee = True
            elif (reader := _READERS.get(name)) is not None:
                attribute, convert = reader
                try:
                    setattr(headers, attribute, True if convert is None else convert(value))
                except ValueError:
                    raise MessageError(
                        f"header {name!r} has the value {value[:64]!r}, which is not a number in its range"
                    ) from None
        headers.__class__ = Headers
        return headers  # type: ignore[no-any-return]


_PLAIN = re.compile(r"[A-Za-z0-9._~-]*").fullmatch


def _quoted(value: str) -> str:
    return value if _PLAIN(value) else quote(value, safe="")


#: A chord's reference holds colons and a plus; what is not quoted needn't be unquoted.
_PLAIN_PLACE = re.compile(r"[A-Za-z0-9._~:+-]*").fullmatch


def _quoted_place(value: str) -> str:
    return value if _PLAIN_PLACE(value) else quote(value, safe=":+")


_quoted_name = lru_cache(maxsize=1024)(_quoted)


def _task_id(value: str) -> str:
    task_id = unquote(value)
    if len(task_id.encode()) > MAX_ID_BYTES or not task_id.isprintable():
        raise MessageError(f"header 'id' has the value {task_id[:64]!a}, which is too long or unprintable")
    return task_id


def _whole(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 1 << 31:
        raise ValueError
    return number


def _priority(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 9:
        raise ValueError
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < 1e12:  # also refuses nan
        raise ValueError
    return number


_PART = re.compile(r".+:[0-9]{1,9}(\.[0-9]{1,9}){0,63}\+?", re.DOTALL).fullmatch
_BARRIER = re.compile(r".+:[0-9]{1,9}", re.DOTALL).fullmatch


def _chord_part(value: str) -> str:
    text = unquote(value) if "%" in value else value
    if not _PART(text) or len(text.encode()) > MAX_ID_BYTES:
        raise MessageError(f"header 'chord' has the value {text[:64]!a}, which is not ID:INDEX")
    return text


def via_text(exchange: str, key: str) -> str:
    """Return an exchange and a routing key as Headers.via has them."""
    return f"{_quoted_name(exchange)};{_quoted_name(key)}"


def _via(value: str) -> str:
    if ";" not in value or len(value) > 3 * MAX_ID_BYTES or not value.isascii():
        raise MessageError(f"header 'via' has the value {value[:64]!a}, which is not EXCHANGE;KEY")
    return value


def _barrier(value: str) -> str:
    text = unquote(value)
    if not _BARRIER(text) or len(text.encode()) > MAX_ID_BYTES:
        raise MessageError(f"header 'awaits' has the value {text[:64]!a}, which is not ID:SIZE")
    return text


_READERS: dict[str, tuple[str, Any]] = {
    "reply-requested": ("reply_requested", None),
    "retry-count": ("retry_count", _whole),
    "timeout": ("timeout", _whole),
    "priority": ("priority", _priority),
    "eta": ("eta", _seconds),
    "expires": ("expires", _seconds),
    "no-result": ("no_result", None),
    "limit": ("limit_s", _seconds),
    "soft-limit": ("soft_limit_s", _seconds),
    "attempt": ("attempt", _whole),
    "redelivered": ("redelivered", None),
    "retries": ("retries", _whole),
    "chord": ("chord", _chord_part),
    "awaits": ("awaits", _barrier),
    "immutable": ("immutable", None),
    "epilogue": ("epilogue", None),
    "concludes": ("concludes", None),
    "settled": ("settled", unquote),
    "keep": ("keep_s", _seconds),
    "tags": ("tags", unquote),
    "once": ("once", terms.once_text),
    "slots": ("slots", terms.share_text),
    "pace": ("pace", terms.share_text),
    "via": ("via", _via),
}

_NO_HEADERS = Headers()


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHeaders:
    """The frame of ours behind the msgid: ``attempt:N,state:S[,no-result][,unattended][,keep:SECONDS]``.

    A state may be any text (a task's own): it is percent-encoded. ``no_result``, ``unattended`` and
    ``keep_s`` are those of message.Reply.
    """

    attempt: int = 0
    state: str = ""
    no_result: bool = False
    unattended: bool = False
    keep_s: float | None = None

    def encode(self) -> str:
        """Return the CSV that goes on the wire."""
        text = f"attempt:{self.attempt},state:{_quoted(self.state)}"
        if self.no_result:
            text += ",no-result"
        if self.keep_s is not None:
            text += f",keep:{self.keep_s!r}"
        return text + ",unattended" if self.unattended else text

    @classmethod
    def decode(cls, text: str) -> ReplyHeaders:
        """Read the CSV; raises MessageError naming a header whose value is wrong."""
        attempt, state, no_result, unattended = 0, "", False, False
        keep_s: float | None = None
        for part in text.split(","):
            name, _, value = part.partition(":")
            if name in ("attempt", "keep"):
                try:
                    if name == "keep":
                        keep_s = _seconds(value)
                    else:
                        attempt = _whole(value)
                except ValueError:
                    raise MessageError(
                        f"header {name!r} has the value {value[:64]!r}, which is not a number in its range"
                    ) from None
            elif name == "state":
                state = unquote(value)
            elif name == "no-result":
                no_result = True
            elif name == "unattended":
                unattended = True
        return cls(
            attempt=attempt, state=state, no_result=no_result, unattended=unattended, keep_s=keep_s
        )
