"""The prefork pool: each assignment runs in one of a few child processes.

A child is starting, then ready and idle or busy, perhaps *retiring* (takes no more, does what it has),
*leaving* (its channel is closed), and gone. A replacement is asked for when a child begins to retire, so that
it's there when the other one leaves; how many run at once is bounded by ``concurrency``, not by how many
children exist.

What a child has not begun is never lost with it: it is taken back from the channel and given to another
child.
"""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

from emq_compat.errors import ConfigurationError
from emq_compat.pool import channel, stacks
from emq_compat.pool.base import (
    SOFTENS,
    Assignment,
    Begun,
    Finished,
    Key,
    LossReason,
    Lost,
    Pool,
    PoolBroken,
    PoolEvent,
    PoolOptions,
    Updated,
    Work,
)
from emq_compat.pool.brood import Brood
from emq_compat.pool.kid import Entry, Kid, KillReason

__all__ = ["PreforkPool"]

_logger = logging.getLogger(__name__)

#: An orderly leave (child_exit, flushing) may take that long.
_LEAVE_TIMEOUT_S = 10.0
#: A child that ``terminate`` sent a gentler signal is killed after that.
_TERMINATE_GRACE_S = 0.5
#: After SIGKILL, the kernel may take that long.
_KILL_TIMEOUT_S = 1.0
_LARGE_READS_PER_STEP = 16


