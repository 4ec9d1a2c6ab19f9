"""Whose large message is read on: above the bound one after the other, and nobody for ever."""

from __future__ import annotations

import pytest

from emq_compat.wire.large import STANDS_STILL_S, Large

pytestmark = pytest.mark.unit

MB = 1 << 20


def test_below_the_bound_all_go_on() -> None:
    """Nobody is held as long as there is room for all."""
    large: Large[str] = Large(10 * MB)
    assert all(large.grown(peer, 3 * MB, 0.0) for peer in "abc")
    assert 9 * MB == large.total_bytes
    assert [] == large.ended("b", 1.0)
    assert (6 * MB, False) == (large.total_bytes, "b" in large)
    assert large.stands_still(1000.0) is None


def test_above_it_only_the_first_does() -> None:
    """The others are held until it has ended; then all go on if there is room, and else the next one."""
    large: Large[str] = Large(10 * MB)
    for peer in "abc":
        large.grown(peer, 3 * MB, 0.0)
    assert not large.grown("c", 5 * MB, 0.0)
    assert not large.grown("b", 4 * MB, 0.0)
    assert large.grown("a", 9 * MB, 0.0)
    assert not large.grown("d", 6 * MB, 0.0)
    assert ["b"] == large.ended("a", 0.0)
    assert large.grown("b", 5 * MB, 0.0)
    assert ["c"] == large.ended("b", 0.0)
    assert ["d"] == large.ended("c", 0.0)
    assert [] == large.ended("d", 0.0)
    assert (0, {}) == (large.total_bytes, large.held)


def test_one_that_is_held_may_leave() -> None:
    """What has come of it counts no more, and who finds room then goes on."""
    large: Large[str] = Large(10 * MB)
    assert large.grown("a", 8 * MB, 0.0)
    assert not large.grown("b", 3 * MB, 0.0)
    assert not large.grown("c", 2 * MB, 0.0)
    assert ["c"] == large.ended("b", 0.0)
    assert [] == large.ended("b", 0.0)
    assert (10 * MB, {}) == (large.total_bytes, large.held)


def test_the_first_is_given_up_once_nothing_comes_of_it() -> None:
    """Only while others wait, and so long after something came of it or it became the first."""
    large: Large[str] = Large(4 * MB)
    large.grown("a", 3 * MB, 0.0)
    assert large.stands_still(STANDS_STILL_S) is None
    assert not large.grown("b", 2 * MB, 1.0)
    assert not large.grown("c", 3 * MB, 1.0)
    large.grown("a", 4 * MB, 2.0)
    assert large.stands_still(STANDS_STILL_S + 1.0) is None
    assert "a" == large.stands_still(STANDS_STILL_S + 2.0)
    assert ["b"] == large.ended("a", 100.0)
    assert large.stands_still(100.0 + STANDS_STILL_S - 1.0) is None
    assert "b" == large.stands_still(100.0 + STANDS_STILL_S)
