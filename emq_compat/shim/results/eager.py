"""EagerResult: of a task that was run in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from emq_compat.ids import new_id
from emq_compat.shim import later, states
from emq_compat.shim.results.single import AsyncResult

if TYPE_CHECKING:
    from emq_compat.stored import StoredResult

__all__ = ["EagerResult"]

R = TypeVar("R")


class EagerResult(AsyncResult[R]):
    """The result of a task that was run in place: it is there, and no store is asked."""

    def __init__(
        self,
        id: str | None,  # noqa: A002 - Celery's name
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        children: list[Any] | None = None,
    ) -> None:
        """``children``: the results of what it published."""
        super().__init__(id or new_id())
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self._name = name
        self._own_children = children
        self._on_ready = later.Promise()
        self._on_ready(self)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> R:
        """Return the value, or raise the task's exception (``propagate=False`` returns it).

        Allowed inside a task, too: there is nothing to wait for.
        """
        return self.maybe_throw(propagate, callback)  # type: ignore[no-any-return]

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
    ) -> R:
        """As ``get``."""
        return self.maybe_throw(propagate, callback)  # type: ignore[no-any-return]

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> Any:
        """Raise the task's exception if it failed; return its value otherwise."""
        value = self._result
        if propagate and self._state in states.PROPAGATE_STATES:
            raise value if isinstance(value, BaseException) else Exception(value)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _known(self) -> bool:
        return True

    def _stored(self) -> StoredResult | None:
        return None

    def _get_task_meta(self) -> dict[str, Any]:
        return {
            "task_id": self.id,
            "result": self._result,
            "status": self._state,
            "traceback": self._traceback,
            "name": self._name,
            "children": self._own_children,
        }

    @property
    def state(self) -> str:
        """The task's state."""
        return self._state

    @property
    def result(self) -> Any:
        """The value or the exception."""
        return self._result

    @property
    def traceback(self) -> str | None:
        """The traceback as text."""
        return self._traceback

    @property
    def name(self) -> str | None:
        """The task's name."""
        return self._name

    @property
    def children(self) -> list[Any] | None:
        """The results of what the task published; None: nothing."""
        return self._own_children

    @property
    def supports_native_join(self) -> bool:
        """There is nothing to wait for."""
        return False

    def ready(self) -> bool:
        """Return True: it has run."""
        return True

    def exists(self) -> bool:
        """Return True: it is here."""
        return True

    def forget(self) -> None:
        """Nothing: no store has it."""

    def revoke(self, *args: Any, **kwargs: Any) -> str | None:
        """Mark it as revoked: it has run already."""
        self._state = states.REVOKED
        return None

    def __copy__(self) -> EagerResult[R]:
        return EagerResult(
            self.id, self._result, self._state, self._traceback, self._name, self._own_children
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self._result, self._state, self._traceback)
