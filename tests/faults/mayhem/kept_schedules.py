"""eventmq's SCHEDULE and UNSCHEDULE, as a client of its protocol says them: the broker keeps the schedule.

Neither is answered. What is asked after it on the same connection is answered once the broker has stored what
came before: that is how a client knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq

from emq_compat.address import Address
from emq_compat.errors import OperationalError
from emq_compat.message import Job, new_id
from emq_compat.protocol.commands import Answer, Ask, Command, Schedule, Unschedule
from emq_compat.wire import Wire

__all__ = ["INTERVAL_S", "said", "scheduled", "unscheduled"]

#: The shortest that there is.
INTERVAL_S = 1
_TASK = "tests.faults.mayhem.load"


def _payload(name: str, key: str) -> bytes:
    return Job(path=_TASK, callable=name, args=[key]).encode()


def scheduled(key: str, *, queue: str, runs: int, haste: bool, late: bool) -> Schedule:
    """A schedule of so many runs; ``haste``: the first one at once.

    ``late``: its task is acknowledged late, and named as the shim does it; otherwise by its path alone, as
    eventmq's clients do.
    """
    name = "counted_late" if late else "counted_early"
    headers = [
        f"run_count:{runs}",
        *([] if haste else ["nohaste"]),
        *([f"task:{_TASK}.{name}"] if late else []),
    ]
    return Schedule(
        msgid=new_id(),
        queue=queue,
        headers=",".join(headers),
        interval_s=INTERVAL_S,
        payload=_payload(name, key),
    )


def unscheduled(schedule: Schedule) -> Unschedule:
    """The end of a schedule."""
    return Unschedule(
        msgid=new_id(),
        queue=schedule.queue,
        headers="",
        interval_s=schedule.interval_s,
        payload=schedule.payload,
    )


def said(url: str, commands: Sequence[Command], timeout_s: float = 4.0) -> None:
    """Say these, and wait until the broker has stored them.

    Raises:
        OperationalError: it did not answer in time; they may be stored or not.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    [address] = Address.parse(url)
    # Once: a second connection, to a broker that was started again, would not have heard the first words.
    wire = Wire(context, address.client_endpoint, identity=new_id().encode(), once=True)
    asked = Ask(msgid=new_id(), verb="stats", arguments={})
    try:
        for command in (*commands, asked):
            wire.send(command)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            wire.socket.poll(50)
            for heard in wire.receive():
                if isinstance(heard, Answer) and heard.asked == asked.msgid:
                    return
            if wire.failure or wire.cuts:
                break
        raise OperationalError(f"the broker has not stored it: {wire.failure or 'no answer'}")
    finally:
        wire.close()
