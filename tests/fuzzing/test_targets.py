"""What was found by fuzzing, kept: each input of the corpus, and mutations of it, for a second a target."""

from __future__ import annotations

import random
import time

import pytest

from tests.fuzzing.targets import CORPUS, TARGETS

pytestmark = pytest.mark.unit

#: Seconds that mutations take, of each target.
MUTATED_S = 0.3


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with a few of them changed, lost, doubled or taken from elsewhere."""
    raw = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(raw) + 1), rng.choice((1, 1, 2, 8, 40))
        how = rng.randrange(4)
        if how == 0:
            raw[at : at + size] = rng.randbytes(size)
        elif how == 1:
            del raw[at : at + size]
        elif how == 2:
            raw[at:at] = raw[at : at + size]
        else:
            other = rng.randrange(len(raw) + 1)
            raw[at:at] = raw[other : other + size]
    return bytes(raw)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_its_neighbours(name: str) -> None:
    """No input of the corpus, the former crashes among them, and none near one, brings out a mistake."""
    target = TARGETS[name]
    inputs = [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
    assert inputs
    for data in inputs:
        target(data)
    rng = random.Random(len(inputs))
    end = time.monotonic() + MUTATED_S
    while time.monotonic() < end:
        target(mutated(rng.choice(inputs), rng))
