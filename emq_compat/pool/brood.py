"""The children of a prefork pool as processes: asked for, born, watched, lost and replaced.

The brood knows when a child must be had and when one has ended; what it runs is its keeper's, the pool's,
concern. All its descriptors hang on one epoll object.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import resource
import select
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

from emq_compat.errors import ConfigurationError
from emq_compat.pool import channel
from emq_compat.pool.base import PoolOptions, Work
from emq_compat.pool.kid import Kid
from emq_compat.pool.nursery import Born, Ended, NurseryEvent, Unborn, has_ended, make_nursery
from emq_compat.pool.zygote import exit_text, kill_group_and_reap, reap_strays

__all__ = ["Brood", "Keeper"]

_logger = logging.getLogger(__name__)

#: How long a loss waits for the exit status, which often only the zygote can read.
_STATUS_WAIT_S = 0.05
#: Children that die on start-up are replaced after ever longer pauses, and after so many rounds not at all.
_BACKOFF_S, _BACKOFF_MAX_S, _BACKOFF_ROUNDS = 0.05, 5.0, 7
#: So many children are asked for and not born yet, at most: the zygote's socket holds a few hundred orders.
_BORN_AT_ONCE = 64
#: Descriptors that this process has for each child, and may want besides.
_FDS_PER_CHILD, _FDS_BESIDE = 5, 256
_NURSERY_ENDS_S = 1.0
#: A child that its zygote could not tell of has left after that.
_STRAYS_LEAVE_S = 1.0

# The broods of this process: a forked copy of it (a zygote, an embedded broker, a user's own fork) gives up
# the parent's ends, because the writer of the death pipe must exist in the parent alone.
_broods: weakref.WeakSet[Brood] = weakref.WeakSet()


class Keeper(Protocol):
    """What the brood tells, from within its methods."""

    def missing(self, staying: int) -> int:
        """Return how many children are to be had beside the ``staying`` ones, which don't retire."""

    def on_reply(self, kid: Kid, now: float) -> None:
        """Its reply stream is readable."""

    def on_ready(self, kid: Kid, now: float) -> None:
        """It takes work."""

    def on_orphan(self, kid: Kid, now: float) -> None:
        """Its zygote is gone: what it leaves behind would fall to this process, so it had better retire."""

    def on_end(self, kid: Kid, now: float) -> None:
        """Its process has ended; its channels are closed on return."""

    def on_explained(self, kid: Kid, detail: str, now: float) -> None:
        """How it has ended, as far as that will ever be known; comes once after ``on_end``."""

    def on_broken(self, detail: str) -> None:
        """There will be no further children; told once."""


