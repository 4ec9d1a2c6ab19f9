"""A task's result with all that stem from it: what it published while it ran, and what these did."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emq_compat.shim import later
from emq_compat.shim.exceptions import IncompleteStream

if TYPE_CHECKING:
    from emq_compat.shim.graph import DependencyGraph, GraphFormatter

__all__ = ["Descent"]


class Descent:
    """Mixed into AsyncResult."""

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (parent, result) of this result and all that stem from it, breadth first.

        Raises:
            IncompleteStream: one isn't ready, and ``intermediate`` doesn't allow that.
        """
        waiting: list[tuple[Any, Any]] = [(None, self)]
        while waiting:
            parent, node = waiting.pop(0)
            yield parent, node
            if node.ready():
                waiting += [(node, child) for child in node.children or ()]
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Wait for this result and all that stem from it; yields (result, value) of each.

        ``kwargs`` are those of ``get``.
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """Wait for the whole tree and return the last result's value."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(
        self, intermediate: bool = False, formatter: GraphFormatter | None = None
    ) -> DependencyGraph:
        """Return the tree as a graph; raises as ``iterdeps``."""
        graph = later.DependencyGraph(formatter=formatter or later.GraphFormatter(root=self, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent is not None:
                graph.add_edge(parent, node)
        return graph

    @cached_property
    def graph(self) -> DependencyGraph:
        """The tree as a graph."""
        return self.build_graph()
