"""Tasks that are coroutine functions, and the decorators with options, as a type checker sees them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from emq_compat.shim.task import Task

__all__ = ["AsyncTask", "BoundDeclaration", "Declaration"]

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTask(Task[P, R]):
    """A task whose call is a coroutine, and whose results are what the coroutine returns.

    For type checkers only: at run time such a task is a Task.
    """

    def __call__(  # type: ignore[override]
        self, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]:
        raise NotImplementedError


class Declaration(Protocol):
    """What ``@app.task(…)`` returns: it makes a task of a function."""

    @overload
    def __call__(
        self, fun: Callable[P, Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class BoundDeclaration(Protocol):
    """What ``@app.task(bind=True, …)`` returns: the function's first argument is the task."""

    @overload
    def __call__(
        self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
