"""What a key opens: a role, and the queues that it may be used for.

    client   publishes; waits for results, reads and forgets them; revokes; looks at its queues
    worker   that, and takes messages: runs tasks, ends them, empties its queues; a beat needs it, too
    admin    everything

Queues are limited by patterns, in which ``*`` stands for any text: ``publish`` says where messages may be
sent, ``take`` (of a worker) which may be taken from. Without patterns it is all of them. What a worker takes
from it may publish to as well: a retry goes back to where it came from.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from emq_compat.errors import ConfigurationError

__all__ = ["ADMIN", "CLIENT", "FULL", "ROLES", "WORKER", "Permit", "patterns_in"]

CLIENT, WORKER, ADMIN = "client", "worker", "admin"
#: Each may what those before it may.
ROLES = (CLIENT, WORKER, ADMIN)

#: Characters in a pattern; a queue's name has no more.
_MAX_PATTERN = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What the holder of one key may do.

    Attributes:
        name: the key's; empty: a connection without keys.
        role: one of ROLES.
        publish, take: patterns of queues' names; empty: all (``take`` matters for a worker only).

    Raises:
        ConfigurationError: there is no such role, or it can't have such limits.
    """

    name: str
    role: str = CLIENT
    publish: tuple[str, ...] = ()
    take: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ConfigurationError(
                f"there is no role {self.role!r:.80}: a key's is client, worker or admin"
            )
        if self.role == ADMIN and (self.publish or self.take):
            raise ConfigurationError("an admin's key opens every queue: leave publish and take out")
        if self.role == CLIENT and self.take:
            raise ConfigurationError("a client takes no messages: leave take out, or make it a worker")

    @property
    def limited(self) -> bool:
        """Whether some queue is closed to it."""
        return bool(self.publish or self.take)

    def is_at_least(self, role: str) -> bool:
        """Tell whether it may all that this role may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def may_publish(self, queue: str) -> bool:
        """Tell whether messages may be sent to a queue."""
        if not self.publish or _matches(self.publish, queue):
            return True
        return bool(self.take) and _matches(self.take, queue)

    def may_take(self, queue: str) -> bool:
        """Tell whether messages may be taken from a queue, and so also be read, moved and dropped."""
        return self.role != CLIENT and (not self.take or _matches(self.take, queue))

    def may_use(self, queue: str) -> bool:
        """Tell whether there is anything that a queue may be used for."""
        return self.may_publish(queue) or self.may_take(queue)


#: What a connection without keys may do: it comes from this machine, or the broker is ``--insecure``.
FULL = Permit(name="", role=ADMIN)


def patterns_in(text: str) -> tuple[str, ...]:
    """Return the patterns of a list with commas.

    Raises:
        ConfigurationError: there is none in it, or one that fits no queue's name.
    """
    patterns = tuple(part.strip() for part in text.split(","))
    for pattern in patterns:
        if not pattern or len(pattern) > _MAX_PATTERN or not pattern.isprintable():
            raise ConfigurationError(
                f"{text!r:.80} is no list of queues: write names with commas between them"
            )
    return patterns


@functools.lru_cache(maxsize=4096)
def _matches(patterns: tuple[str, ...], queue: str) -> bool:
    return any(_fits(pattern, queue) for pattern in patterns)


def _fits(pattern: str, queue: str) -> bool:
    """Tell whether a pattern stands for a name. No regular expression: those take for ever on some names."""
    first, *others = pattern.split("*")
    if not others:
        return queue == pattern
    *between, last = others
    if not queue.startswith(first) or not queue.endswith(last) or len(queue) < len(first) + len(last):
        return False
    place, end = len(first), len(queue) - len(last)
    for part in between:
        found = queue.find(part, place, end)
        if found < 0:
            return False
        place = found + len(part)
    return True
