"""A program that runs a prefork pool, for tests of what becomes of its processes.

usage: python -m tests.pool.parent OPTIONS PAYLOAD…

OPTIONS are those of PoolOptions, as JSON; ``before`` names what there is before the pool starts: ``thread``,
``zmq``, ``heap`` (30 MB of lists, which are gone through once children are there). Each payload is submitted
once all children are idle; every event is printed as one line: its type, msgid (``m0``, ``m1`` …), and its
state, body or detail. SIGTERM ends it in order.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from emq_compat.pool.base import Begun, Finished, Lost, PoolEvent, PoolOptions, Updated
from emq_compat.pool.prefork import PreforkPool
from tests.pool.drive import assignment
from tests.pool.work import LOCK, work


def told(event: PoolEvent) -> str:
    """One line."""
    if isinstance(event, Updated):
        return f"Updated {event.key[0]} {event.state} {event.body.decode()}"
    if isinstance(event, Finished):
        return f"Finished {event.key[0]} {event.reply.body.decode()}"
    if isinstance(event, Lost):
        return f"Lost {event.key[0]} {event.reason} {event.detail}"
    if isinstance(event, Begun):
        return f"Begun {event.key[0]} {event.pid}"
    return f"PoolBroken {event.detail}"


def toggle() -> None:
    """Take and free the lock, about a thousand times a second."""
    while True:
        with LOCK:
            time.sleep(0.0005)


def main(given: dict[str, Any], payloads: list[str]) -> None:
    """Run the pool until SIGTERM."""
    before = given.pop("before", [])
    if "thread" in before:
        threading.Thread(target=toggle, daemon=True).start()
    if "zmq" in before:
        import zmq

        context = zmq.Context()
        context.socket(zmq.DEALER).close()
    heap: list[list[None]] = [[] for _ in range(400_000)] if "heap" in before else []
    if given.get("rebuild"):
        path, args = given["rebuild"]
        given["rebuild"] = path, tuple(args)
    ended = []

    def on_term(signum: int, frame: FrameType | None) -> None:
        ended.append(signum)

    pool = PreforkPool(PoolOptions(**given), work)
    pool.start()
    wakeup, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write)
    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    waiting = [assignment(payload, f"m{i}") for i, payload in enumerate(payloads)]
    warm = False
    while not ended:
        if not warm and pool.idle() == pool.concurrency:
            warm = True
            if heap:
                print("collected", gc.collect(), len(heap))
        while warm and waiting and pool.submit(waiting[0]):
            waiting.pop(0)
        deadline = pool.next_deadline()
        timeout_s = 60.0 if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([*pool.fds(), wakeup], [], [], min(timeout_s, 60.0))
        for event in pool.step(readable, time.monotonic()):
            print(told(event))
    print("ends", os.getpid())
    for event in pool.stop(5):
        print(told(event))
    if "zmq" in before:
        context.destroy(linger=0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
