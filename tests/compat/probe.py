"""Looks for Celery's names in the shim, as ``import celery`` finds it; run in an interpreter of its own.

``python -m tests.compat.probe`` prints a JSON list of ``[area, item, whether it is there]``. A name whose
object says ``__unsupported__ = True`` isn't there.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from emq_compat.migration.items import PROBE, read_items

__all__: list[str] = []

_PARAMETER = re.compile(r"^([\w.]+)\((\w+)=\)$")
#: Values of options that don't take any number.
_VALUES: dict[str, Any] = {"queue": "q", "serializer": "json", "compression": "gzip", "rate_limit": "9/m"}


class Bench:
    """An app that runs tasks here, and one object of each kind that the list speaks of."""

    def __init__(self) -> None:
        import celery

        self.app = celery.Celery("bench", broker="emq://127.0.0.1", task_always_eager=True)
        self.requests: list[Any] = []

        @self.app.task(bind=True)  # type: ignore[misc]
        def add(task: Any, *numbers: int) -> int:
            return sum(numbers)

        self.add = add

    def has(self, area: str, item: str) -> bool:
        """Return whether an item is there."""
        look: Callable[[str], bool] = getattr(self, f"_{area.replace('-', '_')}")
        return look(item)

    def _import(self, item: str) -> bool:
        module, _, name = item.partition(":")
        try:
            found: Any = importlib.import_module(module)
            if name:
                try:
                    found = getattr(found, name)
                except AttributeError:
                    found = importlib.import_module(f"{module}.{name}")
        except ImportError:
            return False
        return _supported(found)

    def _app(self, item: str) -> bool:
        if item.startswith("Celery("):
            return _reaches(importlib.import_module("celery"), item)
        return _reaches(self.app, item.removeprefix("Celery."))

    def _task_option(self, item: str) -> bool:
        value = _VALUES.get(item, 7)

        @self.app.task(name=f"bench.{item}", **{item: value})  # type: ignore[misc]
        def task() -> None: ...

        return hasattr(type(self.add), item) and value == getattr(task, item)

    def _task(self, item: str) -> bool:
        return _reaches(self.add, item)

    def _request(self, item: str) -> bool:
        there: list[bool] = []

        @self.app.task(bind=True, name=f"bench.request.{item}")  # type: ignore[misc]
        def look(task: Any) -> None:
            there.append(_reaches(task.request, item))

        look.apply().get()
        return there == [True]

    def _retry(self, item: str) -> bool:
        if item.startswith("Retry."):
            exceptions = importlib.import_module("celery.exceptions")
            return _reaches(exceptions.Retry("later", KeyError(1), 5), item.removeprefix("Retry."))
        return _reaches(self.add, item)

    def _result(self, item: str) -> bool:
        kind, _, rest = item.partition(".")
        one = self.app.AsyncResult("an-id")
        made = {
            "AsyncResult": lambda: one,
            "EagerResult": lambda: self.add.apply((1, 2)),
            "GroupResult": lambda: self.app.GroupResult("group", [one]),
            "ResultSet": lambda: self.app.ResultSet([one]),
        }
        return _reaches(made[kind](), rest)

    def _canvas(self, item: str) -> bool:
        canvas = importlib.import_module("celery.canvas")
        kind, _, rest = item.partition(".")
        made: dict[str, Callable[[], Any]] = {
            "Signature": lambda: self.add.s(1),
            "chain": lambda: canvas.chain(self.add.s(1), self.add.s(2)),
            "group": lambda: canvas.group(self.add.s(1), self.add.s(2)),
            "chord": lambda: canvas.chord([self.add.s(1)], self.add.s()),
            "chunks": lambda: self.add.chunks([(1, 2)], 1),
            "xmap": lambda: self.add.map([1]),
            "xstarmap": lambda: self.add.starmap([(1, 2)]),
        }
        return hasattr(canvas, kind) and (not rest or _reaches(made[kind](), rest))

    def _signal(self, item: str) -> bool:
        signals = importlib.import_module("celery.signals")
        if item.startswith("Signal."):
            return _reaches(signals.task_prerun, item.removeprefix("Signal."))
        return _reaches(signals, item)

    def _control(self, item: str) -> bool:
        head, _, rest = item.partition(".")
        control = self.app.control
        return _reaches(control.inspect() if head == "inspect" else control, rest)

    def _command(self, item: str) -> bool:
        from emq_compat.cli.main import COMMANDS

        return item in COMMANDS

    def _worker(self, item: str) -> bool:
        command = importlib.import_module("emq_compat.cli.worker").worker
        taken = {word for parameter in command.params for word in parameter.opts}
        return set(item.split(" / ")) <= taken


def _supported(found: Any) -> bool:
    return inspect.getattr_static(found, "__unsupported__", False) is not True


def _reaches(holder: Any, path: str) -> bool:
    """Whether ``a.b`` is there below an object, or ``a.b(c=)``: a callable that takes an argument c."""
    call = _PARAMETER.match(path)
    *before, last = (call[1] if call else path).split(".")
    for name in before:
        if not hasattr(holder, name):
            return False
        holder = getattr(holder, name)
    try:
        found = inspect.getattr_static(holder, last)
    except AttributeError:
        if not hasattr(holder, last):
            return False
        found = getattr(holder, last)
    if not _supported(found):
        return False
    if call is None:
        return True
    taken = inspect.signature(getattr(holder, last)).parameters
    return call[2] in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


def main() -> None:
    """Print the verdicts."""
    from emq_compat import celery_shim

    celery_shim.install(force=True)
    bench = Bench()
    verdicts = [
        (row.area, row.item, bench.has(row.area, row.item)) for row in read_items() if row.check == PROBE
    ]
    json.dump(verdicts, sys.stdout)


if __name__ == "__main__":
    main()
