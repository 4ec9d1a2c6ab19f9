"""Who reads what it is sent: the system tells, and who doesn't read can be cut off."""

from __future__ import annotations

from collections.abc import Callable

from emq_compat.message import new_id
from emq_compat.protocol.commands import Answer
from emq_compat.wire.routers import Router
from tests.faults.zmtp import Raw
from tests.processes import wait_until
from tests.wire.conftest import turn


def test_who_reads_nothing_is_seen_and_cut_off(listens: Callable[[], Router]) -> None:
    """What a peer hasn't read is counted; while it reads something changes; cut off, it is gone."""
    wire = listens()
    raw = Raw(int(wire.endpoint.rpartition(":")[2]), receive_buffer=4096)
    raw.shake(meanwhile=lambda: turn(wire, 0.1))
    received: list[bytes] = []

    def heard() -> bool:
        received.extend(peer for peer, _, _ in turn(wire))
        return bool(received)

    wait_until(heard)
    [peer] = received
    assert 0 == wire.unsent_bytes(peer)
    assert 0 == wire.unsent_bytes(b"nobody")
    for _ in range(20):
        wire.send(peer, Answer(msgid=new_id(), body=b"x" * (1 << 20), asked="a"))
    wait_until(lambda: [turn(wire), wire.unsent_bytes(peer) > 0][1])

    def stands_still() -> bool:
        before = wire.taken_bytes(peer)
        try:
            wait_until(lambda: [turn(wire), wire.taken_bytes(peer) != before][1], 0.3)
        except TimeoutError:
            return True
        return False

    wait_until(stands_still)
    before = wire.taken_bytes(peer)
    wait_until(lambda: raw.read() and [turn(wire), wire.taken_bytes(peer) != before][1], interval_s=0)
    wire.cut(peer)
    gone: list[bytes] = []

    def left() -> bool:
        turn(wire)
        gone.extend(wire.gone())
        return bool(gone)

    wait_until(left)
    assert [peer] == gone
    raw.close()
