"""``emq-compat graph``: the workers, or the steps of one, in Graphviz's language."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from emq_compat.cli.connection import Connection, load_app, talks_to_broker
from emq_compat.cli.remote import namesakes_told, nobody_replied, unreachable
from emq_compat.cli.report import hidden
from emq_compat.shim.graph import DependencyGraph, GraphFormatter

__all__ = ["graph"]

#: What a worker does, in the order in which it starts; each needs those before it.
_PARTS = ("app", "log", "pid file", "pool", "broker connection", "job manager")
_WORDS = ("nodes", "threads", "backend", "broker", "wmax", "tmax")
_FLAGS = ("generic", "enumerate")
_SHAPES = {"broker": "circle", "backend": "folder", "slot": "oval", "worker": "box"}


@click.group()
def graph() -> None:
    """Draw graphs: `emq-compat graph workers | dot -Tsvg -o workers.svg`."""


@graph.command()
@click.option("-A", "--app", "app_name", metavar="APP", help="The app: proj, proj.celery, proj:app.")
@click.argument("parts", nargs=-1, metavar="[worker] [consumer]")
@click.pass_context
def bootsteps(context: click.Context, app_name: str | None, parts: tuple[str, ...]) -> None:
    """Draw what a worker starts, in its order, with the steps that the app adds (app.steps).

    Celery's own boot steps are not here; steps of a consumer don't run.
    """
    unknown = sorted({part.lower() for part in parts} - {"worker", "consumer"})
    if unknown:
        raise click.UsageError(f"there is no graph of {unknown[0]!r}; known: worker, consumer")
    name = app_name or context.find_root().params.get("app")
    drawn = DependencyGraph([(_PARTS[0], [])])
    for before, part in itertools.pairwise(_PARTS):
        drawn.update([(part, [before])])
    for step in sorted(load_app(name).steps["worker"], key=_path) if name else ():
        required = [_path(needed) for needed in step.requires if not isinstance(needed, str)]
        drawn.update([(_path(step), [*required, _PARTS[-1]])])
    drawn.to_dot(sys.stdout)


def _path(step: type) -> str:
    return f"{step.__module__}.{step.__qualname__}"


@graph.command()
@click.argument("words", nargs=-1, metavar="[name:value …]")
@talks_to_broker
def workers(connection: Connection, words: tuple[str, ...]) -> None:
    """Draw the workers that are there, with their slots, the broker and the result backend.

    Words change the picture: nodes:a,b draws these workers (threads:2,4 with so many slots) without asking;
    broker:URL and backend:URL stand for those of the app; wmax:4 and tmax:3 are how many workers, and slots
    of each, are drawn at most (0: all); generic leaves out hosts; enumerate numbers the workers.
    """
    told = _told(words)
    backend: Any = told.get("backend")
    if "nodes" in told:
        nodes = dict.fromkeys(told["nodes"].split(","), 0)
        for name, slots in zip(nodes, filter(None, told.get("threads", "").split(",")), strict=False):
            nodes[name] = _number("threads", slots)
    else:
        nodes = _present(connection)
    if backend is None and connection.app_name:
        backend = load_app(connection.app_name).conf.result_backend
    url = told.get("broker") or str(hidden("", connection.url))
    limits = {
        name: _number(name, told.get(name, default)) for name, default in (("wmax", "4"), ("tmax", "3"))
    }
    shown = str(hidden("", backend)) if backend else ""
    if "generic" in told:
        url, shown = (text.partition("://")[0] + "://" if text else "" for text in (url, shown))
    _drawn(nodes, url, shown, limits, numbered="enumerate" in told).to_dot(sys.stdout)


def _told(words: Sequence[str]) -> dict[str, str]:
    told: dict[str, str] = {}
    for word in words:
        name, _, value = word.partition(":")
        if name not in (*_WORDS, *_FLAGS):
            raise click.UsageError(f"{word!r} is unknown; known: {', '.join((*_WORDS, *_FLAGS))}")
        told[name] = value
    return told


def _number(name: str, written: str) -> int:
    if not written.isdecimal():
        raise click.UsageError(f"{name}: {written!r} is no whole number")
    return int(written)


def _present(connection: Connection) -> dict[str, int]:
    """Return node → slots of the workers that answer; ends with 69 where no broker does."""
    try:
        with connection.app() as app, namesakes_told():
            answers = app.control.inspect().stats() or {}
    except Exception as exc:
        if (line := unreachable(exc, connection)) is None:
            raise
        nobody_replied(line)
    return {node: int(stats["pool"]["max-concurrency"]) for node, stats in sorted(answers.items())}


class _Formatter(GraphFormatter):
    """Draws each node in the shape of its kind."""

    def __init__(self, kinds: Mapping[str, str]) -> None:
        super().__init__()
        self._kinds = kinds

    def node(self, obj: Any) -> str:
        label = str(obj).rpartition("\0")[2].replace('"', "'")
        return f'    "{self.label(obj)}" [label="{label}", shape="{_SHAPES[self._kinds[obj]]}"]'

    def label(self, obj: Any) -> str:
        return str(obj).replace("\0", "/").replace('"', "'")


def _drawn(
    nodes: Mapping[str, int], broker: str, backend: str, limits: Mapping[str, int], *, numbered: bool
) -> DependencyGraph:
    kinds = {broker: "broker"}
    leads_to: list[tuple[str, list[str]]] = [(broker, [])]
    if backend:
        kinds[backend] = "backend"
        leads_to.append((backend, []))
    for number, (name, slots) in enumerate(_fewer(list(nodes.items()), limits["wmax"]), 1):
        node = f"Worker {number}" if numbered else name
        kinds[node] = "worker"
        leads_to.append((node, [broker, *([backend] if backend else [])]))
        for slot in _fewer(list(range(1, slots + 1)), limits["tmax"]):
            key = f"{node}\0slot {slot}"
            kinds[key] = "slot"
            leads_to.append((key, [node]))
    return DependencyGraph(leads_to, formatter=_Formatter(kinds))


def _fewer(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many (0: all): the first ones and the last."""
    if not most or len(items) <= most:
        return list(items)
    return [*items[: most - 1], items[-1]]
