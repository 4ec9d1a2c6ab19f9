"""What a job that began and gave no reply comes to: Celery's rules for lost children, limits, shutdowns."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from typing import Final

from emq_compat.message import (
    FAILURE,
    REQUEUED,
    RETRY,
    RETURNED,
    REVOKED,
    Delivery,
    Failure,
    Outcome,
    Publish,
    Reply,
)
from emq_compat.pool.base import Lost
from emq_compat.run import TaskPolicy
from emq_compat.words import amount

__all__ = ["Losses", "lost_too_often", "reply_to_lost", "revoked"]

#: Where the classes named here can be imported from by whoever reads the result.
_MODULE = "emq_compat.shim.exceptions"
#: Messages whose losses are kept in mind.
_REMEMBERED: Final = 10_000


class Losses:
    """How often each message went back after its run was lost here, where its broker doesn't count that."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def note(self, msgid: str) -> int:
        """Note one more; return how many it is now."""
        count = self._counts.pop(msgid, 0) + 1
        self._counts[msgid] = count
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        return count


def reply_to_lost(
    lost: Lost,
    delivery: Delivery,
    policy: TaskPolicy,
    limit_s: float | None,
    *,
    expired_by_eventmq: bool = False,
) -> Reply:
    """Return the reply to a delivery whose run was lost.

    A late-acked job goes back to its queue when the whole worker is stopped, and when its child died if it
    also has ``reject_on_worker_lost`` (Celery's task attributes). With ``retry_on_worker_lost`` one whose
    child died is tried again, as if it had asked for that, while it has retries left. Everything else ends,
    with an error that says why, and is unattended: what follows from it (errbacks, the rest of a chain) is
    still to be done.

    Args:
        limit_s: the hard limit that was kept, in seconds.
        expired_by_eventmq: the limit was eventmq's ``timeout``: the value is then eventmq's ``TimeoutError``.
    """
    named = delivery.headers.task or delivery.msgid
    if lost.reason == "died":
        failure = _failure(
            "WorkerLostError", f"the process that ran {named} is gone: {lost.detail or 'reason unknown'}"
        )
        if policy.lost_retry_s is not None:
            if policy.max_retries is None or delivery.headers.retries < policy.max_retries:
                return _tried_again(delivery, failure, policy.lost_retry_s)
        elif policy.acks_late and policy.reject_on_worker_lost:
            return Outcome(state=REQUEUED).encode()
        return _unattended(FAILURE, failure)
    if lost.reason == "stopped":
        if policy.acks_late:
            return Outcome(state=RETURNED).encode()
        failure = _failure("WorkerLostError", f"the worker was shut down while it ran {named}")
        return _unattended(FAILURE, failure)
    if lost.reason == "time-limit":
        if policy.acks_late and not policy.acks_on_timeout:
            return Outcome(state=REQUEUED).encode()
        if expired_by_eventmq:
            failure = Failure(
                type="TimeoutError", module="builtins", args=("TimeoutError",), message="TimeoutError"
            )
            return _unattended(FAILURE, failure)
        limit = "" if limit_s is None else f"{limit_s:g}"
        failure = Failure(
            type="TimeLimitExceeded",
            module=_MODULE,
            args=() if limit_s is None else (limit_s,),
            message=f"TimeLimitExceeded({limit})",
        )
        return _unattended(FAILURE, failure)
    return revoked("terminated")


def lost_too_often(lost: Lost, delivery: Delivery, losses: int, limit: int) -> Reply:
    """Return the reply to a late-acked job that doesn't go back again: our broker's max_redeliveries."""
    failure = _failure(
        "WorkerLostError",
        f"{delivery.headers.task or delivery.msgid}: {lost.detail or lost.reason}; it was lost {losses} "
        f"times, and the limit is {amount(limit, 'redelivery', 'redeliveries')}",
    )
    outcome = Outcome(state=FAILURE, failure=failure, extra={"exhausted": "redeliveries"})
    return replace(outcome.encode(), unattended=True)


def revoked(why: str) -> Reply:
    """Return the reply to a job that was revoked before it began, or terminated."""
    failure = Failure(type="TaskRevokedError", module=_MODULE, args=(why,), message=why)
    return _unattended(REVOKED, failure)


def _tried_again(delivery: Delivery, failure: Failure, after_s: float) -> Reply:
    """Return the reply of a run that is tried again: the same message, as Task.retry would publish it."""
    headers = delivery.headers
    again = replace(
        headers,
        attempt=0,
        redelivered=False,
        awaits="",
        chord=headers.chord.rstrip("+"),
        retries=headers.retries + 1,
        eta=time.time() + after_s,
    )
    message = Publish(queue=delivery.queue, headers=again, payload=delivery.payload)
    return Outcome(state=RETRY, failure=failure, follow_ups=(message,)).encode()


def _failure(kind: str, message: str) -> Failure:
    return Failure(type=kind, module=_MODULE, args=(message,), message=message)


def _unattended(state: str, failure: Failure) -> Reply:
    return replace(Outcome(state=state, failure=failure).encode(), unattended=True)
