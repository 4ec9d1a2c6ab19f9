"""``celery.utils.serialization``."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = [
    "UnpickleableExceptionWrapper",
    "b64decode",
    "b64encode",
    "create_exception_cls",
    "find_pickleable_exception",
    "get_pickleable_etype",
    "get_pickleable_exception",
    "get_pickled_exception",
    "itermro",
    "raise_with_context",
    "strtobool",
    "subclass_exception",
]

_TRUTH = {
    "false": False,
    "no": False,
    "0": False,
    "off": False,
    "true": True,
    "yes": True,
    "1": True,
    "on": True,
}


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """Make an exception class."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(
    name: str, module: str, parent: type[BaseException] | None = None
) -> type[BaseException]:
    """Make an exception class that stands in for one that isn't importable here."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: tuple[type, ...]) -> Iterator[type]:
    """Yield a class and its bases, up to the first of ``stop``."""
    for base in cls.__mro__:
        if base in stop:
            return
        yield base


def find_pickleable_exception(
    exc: BaseException,
    loads: Callable[[bytes], Any] = pickle.loads,
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> BaseException | None:
    """Return an exception of the nearest base class that can be pickled; None: none below Exception can."""
    for base in itermro(type(exc), (Exception, BaseException, object)):
        try:
            made: BaseException = base(*exc.args)
            loads(dumps(made))
        except Exception:  # noqa: BLE001, S112 - whatever the class's own code raises
            continue
        return made
    return None


class UnpickleableExceptionWrapper(Exception):
    """Stands for an exception that can't be pickled: its module, class name, arguments and text."""

    def __init__(self, exc_module: str, exc_cls_name: str, exc_args: Any, text: str | None = None) -> None:
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = [arg if _pickles(arg) else repr(arg) for arg in exc_args]
        self.text = text
        super().__init__(exc_module, exc_cls_name, self.exc_args, text)

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """Return what stands for an exception."""
        return cls(type(exc).__module__, type(exc).__name__, exc.args, repr(exc))

    def restore(self) -> BaseException:
        """Return an exception of a class of the same name."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    def __str__(self) -> str:
        return self.text or ""


def _pickles(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - what this process has just written
    except Exception:  # noqa: BLE001 - whatever the object's own code raises
        return False
    return True


def get_pickleable_exception(exc: BaseException) -> BaseException:
    """Return an exception as it is, or the nearest that can be pickled."""
    if _pickles(exc):
        return exc
    return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)


def get_pickleable_etype(
    cls: type[BaseException],
    loads: Callable[[bytes], Any] = pickle.loads,
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> type[BaseException]:
    """Return a class, or its nearest base, that can be pickled."""
    for base in cls.__mro__:
        try:
            loads(dumps(base))
        except Exception:  # noqa: BLE001, S112 - whatever pickle raises
            continue
        if issubclass(base, BaseException):
            return base
    return Exception


def get_pickled_exception(exc: BaseException) -> BaseException:
    """Return the exception that a wrapper stands for; any other as it is."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(s: str | bytes) -> str:
    """Return Base64 as text."""
    return base64.b64encode(s.encode() if isinstance(s, str) else s).decode()


def b64decode(s: str | bytes) -> bytes:
    """Return what Base64 says."""
    return base64.b64decode(s.encode() if isinstance(s, str) else s)


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """Return what a word like ``yes`` or ``off`` says; what isn't text as it is; raises TypeError."""
    if not isinstance(term, str):
        return term
    try:
        return (table or _TRUTH)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def raise_with_context(exc: BaseException) -> None:
    """Raise ``exc``, from the exception that is being handled if there is another."""
    raise exc
