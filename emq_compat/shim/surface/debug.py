"""``celery.utils.debug``: how much memory this process uses, and what its threads do."""

from __future__ import annotations

import sys
import threading
import traceback
from io import StringIO
from typing import Any, TextIO

import psutil

__all__ = ["cry", "hfloat", "humanbytes", "mem_rss", "memdump", "ps", "sample", "sample_mem"]

_samples: list[str] = []
_SIZES = ((2**40, "TB"), (2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


def ps() -> psutil.Process:
    """Return this process, as psutil has it."""
    return psutil.Process()


def mem_rss() -> str:
    """Return the memory in use, for readers."""
    return humanbytes(ps().memory_info().rss)


def sample_mem() -> str:
    """Note the memory in use, for ``memdump``, and return it."""
    used = mem_rss()
    _samples.append(used)
    return used


def memdump(samples: int = 10, file: TextIO | None = None) -> None:
    """Print up to so many of the noted samples, and the memory in use now; forgets the samples."""
    noted = list(sample(_samples, samples))
    _samples.clear()
    if noted:
        print("- rss (sample):", file=file)
        for used in noted:
            print(f"-    > {used},", file=file)
    print(f"- rss (end): {mem_rss()}.", file=file)


def sample(x: list[Any], n: int, k: int = 0) -> Any:
    """Yield ``n`` items of a list, evenly spread over it."""
    if not x:
        return
    step = max(len(x) // n, 1)
    yield from x[k::step][:n]


def hfloat(f: float, p: int = 5) -> str:
    """Return a number with ``p`` significant digits at most."""
    return f"{f:.{p}g}"


def humanbytes(s: int) -> str:
    """Return a size in the largest unit that it fills."""
    return next((f"{hfloat(s / size)}{unit}" for size, unit in _SIZES if s >= size), f"{s}B")


def cry(out: TextIO | None = None, sepchr: str = "=", seplen: int = 49) -> str:
    """Return the stacks of all threads, as text."""
    out = StringIO() if out is None else out
    frames, separator = sys._current_frames(), sepchr * seplen
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None:
            continue
        out.write(f"{thread.name}\n{separator}\n")
        traceback.print_stack(frame, file=out)
        out.write(f"{separator}\n\n")
    return out.getvalue() if isinstance(out, StringIO) else ""
