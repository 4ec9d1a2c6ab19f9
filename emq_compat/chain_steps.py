"""The later steps of a long chain, as the messages of a chain carry them.

Each step's message holds all that is still to come. So that a chain costs what it is long, and not the square
of that, only the nearest steps stand in it as they are (the member ``chain``); those behind them travel as
*runs*, which are passed on as they are until it is their turn (the member ``rest``, see docs/protocol.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from emq_compat.errors import MessageError

__all__ = ["Steps", "carried", "steps_of"]

#: Steps in a run, and the number from which on a chain has runs.
RUN: Final = 32
LONG: Final = 48
#: A run's JSON is larger only in a message that somebody has made up.
_LIMIT_BYTES: Final = 64 << 20


class Steps:
    """Later steps of which some are in runs. To iterate over them, in the order of ``chain``, reads all runs.

    Args:
        near: signatures as dicts; the last one is the next step.
        rest: runs, the last one of which comes after ``near``.
    """

    __slots__ = ("near", "rest")

    def __init__(self, near: Sequence[Any], rest: Sequence[str]) -> None:
        self.near = near
        self.rest = rest

    def next(self) -> tuple[Any, Steps]:
        """Return the next step, and those behind it.

        Raises:
            MessageError: a run can't be read.
        """
        near, rest = self.near, self.rest
        if not near:
            near, rest = _unpacked(rest[-1]), rest[:-1]
        return near[-1], Steps(near[:-1], rest)

    def __bool__(self) -> bool:
        return bool(self.near or self.rest)

    def __iter__(self) -> Iterator[Any]:
        for run in self.rest:
            yield from _unpacked(run)
        yield from self.near


def carried(steps: Sequence[Any] | Steps, encode: Callable[[Any], str]) -> Mapping[str, Any]:
    """Return the members of a message that carry later steps: ``chain``, and ``rest`` where they are many.

    ``encode`` makes JSON of a value; what it raises, this does.
    """
    if not isinstance(steps, Steps):
        if len(steps) < LONG:
            return {"chain": steps}
        first = len(steps) % RUN or RUN
        # The nearest run stands as it is; the farthest one is the odd one.
        starts = [0, *range(first, len(steps), RUN)]
        runs = [list(steps[start:end]) for start, end in pairwise(starts)]
        steps = Steps(list(steps[starts[-1] :]), [_packed(run, encode) for run in runs])
    return {"chain": steps.near, "rest": steps.rest} if steps.rest else {"chain": steps.near}


def steps_of(celery: Mapping[str, Any]) -> Any:
    """Return the later steps that a job's Celery part tells of, all of them; None where it has none.

    Raises:
        MessageError: a run can't be read.
    """
    chain, rest = celery.get("chain"), celery.get("rest")
    return list(Steps(chain or (), rest)) if rest else chain


def _packed(run: Sequence[Any], encode: Callable[[Any], str]) -> str:
    return base64.b64encode(zlib.compress(encode(run).encode(), 1)).decode()


def _unpacked(run: str) -> list[Any]:
    try:
        inflate = zlib.decompressobj()
        text = inflate.decompress(base64.b64decode(run, validate=True), _LIMIT_BYTES)
        if inflate.unconsumed_tail:
            raise ValueError(f"it has more than {_LIMIT_BYTES} bytes")
        steps = json.loads(text)
    except (TypeError, ValueError, binascii.Error, zlib.error, RecursionError) as exc:
        raise MessageError(f"later steps of a chain can't be read: {exc}") from exc
    if not isinstance(steps, list) or not steps:
        raise MessageError("later steps of a chain can't be read: they are no list of signatures")
    return steps
