"""``celery.utils.threads``: values that each thread, and each coroutine, has of its own."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

__all__ = ["Local", "LocalManager", "LocalStack", "get_ident", "release_local"]

from threading import get_ident


class LocalStack:
    """A stack of each thread's, and of each coroutine's."""

    def __init__(self) -> None:
        self._items: ContextVar[tuple[Any, ...]] = ContextVar("emq_compat_local_stack", default=())

    def push(self, obj: Any) -> list[Any]:
        """Put an object on top; returns the stack."""
        self._items.set((*self._items.get(), obj))
        return self.stack

    def pop(self) -> Any:
        """Remove what is on top and return it; None: the stack was empty."""
        items = self._items.get()
        if not items:
            return None
        self._items.set(items[:-1])
        return items[-1]

    @property
    def top(self) -> Any:
        """What is on top, or None."""
        items = self._items.get()
        return items[-1] if items else None

    @property
    def stack(self) -> list[Any]:
        """The objects from the bottom to the top."""
        return list(self._items.get())

    def __len__(self) -> int:
        return len(self._items.get())

    def __release_local__(self) -> None:
        self._items.set(())


class Local:
    """An object whose attributes are each thread's, and each coroutine's."""

    _values: ContextVar[dict[str, Any]]

    def __init__(self) -> None:
        object.__setattr__(self, "_values", ContextVar("emq_compat_local"))

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values.get({})[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self._values.set({**self._values.get({}), name: value})

    def __delattr__(self, name: str) -> None:
        left = dict(self._values.get({}))
        if name not in left:
            raise AttributeError(name)
        del left[name]
        self._values.set(left)

    def __release_local__(self) -> None:
        self._values.set({})


class LocalManager:
    """Empties several Locals and LocalStacks at once."""

    def __init__(self, locals: Any = None) -> None:  # noqa: A002 - Celery's name
        self.locals = list(locals) if isinstance(locals, (list, tuple)) else [locals] if locals else []

    def cleanup(self) -> None:
        """Empty them in this thread."""
        for local in self.locals:
            release_local(local)


def release_local(local: Local | LocalStack) -> None:
    """Empty a Local or LocalStack in this thread."""
    local.__release_local__()
