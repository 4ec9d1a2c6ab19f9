"""What the result store has of one task, as attributes."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from emq_compat.shim import later, states
from emq_compat.shim.results.tree import ResultBase, result_from_tuple

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.stored import StoredResult

__all__ = ["Recorded"]


class Recorded(ResultBase):
    """A result whose attributes are asked of the store, until it is final."""

    if TYPE_CHECKING:

        @property
        def app(self) -> Celery: ...

    def _stored(self) -> StoredResult | None:
        """Return what the store has now; None: nothing, which reads as PENDING."""
        raise NotImplementedError

    def _member(self, name: str) -> Any:
        """Return a member of the reply as it is stored; None: there is none."""
        stored = self._stored()
        return None if stored is None else stored.reply.get(name)

    @property
    def state(self) -> str:
        """The task's state now; PENDING for an id that the store knows nothing of."""
        stored = self._stored()
        return stored.state if stored is not None else states.PENDING

    @property
    def status(self) -> str:
        """The same as ``state``."""
        return self.state

    @property
    def result(self) -> Any:
        """The value; the exception, where there is one; what ``update_state(meta=)`` set, in other states."""
        stored = self._stored()
        return None if stored is None else later.value_of(stored, self.app)

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback as text."""
        return self._member("traceback") or None

    @property
    def children(self) -> list[Any] | None:
        """The results of what the task published while it ran (``trail``); None: it isn't done yet."""
        stored = self._stored()
        if stored is None or stored.state not in states.READY_STATES:
            return None
        return self._children

    @cached_property
    def _children(self) -> list[Any]:
        return [result_from_tuple(child, self.app) for child in self._member("children") or ()]

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC."""
        told = self._member("date_done")
        if isinstance(told, str):
            # Python 3.10 doesn't read the Z.
            return datetime.fromisoformat(told[:-1] + "+00:00" if told.endswith("Z") else told)
        return told  # type: ignore[no-any-return]

    @property
    def name(self) -> str | None:
        """The task's name; this and the next five are kept if result_extended is set."""
        return self._member("name")  # type: ignore[no-any-return]

    @property
    def args(self) -> Any:
        """The call's arguments."""
        return later.revive(self._member("args"))

    @property
    def kwargs(self) -> Any:
        """The call's keyword arguments."""
        return later.revive(self._member("kwargs"))

    @property
    def worker(self) -> str | None:
        """The name of the worker that ran it."""
        return self._member("worker")  # type: ignore[no-any-return]

    @property
    def retries(self) -> int | None:
        """How often it was tried again."""
        return self._member("retries")  # type: ignore[no-any-return]

    @property
    def queue(self) -> str | None:
        """The queue it came from."""
        return self._member("queue")  # type: ignore[no-any-return]

    def ready(self) -> bool:
        """Return whether the state is final."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Return whether the task returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Return whether the task failed."""
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Return whether the store has anything of the task; a task that hasn't begun has nothing there."""
        return self._stored() is not None
