"""The handlers that a task class may define; handlers.py calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emq_compat.shim.handlers import ExceptionInfo

__all__ = ["Handlers"]


class Handlers:
    """The methods of a task class that are called around its body, in the process that runs it.

    Each may be an ``async def``.
    """

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Called before the body, by whoever runs it; what it raises fails the task."""

    def on_success(
        self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """Called when the body has returned."""

    def on_failure(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> Any:
        """Called when the body has raised; not when the process was lost."""

    def on_retry(
        self,
        exc: BaseException,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo,
    ) -> Any:
        """Called when the body has asked for a retry."""

    def after_return(
        self,
        status: str,
        retval: Any,
        task_id: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        einfo: ExceptionInfo | None,
    ) -> Any:
        """Called last, whatever happened; ``retval`` is the value or the exception."""

    @classmethod
    def any_defined(cls) -> bool:
        """Return whether a task class defines one of them."""
        own = (name for name, value in vars(Handlers).items() if isinstance(value, FunctionType))
        return any(getattr(cls, name) is not getattr(Handlers, name) for name in own)
