"""From a function to a registered task: what the decorators ``@app.task`` and ``@shared_task`` do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from emq_compat.shim import current, later
from emq_compat.shim.attributes import FROM_CONFIG, TERMS
from emq_compat.shim.checks import interval_of, limit_of, priority_of, queue_name
from emq_compat.shim.exceptions import CeleryWarning, DuplicateTaskNameWarning
from emq_compat.shim.registry import declaring_module
from emq_compat.shim.task import Task

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.async_task import AsyncTask, BoundDeclaration, Declaration

__all__ = ["rebase", "rebase_shared", "share_with", "shared_task", "task_of"]

P = ParamSpec("P")
R = TypeVar("R")

#: Tasks of ``shared_task``: they belong to every app, made before or after them.
_shared: dict[str, Task[..., Any]] = {}

#: Options of Celery's decorator that mean nothing here: a task is made at once, and by one app.
_WITHOUT_MEANING = frozenset({"shared", "lazy"})


def task_of(
    app: Celery, fun: Callable[..., Any], options: Mapping[str, Any], *, shared: bool = False
) -> Task[..., Any]:
    """Return the task made of ``fun`` and register it with ``app``.

    A name that is taken keeps its task, as in Celery; a warning says so where the functions differ.

    Raises:
        ImproperlyConfigured, ValueError: queue, priority, rate limit or a time limit is none.
    """
    options = dict(options)
    _check(options, fun)
    name = options.pop("name", None) or app.gen_task_name(fun.__name__, fun.__module__)
    known = app._tasks.get(name)
    if known is not None:
        _warn_of_other(known, fun, name)
        return known
    change = options.pop("filter", None)
    body = fun
    own_base = options.pop("base", None)
    base = own_base or (app.shared_task_cls if shared else app.Task)
    if options.get("pydantic"):
        body = later.with_models(
            app,
            fun,
            name,
            strict=bool(options.pop("pydantic_strict", False)),
            context=options.pop("pydantic_context", None),
            dump_kwargs=options.pop("pydantic_dump_kwargs", None),
        )
    run = body if options.pop("bind", False) else staticmethod(body)
    attributes = {
        key: value
        for key, value in options.items()
        if key not in _WITHOUT_MEANING and not (value is None and key in FROM_CONFIG)
    }
    cls = type(
        fun.__name__,
        (base,),
        {
            "name": name,
            "run": run,
            "_app": None if shared else app,
            "_follows_app": own_base is None,
            "__doc__": fun.__doc__,
            "__module__": fun.__module__,
            "__wrapped__": run,
            **attributes,
        },
    )
    task: Task[..., Any] = cls()
    task.__qualname__ = fun.__qualname__
    task.declared_in = declaring_module()
    if change is not None:
        task = change(task)
    app._tasks[name] = task
    task.on_bound(app)
    if (app.configured or "task_annotations" in app.conf.own_changes()) and app.annotations:
        task.annotate()
    return task


def _check(options: Mapping[str, Any], fun: Callable[..., Any]) -> None:
    """Refuse at the declaration what publishing, or the broker, would refuse later."""
    if options.get("queue") is not None:
        queue_name(options["queue"])
    if options.get("priority") is not None:
        priority_of(options["priority"])
    for name in ("time_limit", "soft_time_limit"):
        limit_of(name, options.get(name))
    interval_of(options.get("rate_limit"))
    if any(options.get(name) is not None for name in TERMS):
        later.CallTerms("", fun, options, {}).check_names(bound=bool(options.get("bind")))
    for name in ("Request", "Strategy"):
        if options.get(name) not in (None, getattr(Task, name)):
            warnings.warn(
                CeleryWarning(f"the task option {name} has no effect: a worker has no such class here"),
                stacklevel=5,
            )


def share_with(app: Celery) -> None:
    """Give an app every shared task: those there are, and those to come."""
    current.apps.add(app)
    app._tasks.update(_shared)


def rebase_shared(app: Celery) -> None:
    """Have shared tasks follow an app, which is current from now on: its task class is their base.

    They may have been declared before it was made. Those with a ``base`` of their own keep it.
    """
    if _shared:
        rebase(_shared.values(), app.shared_task_cls)


current.followers.append(rebase_shared)


def rebase(tasks: Iterable[Task[..., Any]], base: type[Task[..., Any]]) -> None:
    """Give another base class to tasks that were declared without one."""
    for task in tasks:
        cls = type(task)
        if task._follows_app and cls.__bases__ != (base,):
            cls.__bases__ = (base,)
            cls._note_overrides()
            task._plan = None


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BoundDeclaration: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **options: Any) -> Declaration: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task that belongs to every app, and acts for the one that is current when it is called."""
    if not args:
        return lambda fun: _shared_task_of(fun, options)
    if len(args) > 1 or not callable(args[0]):
        raise TypeError("@shared_task takes one function, or keyword options")
    return _shared_task_of(args[0], options)


def _shared_task_of(fun: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    task = task_of(current.get_app(), fun, options, shared=True)
    _shared[task.name] = task
    for app in list(current.apps):
        app._tasks.setdefault(task.name, task)
    return task


def _warn_of_other(known: Task[..., Any], fun: Callable[..., Any], name: str) -> None:
    """Warn where a second function of the same file is declared under a name that is taken.

    The same function seen twice (a script that is imported, too; a reload) is no mistake.
    """
    first = getattr(getattr(known.run, "__func__", known.run), "__code__", None)
    second = getattr(fun, "__code__", None)
    if first is None or second is None or first.co_filename != second.co_filename:
        return
    if first.co_firstlineno != second.co_firstlineno:
        warnings.warn(
            DuplicateTaskNameWarning(f"task {name} is declared twice; the first declaration counts"),
            stacklevel=4,
        )
