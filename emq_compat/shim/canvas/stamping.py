"""Stamps: headers that are put on every part of a canvas, by keyword or by a visitor.

A stamp is an option of the signature; the option ``stamped_headers`` lists which options are stamps. In a
message they are ``stamps`` and ``stamped_headers``, and so in ``task.request``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from emq_compat.stamps import several

__all__ = ["StampingVisitor", "merge_stamps"]


class StampingVisitor(ABC):
    """Decides what each part of a canvas is stamped with; every method returns stamps by name.

    A returned ``stamped_headers`` says which of the returned names are stamps; without it all are.
    ``headers`` are the stamps made so far by what stands around the part.
    """

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Called for each task."""

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        """Called before a group's members."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:  # noqa: B027 - may be overridden
        """Called after them."""

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        """Called before a chain's steps."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:  # noqa: B027 - may be overridden
        """Called after them."""

    def on_chord_header_start(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Called before a chord's header, which is a group from here on."""
        sig.header_group()
        return self.on_group_start(sig.tasks, **header)

    def on_chord_header_end(self, sig: Any, **header: Any) -> None:
        """Called after it."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Called before a chord's body."""
        return {}

    def on_callback(self, callback: Any, **header: Any) -> dict[str, Any]:
        """Called for each success callback."""
        return {}

    def on_errback(self, errback: Any, **header: Any) -> dict[str, Any]:
        """Called for each error callback."""
        return {}


def merge_stamps(
    given: Mapping[str, Any],
    by_visitor: Mapping[str, Any] | None,
    own_options: Mapping[str, Any] | None,
    *,
    append: bool,
) -> dict[str, Any]:
    """Return the stamps of one part, with their names under ``stamped_headers``.

    Args:
        given: stamps from outside; without ``stamped_headers`` all of them are stamps.
        by_visitor: what a visitor adds; it wins over ``given``.
        own_options: the part's options, whose stamps are kept where neither has them.
        append: where two have the same stamp, keep the values of both, as a list.
    """
    merged = dict(given)
    names = list(merged.get("stamped_headers", merged))
    layers: list[Mapping[str, Any]] = []
    if by_visitor is not None:
        names += by_visitor.get("stamped_headers", by_visitor)
        layers.append(by_visitor)
    if own_options is not None:
        names += own_options.get("stamped_headers") or ()
        own = set(names)
        layers.append({name: value for name, value in own_options.items() if name in own})
    for number, layer in enumerate(layers):
        wins = by_visitor is not None and number == 0
        for name, value in layer.items():
            if name == "stamped_headers":
                continue
            if name not in merged:
                merged[name] = value
            elif append:
                merged[name] = [*several(merged[name]), *several(value)]
            elif wins:
                merged[name] = value
    merged["stamped_headers"] = sorted(set(names) - {"stamped_headers"})
    return merged
