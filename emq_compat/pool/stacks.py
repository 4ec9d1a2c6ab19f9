"""Where each slot stands, for people: stack dumps of children and of threads."""

from __future__ import annotations

import os
import select
import sys
import time
import traceback
from collections.abc import Mapping, Sequence

from emq_compat.pool.kid import Kid

__all__ = ["collect", "of_threads"]

_BOUND_S, _QUIET_S = 0.9, 0.05
_READ_BYTES = 1 << 16


def collect(kids: Sequence[Kid]) -> str:
    """Have each child dump its stacks and return them; a child that doesn't within a second is named."""
    poller = select.poll()
    found: dict[int, bytes] = {}
    by_fd = {kid.dump: kid for kid in kids}
    for kid in kids:
        os.set_blocking(kid.dump, False)
        poller.register(kid.dump, select.POLLIN)
        kid.ask_for_stacks()
    deadline = time.monotonic() + _BOUND_S
    while by_fd and (left := deadline - time.monotonic()) > 0:
        ready = poller.poll(1000 * (min(left, _QUIET_S) if len(found) == len(by_fd) else left))
        if not ready:
            break  # all have written, and none writes any more
        for fd, _ in ready:
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                continue
            if not data:
                poller.unregister(fd)
            found[fd] = found.get(fd, b"") + data
    parts = []
    for fd, kid in by_fd.items():
        stack = found.get(fd, b"  (no answer)").decode(errors="replace")
        parts.append(f"child {kid.number}, pid {kid.pid}, {_doing(kid)}:\n{stack}")
    return "\n".join(parts)


def _doing(kid: Kid) -> str:
    first = kid.first()
    if first is None:
        return "idle"
    since = f" for {time.monotonic() - first.began:.1f} s" if first.began is not None else ""
    return f"running {first.assignment.delivery.headers.task or first.key[0]}{since}"


def of_threads(names: Mapping[int, str]) -> str:
    """Return the stacks of threads of this process; ``names``: ident → what to call it."""
    frames = sys._current_frames()
    parts = []
    for ident, name in names.items():
        frame = frames.get(ident)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (gone)\n"
        parts.append(f"{name}:\n{stack}")
    return "\n".join(parts)
