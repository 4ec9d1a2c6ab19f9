"""What a message may measure, and the error of a frame that breaks a rule."""

from __future__ import annotations

import re
from dataclasses import dataclass

from emq_compat.ids import MAX_QUEUE_NAME
from emq_compat.message import MAX_ID_BYTES

__all__ = [
    "LIMITS",
    "MAX_ID_BYTES",
    "MAX_NUMBER",
    "MAX_QUEUE_NAME",
    "BadFrame",
    "Limits",
    "check_queue",
    "is_number",
]

#: The largest number in a count, weight or attempt.
MAX_NUMBER = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a message may measure; sizes in bytes.

    Attributes:
        payload_bytes: a payload, a reply's or answer's body.
        control_bytes: the small JSON frames that the codec decodes itself (INFORM, NACK, ASK's arguments …).
        header_bytes: a header frame.
        frames: frames of a message other than REPLY.
        follow_ups: messages that a REPLY carries.
    """

    payload_bytes: int = 64 << 20
    control_bytes: int = 4 << 20
    header_bytes: int = 16 << 10
    frames: int = 16
    follow_ups: int = 100_000


LIMITS = Limits()


class BadFrame(Exception):
    """A frame is wrong: its index, its name and why. Decoder and encoder translate it at their edge."""

    def __init__(self, index: int, name: str, why: str) -> None:
        super().__init__(index, name, why)
        self.index = index
        self.name = name
        self.why = why


_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_queue(text: str, index: int, name: str) -> str:
    if len(text) > MAX_QUEUE_NAME:
        raise BadFrame(index, name, f"is longer than {MAX_QUEUE_NAME} characters")
    if not text.isprintable() and _CONTROL_CHARACTER.search(text):
        raise BadFrame(index, name, "holds a control character")
    return text


def is_number(value: object, low: int = 0) -> bool:
    return type(value) is int and low <= value <= MAX_NUMBER
