"""``task_routes``: which queue a task goes to (Celery's rules).

The setting is one router or a list of them; the first that says something counts. A router is

- a mapping, or a list of pairs, of task names, globs with ``*`` or compiled patterns to a queue's name or a
  dict of options: the exact name counts first, then the patterns in their order;
- a function ``(name, args, kwargs, options, task=None, **kw)`` that returns one of these or None;
- a dotted path to one of these, or to a class with ``route_for_task``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from emq_compat.shim import later
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.symbols import symbol_by_name

__all__ = ["MapRoute", "Route", "Routes"]

#: What a router says of a task: options of apply_async.
Route: TypeAlias = Mapping[str, Any]

#: Characters with a meaning beside the ``*``: whether such a pattern covers another is not looked into.
_NO_GLOB = frozenset("?[]()\\+^$|")


class MapRoute:
    """A router made of a mapping, or of pairs."""

    def __init__(self, map: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:  # noqa: A002
        self.map: dict[str, Any] = {}
        #: As written, compiled, and what it leads to; in the order of the setting.
        self.patterns: list[tuple[str, re.Pattern[str], Any]] = []
        for key, route in map.items() if isinstance(map, Mapping) else map:
            if isinstance(key, re.Pattern):
                self.patterns.append((key.pattern, key, route))
            elif not isinstance(key, str):
                raise ImproperlyConfigured(f"task_routes: {key!r} is no task's name and no pattern")
            elif "*" in key:
                self.patterns.append((key, re.compile(fnmatch.translate(key)), route))
            else:
                self.map[key] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> Route | None:
        """Return the route of the task ``name``; None: it has none here."""
        if name in self.map:
            return _as_route(self.map[name])
        for _, pattern, route in self.patterns:
            if pattern.match(name):
                return _as_route(route)
        return None

    def never_used(self, covered: Sequence[tuple[str, Callable[[str], object]]]) -> list[tuple[str, str]]:
        """Return pairs (what never counts, what stands before it); ``covered`` stands before all of it."""
        before = list(covered)
        hidden = []
        for name in self.map:
            hidden += [(name, other) for other, matches in before if matches(name)][:1]
        for written, pattern, _ in self.patterns:
            hidden += [(written, other) for other, _ in before if _covers(other, written)][:1]
            before.append((written, pattern.match))
        return hidden


    def odd_options(self) -> list[str]:
        """Return a line for each option that apply_async doesn't have, with the nearest that it has."""
        entries = [*self.map.items(), *((written, route) for written, _, route in self.patterns)]
        return [
            f"task_routes: {written!r}: {told}"
            for written, route in entries
            if isinstance(route, Mapping)
            for told in later.unknown_options(route)
        ]


def _covers(wide: str, narrow: str) -> bool:
    """Return whether the glob ``wide`` surely matches what ``narrow`` does: ``a.*`` covers ``a.b.*``."""
    if wide == narrow:
        return True
    if _NO_GLOB & {*wide, *narrow} or "*" not in wide or "*" not in narrow:
        return False
    # Every * of the narrow one stands for any text: where the wide one matches it as a name, it covers it.
    return re.match(fnmatch.translate(wide), narrow.replace("*", "\0")) is not None


class Routes:
    """The routers of the setting task_routes.

    Attributes:
        static: what a task's route is doesn't depend on the call: each router is a mapping.

    Raises:
        ImproperlyConfigured: one of them is no router.
        ImportError, AttributeError: a dotted path leads nowhere.
    """

    def __init__(self, setting: Any) -> None:
        written = () if setting is None else setting
        if not isinstance(written, (list, tuple)) or (written and all(map(_is_pair, written))):
            written = (written,)
        self.routers: list[Callable[..., Any]] = [_router(one) for one in written]
        self.static = all(isinstance(router, MapRoute) for router in self.routers)

    def lookup(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task: Any = None,
    ) -> Route | None:
        """Return the route of a call; None: no router says anything."""
        for router in self.routers:
            route = router(name, args or (), kwargs or {}, dict(options or {}), task=task)
            if route is not None:
                return _as_route(route)
        return None

    def problems(self) -> list[str]:
        """Return a line for each entry that can never count, because a wider one stands before it.

        And for each option in one that apply_async doesn't have.
        """
        covered: list[tuple[str, Callable[[str], object]]] = []
        lines = []
        for router in self.routers:
            if not isinstance(router, MapRoute):
                continue
            for hidden, wide in router.never_used(covered):
                lines.append(f"task_routes: {hidden!r} never counts, {wide!r} stands before it")
            lines += router.odd_options()
            covered += [(name, name.__eq__) for name in router.map]
            covered += [(written, pattern.match) for written, pattern, _ in router.patterns]
        return lines


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], (str, re.Pattern))


def _router(written: Any) -> Callable[..., Any]:
    if isinstance(written, str):
        written = symbol_by_name(written)
    if isinstance(written, (Mapping, list, tuple)):
        return MapRoute(written)
    if isinstance(written, type) and hasattr(written, "route_for_task"):
        written = written()
    if hasattr(written, "route_for_task"):
        for_task = written.route_for_task
        return lambda name, args, kwargs, options, task=None: for_task(name, args, kwargs)
    if not callable(written):
        raise ImproperlyConfigured(f"task_routes: {written!r} is no mapping and no function")
    return written  # type: ignore[no-any-return]


def _as_route(route: Any) -> Route:
    """Return a route as options: a text is a queue's name, and so is a kombu Queue.

    Raises:
        ImproperlyConfigured: it is none of these.
    """
    if isinstance(route, Mapping):
        return dict(route)
    if isinstance(route, str) or hasattr(route, "routing_key"):
        return {"queue": route}
    try:
        return dict(route)
    except (TypeError, ValueError):
        raise ImproperlyConfigured(f"task_routes: {route!r} is no route") from None
