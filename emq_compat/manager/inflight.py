"""A job that a job manager holds: what was delivered, where from, and how far it has come."""

from __future__ import annotations

from emq_compat.message import Delivery, Headers, Reply
from emq_compat.pool.base import Assignment
from emq_compat.run import TaskPolicy
from emq_compat.upstream.base import Key, Upstream

__all__ = ["JobInFlight", "assignment_of"]


class JobInFlight:
    """The message with all the details, and its state. Changed by the job manager's loop only.

    Attributes:
        delivery: as it came.
        upstream: where it came from, and where the reply goes.
        policy: of its task.
        assignment: what the pool gets.
        keys: every (msgid, attempt) that is answered by this one run: a broker that took an attempt for lost
            while it still ran here delivers the job once more.
        unanswered: nobody has replied yet.
        alone: it is in the pool and needs a slot of its own.
        short: its task is known to be short, so that it may wait behind another one in a child.
        pid: the process that runs it; 0 before.
        signum: the signal by which it is being terminated; None: it isn't.
        began_at: unix time in seconds; 0.0 before.
        good_at: monotonic time from which its task's rate limit lets it run; 0.0: it is not limited.
        hold_until: monotonic time at which it goes back to the broker if no slot is idle; 0.0 once one is.
        reply: what it came to.
    """

    __slots__ = (
        "alone",
        "assignment",
        "began_at",
        "delivery",
        "good_at",
        "hold_until",
        "keys",
        "pid",
        "policy",
        "reply",
        "short",
        "signum",
        "unanswered",
        "upstream",
    )

    def __init__(
        self,
        delivery: Delivery,
        upstream: Upstream,
        policy: TaskPolicy,
        assignment: Assignment,
        *,
        short: bool,
    ) -> None:
        self.delivery = delivery
        self.upstream = upstream
        self.policy = policy
        self.assignment = assignment
        self.keys: tuple[Key, ...] = (assignment.key,)
        self.unanswered = True
        self.alone = False
        self.short = short
        self.pid = 0
        self.signum: int | None = None
        self.began_at = 0.0
        self.good_at = 0.0
        self.hold_until = 0.0
        self.reply: Reply | None = None

    @property
    def task_id(self) -> str:
        """Celery's task id; a plain job's msgid."""
        return self.delivery.headers.task_id or self.delivery.msgid

    def __repr__(self) -> str:
        where = f"in {self.pid}" if self.pid else "waiting"
        return f"<JobInFlight {self.delivery.headers.task or '-'} {self.keys[-1]} {where}>"


def assignment_of(delivery: Delivery, policy: TaskPolicy) -> Assignment:
    """Return the assignment of a delivery, under its own limits or else its task's."""
    headers: Headers = delivery.headers
    limit = headers.limit_s
    if limit is None:
        limit = headers.timeout
        if limit is None:
            limit = policy.limit_s
    soft = headers.soft_limit_s
    if soft is None:
        soft = policy.soft_limit_s
    return Assignment(delivery=delivery, limit_s=limit, soft_limit_s=soft)
