"""DependencyGraph: what leads to what; in order, and as a dot file for Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TextIO

__all__ = ["CycleError", "DependencyGraph", "GraphFormatter"]


class CycleError(Exception):
    """Things depend on each other in a circle."""


class GraphFormatter:
    """Writes a graph's nodes and edges in the language of Graphviz.

    Args:
        root: the node with a thick line. type, id: those of the graph. scheme: attributes of every node.
    """

    def __init__(
        self,
        root: Any = None,
        type: str | None = None,  # noqa: A002 - Celery's name
        id: str | None = None,  # noqa: A002
        **scheme: Any,
    ) -> None:
        self.root = root
        self.type = type or "digraph"
        self.id = id or "dependencies"
        self.scheme = scheme

    def head(self) -> str:
        """Return the first line."""
        return f"{self.type} {self.id} {{"

    def tail(self) -> str:
        """Return the last line."""
        return "}"

    def label(self, obj: Any) -> str:
        """Return how a node is called."""
        return str(obj)

    def node(self, obj: Any) -> str:
        """Return the line of a node."""
        scheme = {**self.scheme, "penwidth": 2.0} if obj == self.root else self.scheme
        shown = ", ".join(f'{name}="{value}"' for name, value in scheme.items())
        return f'    "{self.label(obj)}" [{shown}]'

    def edge(self, a: Any, b: Any) -> str:
        """Return the line of an edge."""
        return f'    "{self.label(a)}" {"->" if self.type == "digraph" else "--"} "{self.label(b)}"'


class DependencyGraph:
    """A directed graph: each object and those that it leads to."""

    def __init__(
        self,
        it: Iterable[tuple[Any, Iterable[Any]]] | None = None,
        formatter: GraphFormatter | None = None,
    ) -> None:
        """``it``: pairs of an object and what it leads to."""
        self.formatter = formatter or GraphFormatter()
        self.adjacent: dict[Any, list[Any]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: Any) -> None:
        """Add an object."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, a: Any, b: Any) -> None:
        """Say that ``a``, which is in the graph, leads to ``b``."""
        self.adjacent[a].append(b)

    def connect(self, graph: DependencyGraph) -> None:
        """Add all of another graph."""
        self.adjacent.update(graph.adjacent)

    def update(self, it: Iterable[tuple[Any, Iterable[Any]]]) -> None:
        """Add pairs of an object and what it leads to."""
        for obj, leads_to in it:
            self.adjacent.setdefault(obj, []).extend(leads_to)

    def topsort(self) -> list[Any]:
        """Return all objects, each behind whatever it leads to.

        Raises:
            CycleError: there is a circle.
        """
        done: dict[Any, bool] = {}
        for start in list(self.adjacent):
            path = [(start, iter(self.adjacent[start]))] if start not in done else []
            while path:
                obj, rest = path[-1]
                done.setdefault(obj, False)
                for other in rest:
                    if other not in done:
                        path.append((other, iter(self.adjacent.get(other, ()))))
                        break
                    if not done[other]:
                        raise CycleError(f"{other} leads to itself")
                else:
                    # Taken out and put in again: the dict's order is that of being done.
                    del done[obj]
                    done[obj] = True
                    path.pop()
        return list(done)

    def edges(self) -> list[Any]:
        """Return the objects that lead to others."""
        return [obj for obj, leads_to in self.adjacent.items() if leads_to]

    def to_dot(self, fh: TextIO, formatter: GraphFormatter | None = None) -> None:
        """Write the graph as a dot file."""
        draw = formatter or self.formatter
        lines = [draw.head(), *map(draw.node, self.adjacent)]
        lines += [draw.edge(obj, other) for obj, leads_to in self.adjacent.items() for other in leads_to]
        fh.write("\n".join([*lines, draw.tail()]) + "\n")

    def items(self) -> Iterable[tuple[Any, list[Any]]]:
        """Return pairs of an object and what it leads to."""
        return self.adjacent.items()

    iteritems = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: Any) -> bool:
        return obj in self.adjacent
