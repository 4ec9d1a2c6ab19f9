"""The terms on which a message is taken or handed out: headers ``once``, ``slots`` and ``pace`` as values.

In a header they stand as they are kept here: parts with ``;`` between them, of which the key is
percent-encoded. So a key may hold anything, and a header neither a comma nor a blank.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from emq_compat.errors import MessageError

__all__ = [
    "DONE",
    "ELAPSED",
    "FAIL",
    "FOLLOW",
    "JOIN",
    "MAX_KEY_BYTES",
    "NOTHING_SHARED",
    "REFUSE",
    "STARTED",
    "Once",
    "Share",
    "Shares",
    "once_text",
    "share_text",
]

#: Bytes of a key, percent-encoded.
MAX_KEY_BYTES = 512

#: How long a key is held: until the first message has ended, until it is handed out, or for its time.
DONE, STARTED, ELAPSED = "done", "started", "elapsed"
#: What becomes of a second message: its publisher is told the first one's id; it is kept until the first has
#: ended and ends as that one does; its publisher is refused; it ends at once as a FAILURE.
JOIN, FOLLOW, REFUSE, FAIL = "join", "follow", "refuse", "fail"

_UNTIL = frozenset({DONE, STARTED, ELAPSED})
_MODES = frozenset({JOIN, FOLLOW, REFUSE, FAIL})
_MOST_S = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """No second message with this key while the first one holds it.

    Attributes:
        seconds: how long it is held at most, from the publish, or from the eta where there is one; 0: without
            end.
        until: DONE, STARTED or ELAPSED (then ``seconds`` is not 0).
        mode: JOIN, FOLLOW, REFUSE or FAIL.
    """

    key: str
    seconds: float = 0.0
    until: str = DONE
    mode: str = JOIN

    def encode(self) -> str:
        """Return the header's text; raises MessageError as ``decode`` does."""
        text = f"{quote(self.key, safe='')};{self.seconds!r};{self.until};{self.mode}"
        Once.decode(text)
        return text

    @staticmethod
    @lru_cache(maxsize=256)
    def decode(text: str) -> Once:
        """Read the header's text.

        Raises:
            MessageError: it is not ``KEY;SECONDS;UNTIL;MODE``.
        """
        parts = text.split(";")
        try:
            key, seconds, until, mode = parts
            number = float(seconds)
        except ValueError:
            raise _wrong("once", text, "KEY;SECONDS;UNTIL;MODE") from None
        if not (
            key
            and len(key) <= MAX_KEY_BYTES
            and 0 <= number <= _MOST_S
            and until in _UNTIL
            and mode in _MODES
            and (number or until != ELAPSED)
        ):
            raise _wrong("once", text, "KEY;SECONDS;UNTIL;MODE")
        return Once(key=unquote(key), seconds=number, until=until, mode=mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """All messages with this key share something: places to run in, or a pace.

    Attributes:
        number: of places, or seconds between two; None: as the workers say of the task.
    """

    key: str
    number: float | None = None

    def encode(self) -> str:
        """Return the header's text; raises MessageError as ``decode`` does."""
        key = quote(self.key, safe="")
        text = key if self.number is None else f"{key};{self.number!r}"
        Share.decode(text)
        return text

    @staticmethod
    @lru_cache(maxsize=256)
    def decode(text: str) -> Share:
        """Read the header's text.

        Raises:
            MessageError: it is neither ``KEY`` nor ``KEY;NUMBER`` with a number above 0.
        """
        key, semicolon, number = text.partition(";")
        try:
            value = float(number) if semicolon else None
        except ValueError:
            raise _wrong("slots or pace", text, "KEY or KEY;NUMBER") from None
        if not key or len(key) > MAX_KEY_BYTES or (value is not None and not 0 < value <= _MOST_S):
            raise _wrong("slots or pace", text, "KEY or KEY;NUMBER")
        return Share(key=unquote(key), number=value)


class Shares(NamedTuple):
    """What all messages of a task share, over all workers; 0: there is no such limit.

    ``slots`` of them run at once, or of those with the same key (``slots_by_key``); one is handed out every
    ``pace_s`` seconds, or one of those with the same key (``pace_by_key``).
    """

    slots: int = 0
    slots_by_key: bool = False
    pace_s: float = 0.0
    pace_by_key: bool = False


NOTHING_SHARED = Shares()


def once_text(text: str) -> str:
    """Return the text of a header ``once`` that can be read; raises MessageError."""
    Once.decode(text)
    return text


def share_text(text: str) -> str:
    """Return the text of a header ``slots`` or ``pace`` that can be read; raises MessageError."""
    Share.decode(text)
    return text


def _wrong(header: str, text: str, form: str) -> MessageError:
    return MessageError(f"header {header!r} has the value {text[:64]!a}, which is not {form}")
