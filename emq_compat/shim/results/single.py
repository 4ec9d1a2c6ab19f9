"""AsyncResult: one task's result by its id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from emq_compat.shim import current, later, states
from emq_compat.shim import exceptions as errors
from emq_compat.shim.results.blocking import assert_will_not_block
from emq_compat.shim.results.descent import Descent
from emq_compat.shim.results.recorded import Recorded
from emq_compat.shim.results.tree import ResultBase

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.backend import Backend
    from emq_compat.shim.promise import Promise
    from emq_compat.stored import StoredResult

__all__ = ["AsyncResult", "leaves"]

R = TypeVar("R")


class AsyncResult(Recorded, Descent, Generic[R]):
    """A task's result by its id; asks the result store when it is asked, and keeps what is final.

    Any method that needs the result raises ImproperlyConfigured naming result_backend where the broker is a
    stock eventmq router, which keeps none, and OperationalError when the store doesn't answer.
    """

    TimeoutError = errors.TimeoutError

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        backend: Backend | None = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: ResultBase | None = None,
    ) -> None:
        if not id:
            raise ValueError("a result needs a task's id")
        self.id = id
        self.parent = parent
        self.ignored = False
        self._app = app
        self._backend = backend
        self._final: StoredResult | None = None
        self._on_ready: Promise | None = None

    @property
    def app(self) -> Celery:
        """The app whose result store it asks."""
        return self._app if self._app is not None else current.get_app()

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    @property
    def backend(self) -> Backend:
        """The result store."""
        return self._backend if self._backend is not None else self.app.backend

    @backend.setter
    def backend(self, backend: Backend | None) -> None:
        self._backend = backend

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    @task_id.setter
    def task_id(self, task_id: str) -> None:
        self.id = task_id

    # Waiting.

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
        EXCEPTION_STATES: frozenset[str] = states.EXCEPTION_STATES,  # noqa: N803 - Celery's name
        PROPAGATE_STATES: frozenset[str] = states.PROPAGATE_STATES,  # noqa: N803
    ) -> R:
        """Wait for the result, ``timeout`` seconds (None: for ever), and return it.

        The broker pushes it, and so does Redis; other stores are read every ``interval`` seconds.
        ``on_interval()`` is called as often, ``on_message(record)`` with the result as Celery's record,
        ``callback(id, value)`` with the value. ``follow_parents`` raises the error of an earlier step of the
        chain as soon as it is there. ``no_ack`` has no meaning here. A task that ignores its result has None
        at once.

        Raises:
            TimeoutError: not final in time.
            Exception: the task's, by its class where that is loaded or belongs to the project
                (``propagate=False`` returns it).
            RuntimeError: called inside a task, which could wait for itself; ``disable_sync_subtasks=False``
                and ``allow_join_result()`` allow it.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            assert_will_not_block()
        follow = follow_parents and propagate
        if follow:
            self._throw_of_parents()
        stored = self._final
        if stored is None:
            ancestors = self._ancestors(headers=self.app.over_kombu) if follow else {}
            stored = self._waited(timeout, interval, on_interval, ancestors)
            if follow and stored.state in PROPAGATE_STATES:
                # What failed in front of it may have been told at the same moment.
                self._throw_of_parents(ask=True)
            if on_message is not None:
                on_message(self.backend.record_of(self.id, stored))
        return self._given(stored, propagate, callback, PROPAGATE_STATES)  # type: ignore[no-any-return]

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *,
        follow_parents: bool = True,
        callback: Callable[[str, Any], object] | None = None,
    ) -> R:
        """Wait for the result without blocking the event loop; as ``get`` otherwise.

        It may be used inside a task: nobody is kept from running while it waits. Being cancelled ends the
        waiting, not the task.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        follow = follow_parents and propagate
        if follow:
            self._throw_of_parents()
        stored = self._final
        if stored is None:
            ancestors = self._ancestors(headers=self.app.over_kombu) if follow else {}
            with self.backend.arrivals_async([self.id, *ancestors], timeout) as arrivals:
                async for task_id, arrived in arrivals:
                    if task_id == self.id:
                        stored = self._settle(arrived)
                        break
                    ancestors[task_id]._settle(arrived)
                    if arrived.state in states.PROPAGATE_STATES:
                        await self._athrow_of_parents()
            assert stored is not None
            if follow and stored.state in states.PROPAGATE_STATES:
                await self._athrow_of_parents()
        return self._given(stored, propagate, callback)  # type: ignore[no-any-return]

    def _given(
        self,
        stored: StoredResult,
        propagate: bool,
        callback: Callable[[str, Any], object] | None,
        propagate_states: frozenset[str] = states.PROPAGATE_STATES,
    ) -> Any:
        if propagate and stored.state in propagate_states:
            raise later.exception_of(stored, self.app)
        value = later.value_of(stored, self.app)
        if callback is not None:
            callback(self.id, value)
        return value

    def _waited(
        self,
        timeout: float | None,
        interval: float,
        on_interval: Callable[[], object] | None,
        ancestors: dict[str, AsyncResult[Any]],
    ) -> StoredResult:
        arrivals = self.backend.arrivals([self.id], timeout, interval, on_interval, before=ancestors)
        for task_id, stored in arrivals:
            if task_id == self.id:
                return self._settle(stored)
            ancestors[task_id]._settle(stored)
            if stored.state in states.PROPAGATE_STATES:
                self._throw_of_parents(ask=True)
        raise AssertionError("unreachable: arrivals raises when the time is over")

    def _ancestors(self, *, headers: bool = True) -> dict[str, AsyncResult[Any]]:
        """Return the results before it in its chain that aren't final yet, by id.

        ``headers=False`` leaves out those of groups: where our broker counts, a chord's body fails as soon
        as a part of its header does, so that nobody needs to wait for each part.
        """
        return {member.id: member for member in self._before_it(headers=headers) if not member._known()}

    def _throw_of_parents(self, *, ask: bool = False) -> None:
        """Raise the error of the earliest step that failed; ``ask`` the store for those that aren't known.

        The first of them is the cause: what comes after a failed chord has its ChordError.
        """
        if ask and (unknown := self._ancestors()):
            for task_id, stored in self.backend.stored(list(unknown)).items():
                if stored is not None and stored.state in states.READY_STATES:
                    unknown[task_id]._settle(stored)
        for member in self._before_it():
            if member._known() and not member.ignored:
                member.maybe_throw()

    async def _athrow_of_parents(self) -> None:
        """Do as ``_throw_of_parents(ask=True)``, where the store is asked by another thread."""
        if self.parent is not None:
            import asyncio  # noqa: PLC0415 - its caller runs in its loop

            await asyncio.to_thread(self._throw_of_parents, ask=True)

    def _before_it(self, *, headers: bool = True) -> Iterator[AsyncResult[Any]]:
        """Yield the results before it in its chain, the earliest first."""
        before = []
        node = self.parent
        while node is not None:
            before.append(node)
            node = node.parent
        for node in reversed(before):
            if headers or isinstance(node, AsyncResult):
                yield from leaves(node)

    def _known(self) -> bool:
        """Return whether nothing has to be asked or waited for to tell the result."""
        return self._final is not None or self.ignored

    def _throw_if_failed(self, stored: StoredResult) -> None:
        self._settle(stored)
        if stored.state in states.PROPAGATE_STATES:
            raise later.exception_of(stored, self.app)

    # What is stored.

    def _stored(self) -> StoredResult | None:
        """Return what the store has now; None: nothing, which reads as PENDING."""
        if self._final is not None:
            return self._final
        stored = self.backend.stored([self.id]).get(self.id)
        if stored is not None and stored.state in states.READY_STATES:
            self._settle(stored)
        return stored

    def _settle(self, stored: StoredResult) -> StoredResult:
        """Keep a final result, and call who waits for it by ``then``."""
        self._final = stored
        if self._on_ready is not None:
            self._on_ready(self)
        return stored

    @property
    def supports_native_join(self) -> bool:
        """Whether many results are waited for at once."""
        return self.backend.supports_native_join

    def _get_task_meta(self) -> dict[str, Any]:
        stored = self._stored()
        return self.backend.meta_of(self.id, stored)

    # Raising.

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> Any:
        """Raise the task's exception if it failed or was revoked; return its value otherwise."""
        stored = self._stored()
        return None if stored is None else self._given(stored, propagate, callback)

    maybe_reraise = maybe_throw

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise an exception as this result's; of its promise's ``on_error``, see ``then``."""
        self.on_ready.throw(*args, **kwargs)

    # Callbacks.

    @property
    def on_ready(self) -> Promise:  # type: ignore[override]
        """The promise that ``then`` adds to."""
        if self._on_ready is None:
            self._on_ready = later.Promise()
            if self._final is not None:
                self._on_ready(self)
        return self._on_ready

    def then(
        self,
        callback: Callable[..., Any],
        on_error: Callable[[BaseException], Any] | None = None,
        weak: bool = False,
    ) -> Promise:
        """Have ``callback(result)`` called when the result is final, however the task ended.

        At once if it is known to be; else from the thread that hears of it first: one of ours, or that in
        which ``get`` is waiting. What the callback raises goes to ``on_error``. ``weak``: only while
        somebody else holds this result.
        """
        promise = self.on_ready.then(callback, on_error)
        if not self._known():
            self.backend.tell_when_final(self, weak=weak)
        return promise

    def as_tuple(self) -> Any:
        """Return ``((id, parent), None)``."""
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[Any]:
        """Return its id and those of its parents."""
        parents: Any = self.parent
        return [self.id, *(parents.as_list() if parents is not None else ())]

    # Orders.

    def forget(self) -> None:
        """Have the store drop the result, and those of its parents."""
        self._final = None
        self.__dict__.pop("_children", None)
        if self.parent is not None:
            self.parent.forget()
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: object = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> str | None:
        """Have the broker revoke the task; ``terminate`` ends it also when it runs, by ``signal`` (SIGTERM).

        Returns what became of it (``revoked``, ``terminating`` or ``finished``); nothing is to be waited for.
        """
        return self.backend.revoke([self.id], terminate, signal, timeout).get(self.id)

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: object = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> Any:
        """Revoke the tasks with these stamps (app.control.revoke_by_stamped_headers)."""
        control: Any = self.app.control
        return control.revoke_by_stamped_headers(
            headers, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __copy__(self) -> AsyncResult[R]:
        return type(self)(self.id, self._backend, None, self._app, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, None, None, None, self.parent)


def leaves(node: Any) -> list[AsyncResult[Any]]:
    """Return the results of tasks in a result or a set of them, however nested."""
    if isinstance(node, AsyncResult):
        return [node]
    return [leaf for member in node.results for leaf in leaves(member)]