class Brood:
    """The children there are and those that are asked for.

    Attributes:
        kids: by number.
        births, failed_births: how many there were since the start, and how many were not ready in the end.
        trouble: why no child can be had, as far as is known; empty: one can.
    """

    def __init__(self, work: Work, options: PoolOptions, keeper: Keeper) -> None:
        self.kids: dict[int, Kid] = {}
        self.births = self.failed_births = 0
        self.trouble = "none has been ready yet"
        self._keeper = keeper
        self._before_child = options.before_child
        self._announced = False
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._ended: dict[int, tuple[Kid, float]] = {}  # pid → whose exit status is waited for, until when
        self._unreaped: set[int] = set()  # pids of those that have ended and are a zygote's to reap
        self._takeovers = 0
        self._number = 0
        self._failures = 0
        self._not_before = 0.0
        self._refill_at = math.inf
        self._strays_at = math.inf
        self._broken = False
        self._death_read, self._death_write = os.pipe()
        try:
            self._nursery = make_nursery(work, options, self._death_read)
        except ConfigurationError:
            os.close(self._death_read)
            os.close(self._death_write)
            raise
        self._poll = select.epoll()

    def start(self) -> None:
        """Get ready to have children."""
        _broods.add(self)
        self._announce()  # of the first child: a zygote copies what this process has
        self._announced = True
        self._nursery.start()
        self._watch(self._nursery.fileno(), self._on_nursery)

    def fileno(self) -> int:
        """Return the one descriptor whose readability calls for ``read``."""
        return self._poll.fileno()

    def due(self) -> float:
        """Return the monotonic time at which ``step`` is due."""
        return min(self._refill_at, self._strays_at, *(at for _, at in self._ended.values()), math.inf)

    def read(self, timeout_s: float, now: float) -> None:
        """Handle what is readable, or gets so within ``timeout_s``."""
        handlers = self._handlers
        for fd, _ in self._poll.poll(timeout_s):
            handler = handlers.get(fd)
            if handler is not None:
                handler(now)

    def step(self, now: float) -> None:
        """Do what is due."""
        for pid, (kid, at) in tuple(self._ended.items()):
            if at <= now:
                del self._ended[pid]
                self._explain(kid, None, now)
        if self._refill_at <= now:
            self.refill(now)
        if self._strays_at <= now:
            self._strays_at = math.inf
            self._reap_strays()

    def unexplained(self) -> Iterator[Kid]:
        """Those that have ended and are still to be explained."""
        return (kid for kid, _ in self._ended.values())

    # Where children come from

    def refill(self, now: float) -> None:
        """Ask for the children that are missing, unless it's too early after a failure."""
        self._refill_at = math.inf
        if self._broken:
            return
        missing = self._keeper.missing(sum(not kid.retiring for kid in self.kids.values()))
        if missing <= 0:
            return
        if now < self._not_before:
            self._refill_at = self._not_before
            return
        _allow_fds(len(self.kids) + missing)
        unborn = sum(not kid.pid for kid in self.kids.values())
        for _ in range(min(missing, _BORN_AT_ONCE - unborn)):
            try:
                self._request(now)
            except OSError as exc:
                self._start_failed(str(exc), now)
                return
        self._on_nursery(now)

    def want_no_more(self) -> None:
        """From now on nobody is replaced."""
        self._broken = True

    def _announce(self) -> None:
        if self._announced:
            self._announced = False
        elif self._before_child is not None:
            self._before_child()

    def _request(self, now: float) -> None:
        self._announce()
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
        self.kids[kid.number] = kid
        self._watch(reply.fileno(), functools.partial(self._keeper.on_reply, kid))

    def welcome(self, kid: Kid, now: float) -> None:
        """It may be ready: once it has said so and its process is known."""
        if kid.announced and kid.pid and not kid.ready:
            kid.ready = True
            self._failures, self._not_before = 0, 0.0
            self.births += 1
            self.trouble = ""
            if not kid.leaving:
                kid.bound_at = math.inf
                kid.set_due()
                self._keeper.on_ready(kid, now)

    def _on_nursery(self, now: float) -> None:
        for event in self._nursery.read():
            self._on_nursery_event(event, now)
        if self._takeovers != self._nursery.takeovers:
            self._takeovers = self._nursery.takeovers
            self._strays_at = now + _STRAYS_LEAVE_S
            self._reap_orphans(now)
            if not self._broken:
                for kid in tuple(self.kids.values()):
                    if kid.takeovers < self._takeovers and not kid.retiring:
                        self._keeper.on_orphan(kid, now)
                self.refill(now)

    def _on_nursery_event(self, event: NurseryEvent, now: float) -> None:
        if isinstance(event, Born):
            kid = self.kids.get(event.number)
            if kid is None:
                os.close(event.pidfd)  # given up meanwhile: its channels are closed, so it leaves
                return
            kid.pid, kid.pidfd = event.pid, event.pidfd
            self._refill_at = now  # there may be more to ask for
            self._watch(kid.pidfd, functools.partial(self._on_pidfd, kid))
            self.welcome(kid, now)
        elif isinstance(event, Ended):
            self._on_status(event, now)
        elif isinstance(event, Unborn):
            kid = self.kids.get(event.number)
            if kid is not None:
                self.forget(kid)
                if not event.at_once:
                    self._start_failed(event.detail, now)
        else:
            self._break(event.detail)

    # How they end

    def stop_watching_reply(self, kid: Kid) -> None:
        """Its reply stream is at its end."""
        self._unwatch(kid.reply.fileno())

    def took_too_long(self, kid: Kid, now: float) -> None:
        """It has neither started nor left in time: it is killed, or its zygote is, if it never came."""
        if kid.pid:
            _logger.warning("child %d took too long to %s", kid.pid, "leave" if kid.leaving else "start")
            kid.kill()
        else:
            self._nursery.suspect()
            self.forget(kid)
            self._start_failed("the zygote did not answer", now)

    def forget(self, kid: Kid) -> None:
        """Close its channels, and watch it no more."""
        del self.kids[kid.number]
        self._unwatch(kid.reply.fileno())
        self._unwatch(kid.pidfd)
        kid.close()

    def _on_pidfd(self, kid: Kid, now: float) -> None:
        if kid.number not in self.kids or not has_ended(kid.pidfd):
            return
        self._keeper.on_end(kid, now)
        status = kid.status if kid.status is not None else _reap(kid)
        self.forget(kid)
        if status is None:
            self._unreaped.add(kid.pid)
        if status is None and (kid.entries or kid.never_started):
            self._ended[kid.pid] = (kid, now + _STATUS_WAIT_S)
        else:
            self._explain(kid, status, now)
        if not kid.never_started:
            self.refill(now)

    def _on_status(self, event: Ended, now: float) -> None:
        self._unreaped.discard(event.pid)
        ended = self._ended.pop(event.pid, None)
        if ended is not None:
            self._explain(ended[0], event.status, now)
            return
        for kid in self.kids.values():
            if kid.pid == event.pid:
                kid.status = event.status

    def _explain(self, kid: Kid, status: int | None, now: float) -> None:
        detail = "the process is gone" if status is None else exit_text(status)
        self._keeper.on_explained(kid, detail, now)
        if kid.never_started:
            self._start_failed(detail, now)

    def _reap_orphans(self, now: float) -> None:
        """Reap what the lost zygote had not: this process, as the subreaper, has inherited it."""
        for pid in tuple(self._unreaped):
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                    self._on_status(Ended(pid=pid, status=kill_group_and_reap(pid)), now)

    def _reap_strays(self) -> None:
        reap_strays({kid.pid for kid in self.kids.values()})

    def _start_failed(self, detail: str, now: float) -> None:
        self.failed_births += 1
        self.trouble = f"a child ended before it was ready: {detail}"
        if now >= self._not_before:  # children that fail together count once
            self._failures += 1
            rounds = min(self._failures, _BACKOFF_ROUNDS) - 1
            self._not_before = now + min(_BACKOFF_S * 2**rounds, _BACKOFF_MAX_S)
        _logger.warning("a child ended before it was ready: %s", detail)
        if self._failures >= _BACKOFF_ROUNDS and not any(kid.ready for kid in self.kids.values()):
            self._break(f"children end on start-up again and again; the last one: {detail}")
        self.refill(now)

    def _break(self, detail: str) -> None:
        if not self._broken:
            self._broken = True
            self.trouble = detail
            self._keeper.on_broken(detail)

    def stop(self) -> None:
        """End the nursery and close everything; whoever is still there could not be ended."""
        for pid in tuple(self._ended):
            self._explain(self._ended.pop(pid)[0], None, math.inf)
        for kid in tuple(self.kids.values()):
            _logger.error("child %d could not be ended", kid.pid)
            self.forget(kid)
        self._nursery.stop(_NURSERY_ENDS_S)
        if self._takeovers:
            self._reap_strays()
        _broods.discard(self)
        self._poll.close()
        os.close(self._death_read)
        os.close(self._death_write)

    def abandon(self) -> None:
        """In a forked copy of this process: close the parent's ends."""
        for kid in self.kids.values():
            kid.close()
        self.kids.clear()
        self._nursery.abandon()
        self._poll.close()
        os.close(self._death_write)

    def _watch(self, fd: int, handler: Callable[[float], None]) -> None:
        self._poll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)


def _allow_fds(children: int) -> None:
    """Raise the soft limit of open files, here only, to what so many children need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = children * _FDS_PER_CHILD + _FDS_BESIDE
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
    broods = list(_broods)
    _broods.clear()
    for brood in broods:
        brood.abandon()


os.register_at_fork(after_in_child=_abandon_all)
