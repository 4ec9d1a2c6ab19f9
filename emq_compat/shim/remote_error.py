"""From the error in a stored result back to an exception that can be caught by its class.

Nothing is imported because a message says so, but modules of the project itself (own_packages.py): elsewhere
the class is looked up in modules that are loaded already. Where it isn't found, a stand-in of the same name
takes its place. ``SystemExit``, ``KeyboardInterrupt``, ``GeneratorExit`` and ``asyncio.CancelledError`` are
always stood in for: the end of a remote task must not end the program, or cancel the coroutine, that asks for
its result.
"""

from __future__ import annotations

import builtins
import importlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from emq_compat.shim import exceptions
from emq_compat.shim.exceptions import RemoteTraceback

__all__ = ["exception_from"]

logger = logging.getLogger("emq_compat.task")

_OURS = {
    name: value
    for name, value in vars(exceptions).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
#: Modules whose exceptions are ours under the same name: results come from genuine Celery workers, too.
_ALIASES = frozenset({"celery.exceptions", "billiard.exceptions", "kombu.exceptions", exceptions.__name__})
_NEVER_RAISED = frozenset({"SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError"})


def exception_from(
    error: Mapping[str, Any],
    traceback: str = "",
    *,
    may_import: Callable[[str], bool] = lambda module: False,
) -> BaseException:
    """Return the exception that ``error`` (a reply's ``{"type", "module", "args", "message"}``) tells of.

    Without a ``message`` its text is what its class makes of its arguments.

    Args:
        traceback: the worker's; it becomes the exception's ``__cause__``, so that it is shown with it.
        may_import: says which modules may be imported to find the class.
    """
    name = _text(error.get("type")) or "Exception"
    module = _text(error.get("module"))
    raw = error.get("args")
    args = tuple(raw) if isinstance(raw, Sequence) and not isinstance(raw, str) else ()
    message = error.get("message")
    cls = _loaded_class(module, name)
    if cls is None and module not in sys.modules and name not in _NEVER_RAISED and may_import(module):
        cls = _imported_class(module, name)
    exc = None
    if cls is not None:
        exc = _constructed(cls, args) or _made(_unpickleable(cls, module, name, args), args)
    if exc is None:
        exc = _stand_in(name, module, Exception)(*args)
    if message is not None and not _says(exc, message := _text(message)):
        # Its text needs what the constructor would have set, or an argument that JSON couldn't carry.
        spoken = _stand_in(type(exc).__name__, type(exc).__module__, type(exc), text=message)
        exc = _made(spoken, args) or _stand_in(name, module, Exception, text=message)(*args)
    if traceback:
        exc.__cause__ = RemoteTraceback(traceback)
    return exc


def _stand_in(
    name: str, module: str, base: type[BaseException], *, text: str | None = None
) -> type[BaseException]:
    """Return a new class of this name whose text, if given, is ``text``."""
    body: dict[str, Any] = {"__module__": module or "builtins"}
    if text is not None:
        body["__str__"] = lambda self: text
    plain = name.rpartition(".")[2].encode("utf-8", "backslashreplace").decode().replace("\0", "")
    return type(plain or "Exception", (base,), body)


def _loaded_class(module: str, name: str) -> type[BaseException] | None:
    """Return the exception class ``module.name`` if it is loaded; nested classes are found, too."""
    if name in _NEVER_RAISED:
        return None
    if module in _ALIASES and name in _OURS:
        return _OURS[name]
    found: Any = builtins if module == "builtins" else sys.modules.get(module)
    for part in name.split("."):
        # Only what stands in the namespace: a module's __getattr__ may import, a property may do anything.
        found = found.__dict__.get(part) if found is not None and hasattr(found, "__dict__") else None
    if not isinstance(found, type) or not issubclass(found, BaseException):
        return None
    return found if found.__name__ not in _NEVER_RAISED else None


def _imported_class(module: str, name: str) -> type[BaseException] | None:
    """Return the exception class ``module.name`` of a module that may be imported."""
    try:
        importlib.import_module(module)
    except Exception as exc:  # noqa: BLE001 - whatever importing it raises: the stand-in will do
        logger.warning("importing %s, to raise its %s, failed: %r", module, name, exc)
        return None
    return _loaded_class(module, name)


def _constructed(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException | None:
    """Return an instance that its constructor made of ``args``, if it takes and keeps them."""
    try:
        made = cls(*args)
        return made if type(made) is cls and tuple(made.args) == args else None
    except Exception:  # noqa: BLE001 - a constructor of the user's own
        return None


def _unpickleable(
    cls: type[BaseException], module: str, name: str, args: tuple[Any, ...]
) -> type[BaseException]:
    """Return a class that is caught as ``cls``, and as what Celery raises in place of such an exception."""
    from emq_compat.shim.surface.serialization import (  # noqa: PLC0415 - only needed here
        UnpickleableExceptionWrapper,
    )

    told = {
        "__module__": cls.__module__,
        "__str__": cls.__str__,
        "exc_module": module,
        "exc_cls_name": name.rpartition(".")[2],
        "exc_args": args,
        "text": f"{name}({', '.join(map(repr, args))})",
    }
    try:
        return type(cls.__name__, (cls, UnpickleableExceptionWrapper), told)
    except Exception:  # noqa: BLE001 - a class that refuses subclasses, or its metaclass
        return cls


def _made(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException | None:
    """Return an instance with these ``args``, through its constructor if that takes and keeps them.

    None: it can't be made of them in any way (an ExceptionGroup, whose members JSON doesn't carry).
    """
    if (made := _constructed(cls, args)) is not None:
        return made
    for new in (cls.__new__, BaseException.__new__):
        try:
            made = new(cls, *args)
            made.args = args
        except Exception:  # noqa: BLE001, S112 - a __new__ of the user's own
            continue
        if isinstance(made, cls):
            return made
    return None


def _says(exc: BaseException, message: str) -> bool:
    try:
        return str(exc) == message
    except Exception:  # noqa: BLE001 - a __str__ of the user's own
        return False


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
