"""``celery.local``: objects that stand for others, found when they are used."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["PromiseProxy", "Proxy", "maybe_evaluate", "try_import"]

T = TypeVar("T")
_OWN = frozenset(
    {"_Proxy__local", "_Proxy__args", "_Proxy__kwargs", "_Proxy__name", "_PromiseProxy__made"}
    | {"_PromiseProxy__then"}
)  # fmt: skip


class Proxy:
    """Stands for what ``local(*args, **kwargs)`` returns, called anew at each use.

    Args:
        local: the callable; or an object whose attribute ``name`` is meant.
        name: the name of the attribute, or of the proxy.
        __doc__: its documentation.
    """

    __slots__ = ("__args", "__dict__", "__kwargs", "__local", "__name")

    def __init__(
        self,
        local: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,  # noqa: A002 - Celery's name
    ) -> None:
        put = object.__setattr__
        put(self, "_Proxy__local", local)
        put(self, "_Proxy__args", tuple(args or ()))
        put(self, "_Proxy__kwargs", dict(kwargs or {}))
        put(self, "_Proxy__name", name)
        if __doc__ is not None:
            put(self, "__doc__", __doc__)

    def _get_current_object(self) -> Any:
        """Return what this stands for now."""
        local = object.__getattribute__(self, "_Proxy__local")
        if callable(local):
            args = object.__getattribute__(self, "_Proxy__args")
            return local(*args, **object.__getattribute__(self, "_Proxy__kwargs"))
        name = object.__getattribute__(self, "_Proxy__name")
        try:
            return getattr(local, name or "")
        except AttributeError:
            raise RuntimeError(f"object has no attribute {name!r}") from None

    @property  # type: ignore[misc] # what isinstance() looks at
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __repr__(self) -> str:
        try:
            return repr(self._get_current_object())
        except RuntimeError:
            return f"<{type(self).__name__} unbound>"

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:
            return False

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __enter__(self) -> Any:
        return self._get_current_object().__enter__()

    def __exit__(self, *exc_info: Any) -> Any:
        return self._get_current_object().__exit__(*exc_info)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._get_current_object())

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()


def _forward(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def forwarded(self: Proxy, *args: Any) -> Any:
        return function(self._get_current_object(), *args)

    forwarded.__name__ = forwarded.__qualname__ = name
    return forwarded


def _reflected(name: str, function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def forwarded(self: Proxy, other: Any) -> Any:
        return function(other, self._get_current_object())

    forwarded.__name__ = forwarded.__qualname__ = name
    return forwarded


for _name in (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or",
    "xor",
):  # fmt: skip
    _function = getattr(operator, f"__{_name}__")
    setattr(Proxy, f"__{_name}__", _forward(f"__{_name}__", _function))
    setattr(Proxy, f"__r{_name}__", _reflected(f"__r{_name}__", _function))
for _name in (
    "lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert", "index", "getitem", "setitem",
    "delitem", "contains",
):  # fmt: skip
    setattr(Proxy, f"__{_name}__", _forward(f"__{_name}__", getattr(operator, f"__{_name}__")))
_BUILTINS: dict[str, Callable[..., Any]] = {
    "len": len, "int": int, "float": float, "complex": complex, "reversed": reversed,
}  # fmt: skip
for _name, _builtin in _BUILTINS.items():
    setattr(Proxy, f"__{_name}__", _forward(f"__{_name}__", _builtin))


class PromiseProxy(Proxy):
    """A Proxy that calls its function once, at the first use."""

    __slots__ = ("__made", "__then")

    def _get_current_object(self) -> Any:
        try:
            return object.__getattribute__(self, "_PromiseProxy__made")
        except AttributeError:
            return self.__evaluate__()

    def __evaluated__(self) -> bool:
        """Return whether the function has been called."""
        try:
            object.__getattribute__(self, "_PromiseProxy__made")
        except AttributeError:
            return False
        return True

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function once this is evaluated; at once if it is."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        try:
            waiting = object.__getattribute__(self, "_PromiseProxy__then")
        except AttributeError:
            waiting = []
            object.__setattr__(self, "_PromiseProxy__then", waiting)
        waiting.append((fun, args, kwargs))

    def __evaluate__(self) -> Any:
        """Call the function, if it hasn't been, and return what this stands for."""
        if not self.__evaluated__():
            object.__setattr__(self, "_PromiseProxy__made", Proxy._get_current_object(self))
            try:
                waiting = object.__getattribute__(self, "_PromiseProxy__then")
            except AttributeError:
                waiting = []
            while waiting:
                fun, args, kwargs = waiting.pop(0)
                fun(*args, **kwargs)
        return object.__getattribute__(self, "_PromiseProxy__made")


def maybe_evaluate(obj: Any) -> Any:
    """Return what a PromiseProxy stands for; anything else as it is."""
    evaluate = getattr(type(obj), "__evaluate__", None)
    return obj if evaluate is None else evaluate(obj)


def try_import(module: str, default: T | None = None) -> ModuleType | T | None:
    """Return a module, or ``default`` where it can't be imported."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return default
