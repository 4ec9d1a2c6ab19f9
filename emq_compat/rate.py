"""How often something may happen: a bucket that gives one token every so many seconds. It knows no clock."""

from __future__ import annotations

__all__ = ["TokenBucket"]

#: Who comes late by no more than this still gets its token counted from when it was due, so that delays of a
#: loop don't add up; it is also all that an idle time saves up.
SLACK_S = 0.05


class TokenBucket:
    """Gives a token every ``interval_s`` seconds; of an idle time at most 50 ms worth of them are kept.

    Times are monotonic seconds and never run backwards.
    """

    __slots__ = ("interval_s", "next_at")

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        #: when there is a token.
        self.next_at = float("-inf")

    def wait_s(self, now: float) -> float:
        """Return how long it is until there is a token; 0.0: there is one."""
        return max(0.0, self.next_at - now)

    def take(self, now: float) -> float:
        """Take the next token, in advance where there is none; returns the time at which it is good."""
        good_at = max(self.next_at, now)
        self.next_at = max(self.next_at, now - SLACK_S) + self.interval_s
        return good_at

    def put_back(self) -> None:
        """Put back a token that was taken last and not used."""
        self.next_at -= self.interval_s
