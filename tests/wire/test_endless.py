"""A message that never ends: its connection is cut off, the others stay, and nothing is looked at in vain."""

from __future__ import annotations

import os
from typing import Any

import pytest

from emq_compat.message import new_id
from emq_compat.protocol.commands import Heartbeat
from emq_compat.wire import RouterWire, endless
from emq_compat.wire.endless import Endless
from tests.faults import zmtp
from tests.faults.zmtp import Raw
from tests.processes import wait_until

MB = 1 << 20
MB_IN_KB = 1 << 10


def port(wire: RouterWire) -> int:
    return int(wire.endpoint.rpartition(":")[2])


def peer(wire: RouterWire) -> Raw:
    """A connection of which one message has been heard."""
    heard = len(wire.by_peer)
    raw = Raw(port(wire)).shake()

    def known() -> bool:
        wire.receive()
        return len(wire.by_peer) > heard

    wait_until(known)
    return raw


@pytest.fixture
def guard(wire: RouterWire, monkeypatch: pytest.MonkeyPatch) -> Endless:
    """One that looks whatever the size of the process, for messages of more than a megabyte."""
    monkeypatch.setattr(endless, "GROWN_KB", -(1 << 40))
    made = Endless([(port(wire), wire, MB)])
    made.look(0)
    return made


def test_who_never_ends_is_cut_off(wire: RouterWire, guard: Endless) -> None:
    """Of two that were heard, and a third one, those are cut off whose message has become too long."""
    honest, bad, unheard = peer(wire), peer(wire), Raw(port(wire))
    unheard.send(zmtp.opening())
    unheard.read()
    assert 0 == guard.look(1)
    more = zmtp.more(b"x" * 100_000)
    heard: list[Any] = []
    for n in range(1, 16):
        bad.send(more)
        unheard.send(more)
        assert honest.send(
            zmtp.said(Heartbeat(msgid=new_id(), timestamp=1.0)) + zmtp.message([b"y" * 100_000])
        )
        wait_until(lambda n=n: [heard.extend(wire.receive()), len(heard) == 2 * n][1])
        guard.look(1 + n)

    def cut() -> bool:
        wire.receive()
        guard.look(20)
        return bad.ended() and unheard.ended()

    wait_until(cut)
    assert not honest.ended()
    for raw in (honest, bad, unheard):
        raw.close()


def test_no_descriptor_is_left(wire: RouterWire, guard: Endless) -> None:
    """Looking opens and closes the same number of descriptors."""
    raw = peer(wire)
    before = os.listdir("/proc/self/fd")
    for now in range(1, 20):
        guard.look(now)
    assert len(before) == len(os.listdir("/proc/self/fd"))
    raw.close()


def test_it_looks_only_while_the_process_has_grown(wire: RouterWire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are looked at while memory is 64 MB above what it was, at most ten minutes long."""
    sizes = iter(
        [
            100 * MB_IN_KB,
            120 * MB_IN_KB,
            90 * MB_IN_KB,
            160 * MB_IN_KB,
            165 * MB_IN_KB,
            100 * MB_IN_KB,
            300 * MB_IN_KB,
            290 * MB_IN_KB,
        ]
    )
    monkeypatch.setattr(endless, "resident_kb", lambda: next(sizes))
    guard = Endless([(port(wire), wire, MB)])
    watched = []
    for now in (0, 1, 2, 3, 4, 5, 700):
        guard.look(now)
        watched.append(guard.watched)
        assert (wire.heard is not None) == guard.watched
    assert [False, False, True, True, False, True, False] == watched
