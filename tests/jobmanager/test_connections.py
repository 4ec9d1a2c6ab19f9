"""Several upstreams: what is announced goes to all that are connected."""

from __future__ import annotations

import pytest

from emq_compat.manager.connections import Connections
from tests.jobmanager.fake_upstream import FakeUpstream

pytestmark = pytest.mark.unit


class Announcing(FakeUpstream):
    """Takes announcements, or refuses them."""

    def __init__(self, *, takes: bool = True) -> None:
        super().__init__()
        self.takes = takes
        self.told: list[str] = []

    @property
    def announces(self) -> bool:
        return True

    def announce(self, topic: str, payload: bytes) -> bool:
        if self.takes:
            self.told.append(topic)
        return self.takes


def test_all_that_can_are_told() -> None:
    """Each connected upstream that announces is told; one that can't changes nothing."""
    first, second, silent = Announcing(), Announcing(), FakeUpstream()
    connections = Connections()
    connections.connected(silent)
    assert connections.announce is None
    connections.connected(first)
    connections.connected(second)
    announce = connections.announce
    assert announce is not None
    assert announce("a", b"")
    assert not connections.disconnected(first, cut=True)
    second.takes = False
    assert not announce("b", b"")
    assert (["a"], ["a"]) == (first.told, second.told)
    assert not connections.disconnected(second, cut=True)
    assert connections.disconnected(silent, cut=True)
    for upstream in (first, second, silent):
        upstream.close()


def test_which_connection_is_new() -> None:
    """A connection that stood meanwhile is no new one, once; each upstream for itself."""
    first, second = FakeUpstream(), FakeUpstream()
    connections = Connections()
    assert connections.connected(first)
    assert connections.connected(second)
    connections.disconnected(first, cut=False)
    connections.disconnected(second, cut=True)
    assert not connections.connected(first)
    assert connections.connected(second)
    connections.disconnected(first, cut=True)
    assert connections.connected(first)
    for upstream in (first, second):
        upstream.close()


def test_reconnects_are_counted_for_each() -> None:
    """The first connection of each is none, also of one that comes late; one that stood meanwhile is none."""
    early, late = FakeUpstream(), FakeUpstream()
    connections = Connections()
    counts = []
    for cut in (True, False, True):
        connections.connected(early)
        counts.append(connections.reconnects)
        connections.disconnected(early, cut=cut)
    connections.connected(late)
    assert [0, 1, 1] == counts
    assert 1 == connections.reconnects
    for upstream in (early, late):
        upstream.close()
