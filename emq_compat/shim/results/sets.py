"""ResultSet: many results as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current, later, states
from emq_compat.shim.results.blocking import assert_will_not_block
from emq_compat.shim.results.single import AsyncResult, leaves
from emq_compat.shim.results.tree import ResultBase

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.backend import Backend
    from emq_compat.shim.promise import Promise
    from emq_compat.stored import StoredResult

__all__ = ["ResultSet"]


class ResultSet(ResultBase):
    """Results (of tasks, or of groups) that are asked and waited for together."""

    def __init__(
        self,
        results: Iterable[Any] | None = None,
        app: Celery | None = None,
        ready_barrier: object = None,
        **kwargs: Any,
    ) -> None:
        """``ready_barrier`` and further arguments are Celery's and have no effect."""
        self.results: list[Any] = list(results or ())
        self._app = app
        self._on_ready: Promise | None = None

    @property
    def app(self) -> Celery:
        """The app: its own, else that of its first member, else the current one."""
        if self._app is None:
            self._app = self.results[0].app if self.results else current.get_app()
        return self._app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    @property
    def backend(self) -> Backend:
        """The result store."""
        return self.app.backend

    @property
    def supports_native_join(self) -> bool:
        """Whether many results are waited for at once."""
        return self.backend.supports_native_join

    # Members.

    def add(self, result: Any) -> None:
        """Add a member, unless it is one."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a member (a result, or a task's id); raises KeyError if it is none."""
        try:
            self.results.remove(self.app.AsyncResult(result) if isinstance(result, str) else result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove a member, if it is one."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def update(self, results: Iterable[Any]) -> None:
        """Add those that aren't members."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Remove all members."""
        self.results.clear()

    # Their states, asked for in one go.

    def _settled(self) -> list[AsyncResult[Any]]:
        """Return the tasks' results in it, those that are final now having been settled."""
        members = leaves(self)
        unknown = {member.id: member for member in members if not member._known()}
        if unknown:
            for task_id, stored in self.backend.stored(list(unknown)).items():
                if stored is not None and stored.state in states.READY_STATES:
                    unknown[task_id]._settle(stored)
        return members

    def _states(self) -> list[str]:
        """Return the states of the tasks in it; a state that isn't final reads as PENDING."""
        return [m.state if m._known() and not m.ignored else states.PENDING for m in self._settled()]

    def ready(self) -> bool:
        """Return whether all are final."""
        return all(state in states.READY_STATES for state in self._states())

    def waiting(self) -> bool:
        """Return whether one isn't final."""
        return not self.ready()

    def successful(self) -> bool:
        """Return whether all have returned."""
        return all(state == states.SUCCESS for state in self._states())

    def failed(self) -> bool:
        """Return whether one has failed."""
        return states.FAILURE in self._states()

    def completed_count(self) -> int:
        """Return how many members have succeeded; a member that is a group counts as one."""
        self._settled()
        return sum(
            all(leaf._known() and leaf.state == states.SUCCESS for leaf in leaves(member))
            for member in self.results
        )

    def maybe_throw(
        self, callback: Callable[[str, Any], object] | None = None, propagate: bool = True
    ) -> None:
        """Raise the exception of the first member that has one."""
        self._settled()
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # Waiting.

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], object] | None = None,
    ) -> list[Any]:
        """Wait for all, ``timeout`` seconds together, and return their values in the members' order.

        A member that is a group gives a list. With ``callback(id, value)``, called with each task's value as
        it comes, the list is empty. ``propagate`` raises the first error that comes, without waiting for the
        others; otherwise exceptions stand in the list. Arguments else as those of ``AsyncResult.get``.

        Raises:
            TimeoutError: some aren't final in time.
            Exception: that of a task.
            RuntimeError: called inside a task, see ``AsyncResult.get``.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        for member, stored in self._arriving(timeout, interval, on_interval):
            if stored is not None and on_message is not None:
                on_message(self.backend.record_of(member.id, stored))
            if callback is not None:
                callback(member.id, self._value(member, propagate))
            elif propagate:
                self._throw_if_failed(member)
        return [] if callback is not None else self._values(propagate)

    get = join

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """Wait as ``join`` does; returns None with a ``callback``."""
        values = self.join(
            timeout,
            propagate,
            interval,
            callback,
            no_ack,
            on_message,
            disable_sync_subtasks,
            on_interval,
        )
        return None if callback is not None else values

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Any], object] | None = None,
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (task id, Celery's record of the result) of each task as it ends.

        A member that is a group comes first, as (id, its members).
        """
        for group in self.results:
            if isinstance(group, ResultSet):
                yield getattr(group, "id", ""), group.results  # type: ignore[misc]
        own = ResultSet([m for m in self.results if not isinstance(m, ResultSet)], app=self.app)
        for member, stored in own._arriving(timeout, interval, on_interval):
            record = member._get_task_meta()
            if stored is not None and on_message is not None:
                on_message(record)
            yield member.id, record

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        callback: Callable[[str, Any], object] | None = None,
    ) -> list[Any]:
        """Wait for all without blocking the event loop; as ``join`` otherwise."""

        async def took(member: AsyncResult[Any]) -> None:
            if callback is not None:
                callback(member.id, self._value(member, propagate))
            elif propagate and self._failed(member):
                if self.parent is not None:
                    await self._in_front(member)._athrow_of_parents()
                member.maybe_throw()

        known, pending = self._by_id()
        for member in known:
            await took(member)
        if pending:
            with self.backend.arrivals_async(list(pending), timeout) as arrivals:
                async for task_id, stored in arrivals:
                    for member in pending[task_id]:
                        member._settle(stored)
                        await took(member)
        return [] if callback is not None else self._values(propagate)

    def _arriving(
        self,
        timeout: float | None,
        interval: float,
        on_interval: Callable[[], object] | None,
    ) -> Iterator[tuple[AsyncResult[Any], StoredResult | None]]:
        """Yield each task's result when it is final, with what has arrived; None: it was known."""
        known, pending = self._by_id()
        for member in known:
            yield member, None
        if pending:
            for task_id, stored in self.backend.arrivals(list(pending), timeout, interval, on_interval):
                for member in pending[task_id]:
                    member._settle(stored)
                    yield member, stored

    def _by_id(self) -> tuple[list[AsyncResult[Any]], dict[str, list[AsyncResult[Any]]]]:
        """Return the tasks' results that are known, and the others by their id."""
        known: list[AsyncResult[Any]] = []
        pending: dict[str, list[AsyncResult[Any]]] = {}
        for member in leaves(self):
            if member._known():
                known.append(member)
            else:
                pending.setdefault(member.id, []).append(member)
        return known, pending

    @staticmethod
    def _value(member: AsyncResult[Any], propagate: bool) -> Any:
        return member.get(propagate=propagate, follow_parents=False, disable_sync_subtasks=False)

    @staticmethod
    def _failed(member: AsyncResult[Any]) -> bool:
        return not member.ignored and member.state in states.PROPAGATE_STATES

    def _in_front(self, member: AsyncResult[Any]) -> AsyncResult[Any]:
        """Return a member as one step behind what is in front of the group.

        What failed there says more than that the group could not begin.
        """
        return AsyncResult(member.id, app=member.app, parent=self.parent)

    def _throw_if_failed(self, member: AsyncResult[Any]) -> None:
        if self._failed(member):
            if self.parent is not None:
                self._in_front(member)._throw_of_parents(ask=True)
            member.maybe_throw()

    def _values(self, propagate: bool) -> list[Any]:
        """Return the values of all members, which are final."""
        return [
            member._values(propagate) if isinstance(member, ResultSet) else self._value(member, propagate)
            for member in self.results
        ]

    # Callbacks.

    @property
    def on_ready(self) -> Promise:  # type: ignore[override]
        """The promise that ``then`` adds to."""
        if self._on_ready is None:
            self._on_ready = later.Promise()
        return self._on_ready

    def then(
        self,
        callback: Callable[..., Any],
        on_error: Callable[[BaseException], Any] | None = None,
        weak: bool = False,
    ) -> Promise:
        """Have ``callback(this)`` called once all are final; see ``AsyncResult.then``."""
        first = self._on_ready is None
        promise = self.on_ready.then(callback, on_error)
        if first:
            self._count_down(weak)
        return promise

    def _count_down(self, weak: bool) -> None:
        members = {id(member): member for member in leaves(self)}
        missing = set(members)

        def one_is_final(key: int) -> None:
            missing.discard(key)
            if not missing:
                self.on_ready(self)

        if not members:
            self.on_ready(self)
        for key, member in members.items():
            member.then(lambda _, key=key: one_is_final(key), weak=weak)

    # Orders.

    def forget(self) -> None:
        """Have the store drop the members' results."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: object = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Have the broker revoke all tasks; returns what became of each id. See ``AsyncResult.revoke``."""
        ids = [member.id for member in leaves(self)]
        return self.backend.revoke(ids, terminate, signal, timeout)

    def as_list(self) -> list[Any]:
        """Return the ids of the tasks in it."""
        return [member.id for member in leaves(self)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> bool:
        return self.results == other.results if isinstance(other, ResultSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(getattr(r, 'id', r)) for r in self.results)}]>"
