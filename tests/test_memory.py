"""Memory that a burst or a large message took goes back to the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from emq_compat import memory
from emq_compat.broker.store import Store

pytestmark = pytest.mark.unit


class Machine:
    """A process whose size a test sets; ``trim`` brings it down to what is in use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size_mb = self.in_use_mb = 20
        self.trims = self.shrinks = 0
        monkeypatch.setattr(memory, "resident_kb", lambda: self.size_mb << 10)
        monkeypatch.setattr(memory, "trim", self.trim)

    def trim(self) -> None:
        self.trims += 1
        self.size_mb = self.in_use_mb

    def shrink(self) -> None:
        self.shrinks += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_process_that_does_not_grow_is_left_alone(machine: Machine) -> None:
    """Nothing is given back where nothing was taken, and the next look is seconds away."""
    spare = memory.Spare(machine.shrink)
    for now in (10.0, 12.0, 14.0):
        spare.look(now, quiet=True)
    assert (0, 0) == (machine.trims, machine.shrinks)
    assert 15.0 < spare.due


def test_what_a_burst_took_is_given_back_after_it(machine: Machine) -> None:
    """Under work only a large growth is trimmed; in the quiet after it a small one, and caches go."""
    spare = memory.Spare(machine.shrink)
    machine.size_mb = 60
    spare.look(10.0, quiet=False)
    assert (0, 0) == (machine.trims, machine.shrinks)
    machine.size_mb = 200
    spare.look(12.0, quiet=False)
    assert (1, 0) == (machine.trims, machine.shrinks)
    machine.size_mb = 30
    spare.look(14.0, quiet=True)
    assert (2, 1) == (machine.trims, machine.shrinks)


def test_what_creeps_is_given_back_once_a_minute(machine: Machine) -> None:
    """Under steady work, too, the pieces that have become free go back if there was growth; caches stay."""
    spare = memory.Spare(machine.shrink)
    trimmed = []
    for second in range(10, 200, 2):
        machine.size_mb += 1 if second < 150 else 0
        before = machine.trims
        spare.look(float(second), quiet=False)
        if machine.trims > before:
            trimmed.append(second)
    assert ([70, 130, 190], 0) == (trimmed, machine.shrinks)


def test_what_was_still_in_use_is_given_back_by_the_next_look(machine: Machine) -> None:
    """What is freed after a look doesn't change the process's size: so there is a second look."""
    spare = memory.Spare()
    machine.size_mb = machine.in_use_mb = 80
    spare.look(10.0, quiet=True)
    machine.in_use_mb = 20
    spare.look(12.0, quiet=True)
    assert 20 == machine.size_mb
    spare.look(14.0, quiet=True)
    spare.look(16.0, quiet=True)
    assert 3 == machine.trims


def test_a_journal_that_shrinks_keeps_what_it_holds(tmp_path: Path) -> None:
    """Giving up what is only kept to be quick changes nothing that is stored, or is about to be."""
    store = Store(tmp_path / "data", durability="normal")
    store.add_message(1, "stored", "", b"x", None)
    store.put_result("task", "SUCCESS", b"{}", None)
    store.commit()
    store.add_message(2, "about to be", "", b"y", None)
    store.shrink()
    store.commit()
    assert [b"x", b"y"] == [row.payload for row in store.read_messages(0, 9, 9)]
    assert {"task"} == set(store.results(["task"]))
    store.close()


def test_freed_memory_is_held_from_the_first_large_message_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library is told once what it shall keep."""
    told: list[tuple[int, int]] = []

    class Libc:
        def mallopt(self, name: int, value: int) -> None:
            told.append((name, value))

    monkeypatch.setattr(memory, "_holds", False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Libc())
    for _ in range(2):
        memory.hold_freed()
    assert [(-3, 32 << 20), (-1, 64 << 20)] == told


def test_the_next_read_is_as_large_as_what_comes() -> None:
    """A stream that brings much is read in large pieces, up to the most; another in small ones."""
    least, most = memory.LEAST_READ_BYTES, 1 << 16
    sizes = [least]
    while sizes[-1] < most:
        sizes.append(memory.next_read(sizes[-1], sizes[-1], most=most))
    assert [1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 16] == sizes
    assert most == memory.next_read(most, most, most=most)
    assert most == memory.next_read(most, most // 3, most=most)
    size, reads = most, 0
    while (smaller := memory.next_read(size, 100, most=most)) < size:
        size, reads = smaller, reads + 1
    assert (least, 4) == (size, reads)
