"""Tasks whose arguments and result are pydantic models: the decorator's option ``pydantic=True``.

pydantic is an optional extra, imported when the first such task is declared.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from emq_compat.shim.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["dumped", "with_models"]


def with_models(
    app: Celery,
    fun: Callable[..., Any],
    task_name: str,
    *,
    strict: bool = False,
    context: Mapping[str, Any] | None = None,
    dump_kwargs: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """Return ``fun`` with its arguments validated and its result dumped, where their annotations name models.

    A model may stand anywhere in an annotation: ``Model``, ``Model | None``, ``list[Model]``,
    ``dict[str, Model]``. Arguments without one are passed on as they are.

    Args:
        strict: pydantic's strict mode.
        context: what validators get as ``info.context``, with ``celery_app`` and ``celery_task_name``.
        dump_kwargs: arguments of ``model_dump``; ``mode`` is ``json`` unless they say otherwise.

    Raises:
        ImproperlyConfigured: pydantic is not installed.
    """
    pydantic = _pydantic()
    signature = inspect.signature(fun)
    told = {**(context or {}), "celery_app": app, "celery_task_name": task_name}
    dump = functools.partial(dumped, dump_kwargs=dump_kwargs)

    @functools.cache
    def wanted() -> tuple[dict[str, Any], bool]:
        """The validators by argument, and whether the result is dumped; names must be defined by now."""
        hints = _hints(fun, signature)
        returned = hints.pop("return", None)
        validators = {
            name: pydantic.TypeAdapter(hint) for name, hint in hints.items() if _names_model(hint, pydantic)
        }
        return validators, _names_model(returned, pydantic)

    def validated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        bound = signature.bind(*args, **kwargs)
        for name, validator in wanted()[0].items():
            if name in bound.arguments:
                value = bound.arguments[name]
                bound.arguments[name] = validator.validate_python(value, strict=strict, context=told)
        return bound

    @functools.wraps(fun)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = validated(args, kwargs)
        value = fun(*bound.args, **bound.kwargs)
        return dump(value) if wanted()[1] else value

    @functools.wraps(fun)
    async def call_async(*args: Any, **kwargs: Any) -> Any:
        bound = validated(args, kwargs)
        value = await fun(*bound.args, **bound.kwargs)
        return dump(value) if wanted()[1] else value

    return call_async if inspect.iscoroutinefunction(fun) else call


def dumped(value: Any, *, dump_kwargs: Mapping[str, Any] | None = None) -> Any:
    """Return ``value`` with each model in it (in lists and dicts, too) as what ``model_dump`` gives."""
    if isinstance(value, _pydantic().BaseModel):
        return value.model_dump(**{"mode": "json", **(dump_kwargs or {})})
    if isinstance(value, (list, tuple)):
        return [dumped(item, dump_kwargs=dump_kwargs) for item in value]
    if isinstance(value, dict):
        return {key: dumped(item, dump_kwargs=dump_kwargs) for key, item in value.items()}
    return value


def _pydantic() -> Any:
    try:
        import pydantic  # noqa: PLC0415 - an optional extra
    except ImportError as exc:
        raise ImproperlyConfigured("pydantic=True needs pydantic: install emq-compat[pydantic]") from exc
    return pydantic


def _hints(fun: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Return the annotations by argument, and that of the result as ``return``; texts are evaluated."""
    try:
        return typing.get_type_hints(fun)
    except (NameError, AttributeError, TypeError):
        hints = {name: p.annotation for name, p in signature.parameters.items()}
        return {**hints, "return": signature.return_annotation}


def _names_model(hint: Any, pydantic: Any) -> bool:
    """Whether an annotation has a model in it."""
    if isinstance(hint, type) and not typing.get_args(hint):
        return issubclass(hint, pydantic.BaseModel)
    return any(_names_model(inner, pydantic) for inner in typing.get_args(hint))