class PreforkPool(Pool):
    """Children of a zygote, or spawned ones (DESIGN section 7)."""

    name = "prefork"

    def __init__(self, options: PoolOptions, work: Work) -> None:
        if sys.platform != "linux":
            raise ConfigurationError(
                f"the prefork pool needs Linux, not {sys.platform}: use -P threads or -P solo"
            )
        self._options = options
        self._work = work
        self._target = options.concurrency
        self._kids: dict[int, Kid] = {}  # the brood's
        self._idle: list[Kid] = []
        self._busy = 0
        self._homeless: deque[Entry] = deque()  # taken back from a child, waiting for another one
        self._pending: list[PoolEvent] = []
        self._sequence = 0
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Fork the zygote and ask for the children; they become idle slots as they get ready.

        Raises:
            ConfigurationError: forking is unsafe here, and there's no ``rebuild`` to spawn from.
        """
        self._brood = Brood(self._work, self._options, self)
        self._kids = self._brood.kids
        self._fds = (self._brood.fileno(),)
        self._started = True
        self._brood.start()
        self._brood.refill(time.monotonic())

    def run_loop(self, loop: Callable[[], int]) -> int:
        """Run the loop here."""
        return loop()

    @property
    def concurrency(self) -> int:
        """How many assignments run at once now."""
        return self._target

    @property
    def reserve_per_slot(self) -> int:
        """How many a child may hold beside the one it runs."""
        return self._options.reserve_per_child

    def idle(self) -> int:
        """How many further assignments could begin at once."""
        return max(0, min(len(self._idle), self._target - self._busy) - len(self._homeless))

    def submit(self, assignment: Assignment, *, reserve: bool = False) -> bool:
        """Send the assignment to an idle child or, with ``reserve``, behind the running one of the least
        loaded.
        """
        if self._closed:
            return False
        if self._idle and self._busy < self._target:
            return self._give(self._idle[-1], Entry(assignment, assignment.key), time.monotonic())
        if not reserve:
            return False
        fewest, chosen = self._options.reserve_per_child + 1, None
        for kid in self._kids.values():
            if kid.busy and not kid.retiring and len(kid.entries) < fewest:
                fewest, chosen = len(kid.entries), kid
        if chosen is None:
            return False
        return self._give(chosen, Entry(assignment, assignment.key), time.monotonic())

    def _give(self, kid: Kid, entry: Entry, now: float) -> bool:
        self._sequence = self._sequence + 1 & 0xFFFFFFFF
        try:
            if not kid.give(self._sequence, entry):
                return False
        except OSError as exc:
            _logger.warning("an assignment can't be sent to child %d: %s", kid.pid, exc)
            return False
        if not kid.busy:
            self._idle.remove(kid)
            kid.busy = True
            self._busy += 1
            self._begin(kid, entry, now)
        if kid.given == self._options.max_tasks_per_child:
            kid.retiring = True
            self._brood.refill(now)
        return True

    def _begin(self, kid: Kid, entry: Entry, now: float) -> None:
        kid.begin(entry, now)
        self._pending.append(Begun(key=entry.key, pid=kid.pid))

    def take_back(self) -> list[Assignment]:
        """Take back all that has not begun, oldest first as far as it is known."""
        taken = list(self._homeless)
        self._homeless.clear()
        for kid in self._kids.values():
            if len(kid.entries) > 1:
                taken += kid.withdraw(head=False)
        return [entry.assignment for entry in taken]

    def overrun(self, after_s: float, now: float) -> list[Assignment]:
        """Take back what waits behind an assignment that began ``after_s`` ago or earlier."""
        taken: list[Assignment] = []
        for kid in self._kids.values():
            if len(kid.entries) > 1:
                first = kid.first()
                if first is not None and first.began is not None and now - first.began >= after_s:
                    taken += [entry.assignment for entry in kid.withdraw(head=False)]
        return taken

    def running(self) -> dict[Key, tuple[int, float]]:
        """Return what has begun, lost ones that are still to be told included."""
        found: dict[Key, tuple[int, float]] = {}
        for kid in self._kids.values():
            first = kid.first()
            if first is not None and first.began is not None:
                found[first.key] = (kid.pid, first.began)
        for kid in self._brood.unexplained():
            found.update((entry.key, (kid.pid, entry.began or 0.0)) for entry in kid.entries.values())
        return found

    def fds(self) -> Sequence[int]:
        """Return one descriptor that stands for all."""
        return self._fds

    def next_deadline(self) -> float | None:
        """Return when ``step`` is due: at once if there's something to tell."""
        if self._pending:
            return 0.0
        due = self._brood.due()
        for kid in self._kids.values():
            if kid.due < due:
                due = kid.due
        return None if due == math.inf else due

    def step(self, readable: Sequence[int], now: float) -> list[PoolEvent]:
        """Read what is ready, keep limits, replace who is lost."""
        if readable:
            self._brood.read(0.0, now)
        for kid in tuple(self._kids.values()):
            if kid.due <= now:
                self._overdue(kid, now)
        self._brood.step(now)
        if self._homeless:
            self._rehome(now)
        if self._closed and self._idle and not self._homeless:
            for kid in tuple(self._idle):
                self._let_leave(kid, now)
        events, self._pending = self._pending, []
        return events

    # What children say

    def on_reply(self, kid: Kid, now: float) -> None:
        """Read its reply stream."""
        frames = kid.frames
        for _ in range(_LARGE_READS_PER_STEP):
            for frame in frames.read(kid.reply):
                self._on_frame(kid, frame, now)
            if not frames.inside_large:
                break
        if frames.eof:
            self._brood.stop_watching_reply(kid)
            if not kid.leaving:
                kid.kill()  # it ends anyway, or it has closed its channels and is of no more use

    def _drain(self, kid: Kid, now: float) -> None:
        kid.frames.drained = False
        while not (kid.frames.drained or kid.frames.eof):
            for frame in kid.frames.read(kid.reply):
                self._on_frame(kid, frame, now)

    def _on_frame(self, kid: Kid, frame: channel.Frame, now: float) -> None:
        kind, sequence, data, start, end = frame
        if kind == channel.READY:
            kid.announced = True
            self._brood.welcome(kid, now)
            return
        entry = kid.entries.get(sequence)
        if entry is None:
            return
        if kind == channel.UPDATED:
            state, body = channel.decode_update(data, start, end)
            self._pending.append(Updated(key=entry.key, state=state, body=body))
            return
        del kid.entries[sequence]
        if kind == channel.FINISHED:
            reply, runtime_s, retires = channel.decode_finished(data, start)
            self._pending.append(Finished(key=entry.key, reply=reply, pid=kid.pid, runtime_s=runtime_s))
        else:
            escape = channel.decode_escape(data, start, end)
            retires = escape.retires
            reason: LossReason = "time-limit" if escape.soft_limit else "died"
            self._pending.append(Lost(key=entry.key, reason=reason, detail=escape.detail, pid=kid.pid))
        if retires:
            kid.retiring = True
            self._reclaim(kid)
            self._brood.refill(now)
        self._settle(kid, now)

    def _settle(self, kid: Kid, now: float) -> None:
        """Begin what comes first now; with nothing left, the child is idle, or leaves."""
        first = kid.first()
        if first is not None:
            if first.began is None:
                self._begin(kid, first, now)
        elif kid.busy:
            kid.busy = False
            self._busy -= 1
            kid.end_limits()
            if kid.retiring:
                self._let_leave(kid, now)
            else:
                self._idle.append(kid)

    def on_ready(self, kid: Kid, now: float) -> None:
        """It is idle."""
        self._idle.append(kid)

    def _reclaim(self, kid: Kid) -> None:
        self._homeless.extendleft(reversed(kid.withdraw(head=True)))

    def _rehome(self, now: float) -> None:
        while self._homeless and self._idle and self._busy < self._target:
            entry = self._homeless.popleft()
            entry.began = None
            if not self._give(self._idle[-1], entry, now):
                self._homeless.appendleft(entry)
                return

    # Ends

    def _overdue(self, kid: Kid, now: float) -> None:
        if kid.kill_at <= now:
            kid.kill_at = math.inf
            kid.kill()
        if kid.hard_at <= now:
            kid.hard_at = kid.soft_at = math.inf
            first = kid.first()
            if first is not None:
                self._end(kid, first.key, "time-limit", now)
        elif kid.soft_at <= now:
            kid.remind_of_soft_limit(now)
        if kid.bound_at <= now:
            kid.bound_at = math.inf
            self._brood.took_too_long(kid, now)
        kid.set_due()

    def terminate(self, key: Key, signum: int | None = None) -> bool:
        """Kill the child that runs it; a signal other than KILL goes to its group first. A task with a
        handler of its own has half a second's grace.
        """
        now = time.monotonic()
        for kid in tuple(self._kids.values()):
            first = kid.first()
            if first is not None and first.key == key:
                if signum == SOFTENS:
                    return self._soften(kid, key, now)
                return self._end(kid, key, "terminated", now, signum)
        return False

    def _soften(self, kid: Kid, key: Key, now: float) -> bool:
        # As in _end: nothing else can begin before the signal is there.
        self._reclaim(kid)
        self._drain(kid, now)
        first = kid.first()
        if first is None or first.key != key:
            self._settle(kid, now)
            return False
        kid.soften(now)
        return True

    def _end(self, kid: Kid, key: Key, reason: KillReason, now: float, signum: int | None = None) -> bool:
        # Once nothing waits in the channel, the child can't begin anything else: if the key still runs after
        # the replies were read, killing the child can't hit another assignment.
        self._reclaim(kid)
        self._drain(kid, now)
        first = kid.first()
        if first is None or first.key != key:
            self._settle(kid, now)
            for entry in self._homeless:
                if entry.key == key and reason == "terminated":  # it had been sent, but not received
                    self._homeless.remove(entry)
                    self._pending.append(Lost(key=key, reason=reason, detail="before it began", pid=kid.pid))
                    return True
            return False
        kid.retiring = True
        if signum is None or signum == signal.SIGKILL:
            kid.kill(reason)
        else:
            kid.kill_reason = reason
            kid.ask_to_end(signum)
            kid.kill_at = now + _TERMINATE_GRACE_S
            kid.set_due()
        self._brood.refill(now)
        return True

    def _let_leave(self, kid: Kid, now: float) -> None:
        """Close the channel of a child that has nothing to do."""
        if kid in self._idle:
            self._idle.remove(kid)
        kid.retiring = kid.leaving = True
        kid.work.close()
        kid.bound_at, kid.kill_at = now + _LEAVE_TIMEOUT_S, math.inf
        kid.set_due()

    def on_end(self, kid: Kid, now: float) -> None:
        """Take in what it has said, and take back what it had not begun; what is left is lost."""
        self._drain(kid, now)
        if kid in self._idle:
            self._idle.remove(kid)
        if kid.busy:
            kid.busy = False
            self._busy -= 1
        self._reclaim(kid)

    def on_explained(self, kid: Kid, detail: str, now: float) -> None:
        """Tell its losses."""
        reason = kid.kill_reason or "died"
        for entry in kid.entries.values():
            self._pending.append(Lost(key=entry.key, reason=reason, detail=detail, pid=kid.pid))
        kid.entries.clear()

    def on_orphan(self, kid: Kid, now: float) -> None:
        """Let it retire."""
        kid.retiring = True
        if not kid.busy:
            self._let_leave(kid, now)

    def on_broken(self, detail: str) -> None:
        """Tell the job manager."""
        self._pending.append(PoolBroken(detail=detail))

    def missing(self, staying: int) -> int:
        """Return how many children are to be had: one for each slot; once closed, one for what waits."""
        if self._closed:
            return 1 if self._homeless and not staying else 0
        return self._target - staying

    # People and shutdown

    def pids(self) -> list[int]:
        """Return the children's pids."""
        return [kid.pid for kid in self._kids.values() if kid.pid]

    @property
    def trouble(self) -> str:
        """Why no child can be made; told until one is ready."""
        return self._brood.trouble if self._started else "it isn't started"

    @property
    def births(self) -> int:
        """Children that got ready."""
        return self._brood.births if self._started else 0

    @property
    def failed_births(self) -> int:
        """Children that didn't."""
        return self._brood.failed_births if self._started else 0

    def grow(self, n: int = 1) -> None:
        """Add n slots."""
        self._target += n
        self._brood.refill(time.monotonic())

    def shrink(self, n: int = 1) -> None:
        """Remove n slots: idle ones, then starting ones, then busy ones once they have done what they run."""
        now = time.monotonic()
        self._target = max(0, self._target - n)
        staying = [kid for kid in self._kids.values() if not kid.retiring]
        staying.sort(key=lambda kid: (kid.busy, kid.ready, len(kid.entries)))
        for kid in staying[: max(0, len(staying) - self._target)]:
            if kid.busy:
                kid.retiring = True
                self._homeless.extendleft(reversed(kid.withdraw(head=False)))
            else:
                self._let_leave(kid, now)

    def dump_stacks(self) -> str:
        """Return every child's stacks, as faulthandler writes them."""
        return stacks.collect([kid for kid in self._kids.values() if kid.ready and not kid.leaving])

    def close(self) -> None:
        """Let idle children leave now, and the others when they have done what they have."""
        self._closed = True
        now = time.monotonic()
        if not self._homeless:
            for kid in tuple(self._kids.values()):
                if not kid.busy and not kid.leaving:
                    self._let_leave(kid, now)
        self._brood.refill(now)

    def stop(self, timeout_s: float) -> list[PoolEvent]:
        """Kill what runs and see the idle children out; ``take_back`` still returns what never began."""
        if not self._started:
            return []
        self._started, self._closed = False, True
        self._brood.want_no_more()
        now = time.monotonic()
        deadline = now + timeout_s
        for kid in tuple(self._kids.values()):
            self._reclaim(kid)
            self._drain(kid, now)
            self._settle(kid, now)
            if kid.busy or not kid.pid:
                kid.kill("stopped")
            if not kid.busy and not kid.leaving:
                self._let_leave(kid, now)
        self._wait_for_kids(deadline)
        for kid in self._kids.values():
            kid.kill("stopped")
        self._wait_for_kids(time.monotonic() + _KILL_TIMEOUT_S)
        self._brood.stop()
        events, self._pending = self._pending, []
        return events

    def _wait_for_kids(self, deadline: float) -> None:
        while (now := time.monotonic()) < deadline and (self._kids or any(self._brood.unexplained())):
            due = min(deadline, self._brood.due(), *(kid.due for kid in self._kids.values()))
            self._brood.read(max(0.0, due - now), now)
            now = time.monotonic()
            self._brood.step(now)
            for kid in tuple(self._kids.values()):
                if kid.due <= now:
                    self._overdue(kid, now)
