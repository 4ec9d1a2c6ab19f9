"""A child as its parent sees it: its channels, what it was given, and its time limits."""

from __future__ import annotations

import math
import os
import signal
import socket
from dataclasses import dataclass, field
from typing import Literal

from emq_compat.pool import channel
from emq_compat.pool.base import Assignment, Key
from emq_compat.pool.child import (
    DUMP_SIGNAL,
    END_SIGNAL,
    GROUP_SIGNALS,
    SOFT_LIMIT_SIGNAL,
    SOFTEN_SIGNAL,
)

__all__ = ["Entry", "Kid", "KillReason"]

KillReason = Literal["time-limit", "terminated", "stopped"]

#: A soft limit's signal is repeated until the assignment ends: the child passes over one that comes too
#: early.
_SOFT_REPEAT_S = 0.02
_SOFT_REPEAT_MAX_S = 5.0
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2


class Entry:
    """An assignment that a child was given."""

    __slots__ = ("assignment", "began", "key")

    def __init__(self, assignment: Assignment, key: Key) -> None:
        self.assignment = assignment
        self.key = key
        self.began: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Kid:
    """One child.

    Attributes:
        number: which child it is, from 1; ``pid`` and ``pidfd`` are known once it's born (before: 0 and -1).
        work, back: our end of the work channel, and a copy of the child's, from which work is taken back.
        reply, frames: our end of the reply stream, and what reads it.
        dump: read end of the pipe that stack dumps come through.
        entries: sequence number → what it was given and hasn't finished, oldest first; the first one has
        begun.
        given: how many it was given in its life.
        announced: it said that it's ready; ``ready``: and the parent knows its pid; ``busy``: it has entries.
        retiring: takes no more work; leaves when it has done what it has.
        leaving: its work channel is closed; it's on its way out.
        kill_reason: why it was killed, if it was killed here; its running assignment is lost for that reason.
        due: monotonic time at which something must be done about it (infinite: nothing).
        status: its wait status, once known.
        takeovers: how many zygotes had been lost when it was asked for.
        soft_at, hard_at: times of the limits of the running assignment; ``bound_at``: that of its start or
        its leaving;
            ``kill_at``: it was asked to end by a signal, and is killed then.
    """

    number: int
    work: socket.socket
    back: socket.socket
    reply: socket.socket
    dump: int
    frames: channel.FrameReader = field(default_factory=channel.FrameReader)
    pid: int = 0
    pidfd: int = -1
    entries: dict[int, Entry] = field(default_factory=dict)
    given: int = 0
    announced: bool = False
    ready: bool = False
    busy: bool = False
    retiring: bool = False
    leaving: bool = False
    kill_reason: KillReason | None = None
    status: int | None = None
    takeovers: int = 0
    due: float = math.inf
    soft_at: float = math.inf
    hard_at: float = math.inf
    bound_at: float = math.inf
    kill_at: float = math.inf
    soft_repeat_s: float = _SOFT_REPEAT_S

    @property
    def never_started(self) -> bool:
        """Whether it has not got ready, and wasn't told to leave: once it has ended, its start has failed."""
        return not (self.ready or self.leaving or self.kill_reason == "stopped")

    def first(self) -> Entry | None:
        """Return what runs, if anything does."""
        for entry in self.entries.values():
            return entry
        return None

    def give(self, sequence: int, entry: Entry) -> bool:
        """Send an assignment down; False: the channel is full. Raises OSError as ``send_work`` does."""
        assignment = entry.assignment
        head = channel.encode_work(sequence, assignment.delivery, assignment.soft_limit_s)
        if not channel.send_work(self.work, head, assignment.delivery.payload):
            return False
        self.entries[sequence] = entry
        self.given += 1
        return True

    def begin(self, entry: Entry, now: float) -> None:
        """Note that this entry runs from now on, under its limits."""
        entry.began = now
        assignment = entry.assignment
        soft, hard = assignment.soft_limit_s, assignment.limit_s
        if soft is not None or hard is not None or self.due != math.inf:
            self.soft_at = math.inf if soft is None else now + soft
            self.hard_at = math.inf if hard is None else now + hard
            self.soft_repeat_s = _SOFT_REPEAT_S
            self.set_due()

    def end_limits(self) -> None:
        """Note that nothing runs."""
        if self.due != math.inf:
            self.soft_at = self.hard_at = math.inf
            self.set_due()

    def set_due(self) -> None:
        """Work out ``due`` again."""
        self.due = min(self.soft_at, self.hard_at, self.bound_at, self.kill_at)

    def withdraw(self, *, head: bool) -> list[Entry]:
        """Take back what it has not received, oldest first.

        ``head=False``: the first entry counts as begun, and is sent again if the child hasn't received it
        yet.
        """
        taken = []
        for sequence in channel.withdraw_work(self.back):
            entry = self.entries[sequence]
            if entry.began is not None and not head:
                delivery = entry.assignment.delivery
                again = channel.encode_work(sequence, delivery, entry.assignment.soft_limit_s)
                channel.send_work(self.work, again, delivery.payload)
                continue
            del self.entries[sequence]
            self.given -= 1
            taken.append(entry)
        return taken

    def signal(self, signum: int) -> None:
        """Send the process itself a signal, if it's there."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, signum)
            except ProcessLookupError:
                pass  # it has ended; its pidfd tells

    def kill(self, reason: KillReason | None = None) -> None:
        """End the process; whoever reaps it ends its process group."""
        if self.kill_reason is None:
            self.kill_reason = reason
        self.signal(signal.SIGKILL)

    def ask_to_end(self, signum: int) -> None:
        """Send its process group a signal that is to end what runs; it's at once the child's end where the
        task has no handler for it.
        """
        self.signal_group(signum)
        if signum in GROUP_SIGNALS:
            self.signal(END_SIGNAL)

    def soften(self, now: float) -> None:
        """Have the soft limit's exception raised in what runs, though that is not over."""
        self.signal(SOFTEN_SIGNAL)
        self.soft_at = now + self.soft_repeat_s
        self.set_due()

    def remind_of_soft_limit(self, now: float) -> None:
        """Tell the child that the running assignment's soft limit is over."""
        self.signal(SOFT_LIMIT_SIGNAL)
        self.soft_at = now + self.soft_repeat_s
        self.soft_repeat_s = min(self.soft_repeat_s * 2, _SOFT_REPEAT_MAX_S)
        self.set_due()

    def signal_group(self, signum: int) -> None:
        """Send its process group a signal."""
        try:
            signal.pidfd_send_signal(self.pidfd, signum, None, _PIDFD_SIGNAL_PROCESS_GROUP)
        except ProcessLookupError:
            pass
        except OSError:  # a kernel older than 6.9
            os.killpg(self.pid, signum)

    def ask_for_stacks(self) -> None:
        """Have the child write its stacks to ``dump``."""
        self.signal(DUMP_SIGNAL)

    def close(self) -> None:
        """Close everything; an end the child still reads from makes it leave."""
        self.work.close()
        self.back.close()
        self.reply.close()
        for fd in (self.dump, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.dump = self.pidfd = -1
