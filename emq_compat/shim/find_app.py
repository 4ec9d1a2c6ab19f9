"""Finding the app that ``-A`` names, by Celery's rules.

| written | means |
| --- | --- |
| ``proj:app``, ``proj.celery:app`` | that attribute of that module |
| ``proj`` | its ``app``, else its ``celery`` (unless that is the submodule), else what ``proj.celery`` has, else the first Celery instance in it |
| ``proj.celery`` | the same of that module |
| ``proj.celery.app`` | that attribute, where no module has this name |
"""  # noqa: E501 - a table

from __future__ import annotations

import importlib
import os
import sys
import traceback as tracebacks
from pathlib import Path
from types import ModuleType
from typing import Any

from emq_compat.errors import ConfigurationError
from emq_compat.shim.app import Celery
from emq_compat.shim.current import given_app

__all__ = ["AppNotFound", "find_app", "is_genuine", "told"]


#: Frames of this package and of importlib say nothing about what is wrong in a project.
_NOT_THE_USERS = (str(Path(__file__).parents[1]) + os.sep, str(importlib.__file__))


class AppNotFound(ConfigurationError):
    """No app is where -A says."""


def find_app(written: str) -> Celery:
    """Return the app, of the shim or a genuine one; without a name the one whose program runs here.

    The current directory is on the import path while it is looked for, and after.

    Raises:
        AppNotFound: there is no such module, or no app in it; the message names what was missing.
        Exception: what importing the module raises, with the module named in a chained AppNotFound.
    """
    given = given_app.get()
    if not written and given is not None:
        return given
    if not written:
        raise AppNotFound("-A needs the name of a module")
    cwd = os.getcwd()
    if cwd not in sys.path and "" not in sys.path:
        sys.path.insert(0, cwd)
    if written.endswith(".py") and os.path.isfile(written):
        name = ".".join(Path(written).with_suffix("").parts)
        raise AppNotFound(f"-A {written} is a file, and its module is wanted: -A {name}")
    module_name, colon, attribute = written.partition(":")
    if colon:
        return _attribute(_imported(module_name, written), attribute, written)
    module = _imported_if_there(module_name)
    if module is None:
        parent, _, last = module_name.rpartition(".")
        holder = _imported_if_there(parent) if parent else None
        if holder is None:
            raise AppNotFound(f"-A {written}: there is no module {module_name!r} (looked in {cwd}, too)")
        return _attribute(holder, last, written)
    found = _in_module(module)
    if found is None:
        raise AppNotFound(f"-A {written}: no Celery app in the module {module.__name__}")
    return found


def _in_module(module: ModuleType) -> Celery | None:
    for name in ("app", "celery"):
        value = getattr(module, name, None)
        if is_app(value):
            return value
    if hasattr(module, "__path__"):
        inner = _imported_if_there(f"{module.__name__}.celery")
        found = _in_module(inner) if inner is not None else None
        if found is not None:
            return found
    return next(filter(is_app, vars(module).values()), None)


def is_genuine(value: object) -> bool:
    """Whether this is an app of the package celery, where that is no other name of the shim."""
    genuine: Any = getattr(sys.modules.get("celery.app.base"), "Celery", None)
    return isinstance(genuine, type) and isinstance(value, genuine) and not isinstance(value, Celery)


def is_app(value: object) -> bool:
    """Whether this is an app, of the shim or a genuine one."""
    return isinstance(value, Celery) or is_genuine(value)


def _attribute(module: ModuleType, path: str, written: str) -> Celery:
    value: object = module
    for part in path.split("."):
        value = getattr(value, part, None)
    if isinstance(value, ModuleType):
        value = _in_module(value)
    if callable(value) and not isinstance(value, type) and not is_app(value):
        try:
            value = value()  # a factory; Celery 5.7 takes one, too
        except Exception as exc:
            raise AppNotFound(f"-A {written}: calling {path} failed: {told(exc)}") from exc
    if not is_app(value):
        raise AppNotFound(f"-A {written}: {module.__name__} has no Celery app {path!r}")
    return value  # type: ignore[return-value]


def _imported(name: str, written: str) -> ModuleType:
    module = _imported_if_there(name)
    if module is None:
        raise AppNotFound(f"-A {written}: there is no module {name!r} (looked in {os.getcwd()}, too)")
    return module


def _imported_if_there(name: str) -> ModuleType | None:
    """Import a module; None: there is none of this name. What fails inside it is AppNotFound from that."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            return None
        raise AppNotFound(f"importing {name} failed: {exc}{_place(exc)}") from exc
    except (Exception, SystemExit) as exc:
        raise AppNotFound(f"importing {name} failed: {told(exc)}") from exc


def told(exc: BaseException) -> str:
    """Return an exception of the user's code as one line that says where it was raised."""
    if isinstance(exc, SyntaxError):
        return f"{type(exc).__name__}: {exc.msg} ({exc.filename}, line {exc.lineno})"
    return f"{type(exc).__name__}: {exc}{_place(exc)}"


def _place(exc: BaseException) -> str:
    """Return where the user's code raised an exception; nothing where no frame is the user's."""
    frames = [f for f in tracebacks.extract_tb(exc.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in frames if not f.filename.startswith(_NOT_THE_USERS)]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
