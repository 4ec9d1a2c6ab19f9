"""The prefork pool: each assignment runs in one of a few child processes.

A child is starting, then ready and idle or busy, perhaps *retiring* (takes no more, does what it has),
*leaving* (its channel is closed), and gone. A replacement is asked for when a child begins to retire, so that
it's there when the other one leaves; how many run at once is bounded by ``concurrency``, not by how many
children exist.

What a child has not begun is never lost with it: it is taken back from the channel and given to another
child.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import resource
import select
import signal
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from emq_compat.errors import ConfigurationError
from emq_compat.pool import channel, stacks
from emq_compat.pool.base import (
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
from emq_compat.pool.kid import Entry, Kid, KillReason
from emq_compat.pool.nursery import Born, Ended, Nursery, NurseryLost, Unborn, has_ended, make_nursery
from emq_compat.pool.zygote import exit_text, kill_group_and_reap

__all__ = ["PreforkPool"]

_logger = logging.getLogger(__name__)

#: An orderly leave (child_exit, flushing) may take that long.
_LEAVE_TIMEOUT_S = 10.0
#: A child that ``terminate`` sent a gentler signal is killed after that.
_TERMINATE_GRACE_S = 0.5
#: How long a loss waits for the exit status, which often only the zygote can read.
_STATUS_WAIT_S = 0.05
#: Children that die on start-up are replaced after ever longer pauses, and after so many rounds not at all.
_BACKOFF_S, _BACKOFF_MAX_S, _BACKOFF_ROUNDS = 0.05, 5.0, 7
#: After SIGKILL, the kernel may take that long.
_KILL_TIMEOUT_S = 1.0
_LARGE_READS_PER_STEP = 16
#: So many children are asked for and not born yet, at most: the zygote's socket holds a few hundred orders.
_BORN_AT_ONCE = 64
#: Descriptors that this process has for each child, and may want besides.
_FDS_PER_CHILD, _FDS_BESIDE = 5, 256

# The pools of this process: a forked copy of it (a zygote, an embedded broker, a user's own fork) gives up
# the parent's ends, because the writer of the death pipe must exist in the parent alone.
_pools: weakref.WeakSet[PreforkPool] = weakref.WeakSet()


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
        self._kids: dict[int, Kid] = {}
        self._idle: list[Kid] = []
        self._busy = 0
        self._homeless: deque[Entry] = deque()  # taken back from a child, waiting for another one
        self._bereft: dict[
            int, tuple[Kid, list[Entry], float]
        ] = {}  # pid → losses that wait for its exit status
        self._pending: list[PoolEvent] = []
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._takeovers = 0
        self._unreaped: set[int] = set()  # pids of children that have ended and are a zygote's to reap
        self._sequence = 0
        self._number = 0
        self._failures = 0
        self._not_before = 0.0
        self._refill_at = math.inf
        self._closed = False
        self._broken = False

    def start(self) -> None:
        """Fork the zygote and ask for the children; they become idle slots as they get ready.

        Raises:
            ConfigurationError: forking is unsafe here, and there's no ``rebuild`` to spawn from.
        """
        self._death_read, self._death_write = os.pipe()
        try:
            self._nursery: Nursery = make_nursery(self._work, self._options, self._death_read)
        except ConfigurationError:
            os.close(self._death_read)
            os.close(self._death_write)
            raise
        self._poll = select.epoll()
        self._fds = (self._poll.fileno(),)
        _pools.add(self)
        self._nursery.start()
        self._watch(self._nursery.fileno(), self._on_nursery)
        _allow_fds(self._target)
        self._refill(time.monotonic())

    def run_loop(self, loop: Callable[[], int]) -> int:
        """Run the loop here."""
        return loop()

    @property
    def concurrency(self) -> int:
        """How many assignments run at once now."""
        return self._target

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
            self._refill(now)
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
        for kid, entries, at in self._bereft.values():
            found.update((entry.key, (kid.pid, entry.began or at)) for entry in entries)
        return found

    def fds(self) -> Sequence[int]:
        """Return one descriptor that stands for all."""
        return self._fds

    def next_deadline(self) -> float | None:
        """Return when ``step`` is due: at once if there's something to tell."""
        if self._pending:
            return 0.0
        due = self._refill_at
        for kid in self._kids.values():
            if kid.due < due:
                due = kid.due
        for _, _, at in self._bereft.values():
            due = min(due, at)
        return None if due == math.inf else due

    def step(self, readable: Sequence[int], now: float) -> list[PoolEvent]:
        """Read what is ready, keep limits, replace who is lost."""
        if readable:
            self._read(0.0, now)
        for kid in tuple(self._kids.values()):
            if kid.due <= now:
                self._overdue(kid, now)
        if self._bereft:
            self._tell_unexplained(now)
        if self._refill_at <= now:
            self._refill(now)
        if self._homeless:
            self._rehome(now)
        if self._closed and self._idle and not self._homeless:
            for kid in tuple(self._idle):
                self._let_leave(kid, now)
        events, self._pending = self._pending, []
        return events

    def _read(self, timeout_s: float, now: float) -> None:
        handlers = self._handlers
        for fd, _ in self._poll.poll(timeout_s):
            handler = handlers.get(fd)
            if handler is not None:
                handler(now)

    def _watch(self, fd: int, handler: Callable[[float], None]) -> None:
        self._poll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    # What children say

    def _on_reply(self, kid: Kid, now: float) -> None:
        frames = kid.frames
        for _ in range(_LARGE_READS_PER_STEP):
            for frame in frames.read(kid.reply):
                self._on_frame(kid, frame, now)
            if not frames.inside_large:
                break
        if frames.eof:
            self._unwatch(kid.reply.fileno())
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
            self._welcome(kid, now)
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
            self._refill(now)
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

    def _welcome(self, kid: Kid, now: float) -> None:
        if kid.announced and kid.pid and not kid.ready:
            kid.ready = True
            self._failures, self._not_before = 0, 0.0
            if not kid.leaving:
                kid.bound_at = math.inf
                kid.set_due()
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
            if kid.pid:
                _logger.warning("child %d took too long to %s", kid.pid, "leave" if kid.leaving else "start")
                kid.kill()
            else:
                self._nursery.suspect()
                self._forget(kid)
                self._start_failed("the zygote did not answer", now)
        kid.set_due()

    def terminate(self, key: Key, signum: int | None = None) -> bool:
        """Kill the child that runs it; a signal other than KILL goes to its group first, with half a second's
        grace.
        """
        now = time.monotonic()
        for kid in tuple(self._kids.values()):
            first = kid.first()
            if first is not None and first.key == key:
                return self._end(kid, key, "terminated", now, signum)
        return False

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
            kid.signal_group(signum)
            kid.kill_at = now + _TERMINATE_GRACE_S
            kid.set_due()
        self._refill(now)
        return True

    def _let_leave(self, kid: Kid, now: float) -> None:
        """Close the channel of a child that has nothing to do."""
        if kid in self._idle:
            self._idle.remove(kid)
        kid.retiring = kid.leaving = True
        kid.work.close()
        kid.bound_at, kid.kill_at = now + _LEAVE_TIMEOUT_S, math.inf
        kid.set_due()

    def _on_pidfd(self, kid: Kid, now: float) -> None:
        if kid.number not in self._kids or not has_ended(kid.pidfd):
            return
        self._drain(kid, now)
        if kid in self._idle:
            self._idle.remove(kid)
        if kid.busy:
            kid.busy = False
            self._busy -= 1
        self._reclaim(kid)
        lost = list(kid.entries.values())
        kid.entries.clear()
        status = kid.status if kid.status is not None else _reap(kid)
        self._forget(kid)
        if status is None:
            self._unreaped.add(kid.pid)
        if status is None and (lost or kid.never_started):
            self._bereft[kid.pid] = (kid, lost, now + _STATUS_WAIT_S)
        else:
            self._tell_lost(kid, lost, status, now)
        if not kid.never_started:
            self._refill(now)

    def _forget(self, kid: Kid) -> None:
        del self._kids[kid.number]
        self._unwatch(kid.reply.fileno())
        self._unwatch(kid.pidfd)
        kid.close()

    def _tell_lost(self, kid: Kid, lost: Iterable[Entry], status: int | None, now: float) -> None:
        detail = "the process is gone" if status is None else exit_text(status)
        for entry in lost:
            self._pending.append(
                Lost(key=entry.key, reason=kid.kill_reason or "died", detail=detail, pid=kid.pid)
            )
        if kid.never_started:
            self._start_failed(detail, now)

    def _tell_unexplained(self, now: float) -> None:
        for pid, (kid, lost, at) in tuple(self._bereft.items()):
            if at <= now:
                del self._bereft[pid]
                self._tell_lost(kid, lost, None, now)

    # Where children come from

    def _refill(self, now: float) -> None:
        """Ask for the children that are missing, unless it's too early after a failure."""
        self._refill_at = math.inf
        if self._broken:
            return
        staying = sum(not kid.retiring for kid in self._kids.values())
        missing = self._target - staying
        if self._closed:
            missing = 1 if self._homeless and not staying else 0
        if missing <= 0:
            return
        if now < self._not_before:
            self._refill_at = self._not_before
            return
        unborn = sum(not kid.pid for kid in self._kids.values())
        for _ in range(min(missing, _BORN_AT_ONCE - unborn)):
            try:
                self._request_child(now)
            except OSError as exc:
                self._start_failed(str(exc), now)
                return
        self._on_nursery(now)

    def _request_child(self, now: float) -> None:
        self._number += 1
        with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as the_childs:
            work, back = channel.work_pair()
            on_failure.callback(work.close)
            on_failure.callback(back.close)
            reply, child_reply = channel.reply_pair()
            on_failure.callback(reply.close)
            the_childs.callback(child_reply.close)
            dump, child_dump = os.pipe()
            on_failure.callback(os.close, dump)
            the_childs.callback(os.close, child_dump)
            self._nursery.request(self._number, back.fileno(), child_reply.fileno(), child_dump)
            on_failure.pop_all()
        kid = Kid(number=self._number, work=work, back=back, reply=reply, dump=dump)
        kid.bound_at = kid.due = now + self._nursery.start_timeout_s
        kid.takeovers = self._nursery.takeovers
        self._kids[kid.number] = kid
        self._watch(reply.fileno(), functools.partial(self._on_reply, kid))

    def _on_nursery(self, now: float) -> None:
        for event in self._nursery.read():
            if isinstance(event, Born):
                kid = self._kids.get(event.number)
                if kid is None:
                    os.close(event.pidfd)  # given up meanwhile: its channels are closed, so it leaves
                    continue
                kid.pid, kid.pidfd = event.pid, event.pidfd
                self._refill_at = now  # there may be more to ask for
                self._watch(kid.pidfd, functools.partial(self._on_pidfd, kid))
                self._welcome(kid, now)
            elif isinstance(event, Ended):
                self._on_status(event, now)
            elif isinstance(event, Unborn):
                kid = self._kids.get(event.number)
                if kid is not None:
                    self._forget(kid)
                    if not event.at_once:
                        self._start_failed(event.detail, now)
            else:
                self._break(event)
        if self._takeovers != self._nursery.takeovers:
            self._takeovers = self._nursery.takeovers
            self._reap_orphans(now)
            self._replace_orphans(now)

    def _reap_orphans(self, now: float) -> None:
        """Reap what the lost zygote had not: this process, as the subreaper, has inherited it."""
        for pid in tuple(self._unreaped):
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                    self._on_status(Ended(pid=pid, status=kill_group_and_reap(pid)), now)

    def _replace_orphans(self, now: float) -> None:
        """Let children of a zygote that's gone retire, so that what they start falls to a living one."""
        if not self._broken:
            for kid in tuple(self._kids.values()):
                if kid.takeovers < self._nursery.takeovers and not kid.retiring:
                    kid.retiring = True
                    if not kid.busy:
                        self._let_leave(kid, now)
            self._refill(now)

    def _on_status(self, event: Ended, now: float) -> None:
        self._unreaped.discard(event.pid)
        bereft = self._bereft.pop(event.pid, None)
        if bereft is not None:
            self._tell_lost(bereft[0], bereft[1], event.status, now)
            return
        for kid in self._kids.values():
            if kid.pid == event.pid:
                kid.status = event.status

    def _start_failed(self, detail: str, now: float) -> None:
        if now >= self._not_before:  # children that fail together count once
            self._failures += 1
            rounds = min(self._failures, _BACKOFF_ROUNDS) - 1
            self._not_before = now + min(_BACKOFF_S * 2**rounds, _BACKOFF_MAX_S)
        _logger.warning("a child ended before it was ready: %s", detail)
        if self._failures >= _BACKOFF_ROUNDS and not any(kid.ready for kid in self._kids.values()):
            self._break(
                NurseryLost(detail=f"children end on start-up again and again; the last one: {detail}")
            )
        self._refill(now)

    def _break(self, event: NurseryLost) -> None:
        if not self._broken:
            self._broken = True
            self._pending.append(PoolBroken(detail=event.detail))

    # People and shutdown

    def pids(self) -> list[int]:
        """Return the children's pids."""
        return [kid.pid for kid in self._kids.values() if kid.pid]

    def grow(self, n: int = 1) -> None:
        """Add n slots."""
        self._target += n
        _allow_fds(self._target)
        self._refill(time.monotonic())

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
        self._refill(now)

    def stop(self, timeout_s: float) -> list[PoolEvent]:
        """Kill what runs and see the idle children out; ``take_back`` still returns what never began."""
        if self not in _pools:  # not started, or stopped already
            return []
        self._closed = self._broken = True
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
        self._tell_unexplained(math.inf)
        for kid in tuple(self._kids.values()):
            _logger.error("child %d could not be ended", kid.pid)
            self._forget(kid)
        self._nursery.stop(_KILL_TIMEOUT_S)
        _pools.discard(self)
        self._poll.close()
        os.close(self._death_read)
        os.close(self._death_write)
        events, self._pending = self._pending, []
        return events

    def _wait_for_kids(self, deadline: float) -> None:
        while (self._kids or self._bereft) and (now := time.monotonic()) < deadline:
            waits = [kid.due for kid in self._kids.values()] + [at for _, _, at in self._bereft.values()]
            self._read(max(0.0, min(deadline, *waits) - now), now)
            now = time.monotonic()
            self._tell_unexplained(now)
            for kid in tuple(self._kids.values()):
                if kid.due <= now:
                    self._overdue(kid, now)

    def _abandon(self) -> None:
        """In a forked copy of this process: close the parent's ends."""
        for kid in self._kids.values():
            kid.close()
        self._kids.clear()
        self._nursery.abandon()
        self._poll.close()
        os.close(self._death_write)


def _allow_fds(children: int) -> None:
    """Raise the soft limit of open files, here only, to what so many children need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * children * _FDS_PER_CHILD + _FDS_BESIDE  # while they are replaced, there are twice as many
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _reap(kid: Kid) -> int | None:
    """Reap a child of this process's own (spawned, or of a lost zygote); None: it's the zygote's."""
    try:
        if os.waitid(os.P_PIDFD, kid.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            return None
        return kill_group_and_reap(kid.pid)
    except ChildProcessError:
        return None


def _abandon_all() -> None:
    pools = list(_pools)
    _pools.clear()
    for pool in pools:
        pool._abandon()


os.register_at_fork(after_in_child=_abandon_all)
