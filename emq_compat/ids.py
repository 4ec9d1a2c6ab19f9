"""Identifiers of messages and tasks, and names as identities hold them."""

from __future__ import annotations

import os
import re
import time

__all__ = ["MAX_QUEUE_NAME", "made_at", "new_id", "new_ids", "plain_name"]

#: Characters in a queue's name, as in AMQP.
MAX_QUEUE_NAME = 255

_UNFIT = re.compile(r"[^!-~]+")


def plain_name(name: str) -> str:
    """Return a worker's name as brokers know it: what isn't printable ASCII, or is a blank, is ``_``."""
    return _UNFIT.sub("_", name)[:200]


def new_id() -> str:
    """Return a new identifier: a UUID of version 7 (RFC 9562), so that ids sort by the time they were made.

    Sorted ids keep the journal's indexes local: a million waiting messages don't slow a publish.
    """
    ms = time.time_ns() // 1_000_000
    rand = int.from_bytes(os.urandom(10), "big")
    value = (ms & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (rand >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | rand & (1 << 62) - 1
    h = f"{value:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def new_ids(count: int) -> list[str]:
    """Return new identifiers that are numbered from a random one on: a text with many of them packs well."""
    first = new_id()
    number = int(first[24:], 16)
    return [f"{first[:24]}{number + i & 0xFFFFFFFFFFFF:012x}" for i in range(count)]


def made_at(msgid: str) -> float | None:
    """Return the unix time at which an id of ``new_id`` was made, to the millisecond; None: it is none."""
    if len(msgid) < 36 or msgid[14] != "7":
        return None
    try:
        return int(msgid[:8] + msgid[9:13], 16) / 1000
    except ValueError:
        return None
