"""What became of a task: AsyncResult, over the broker's results, and EagerResult, of a task run in place."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from emq_compat.client import StoredResult
from emq_compat.message import new_id
from emq_compat.shim import current, states
from emq_compat.shim import exceptions as errors
from emq_compat.shim.codec import revive
from emq_compat.shim.exceptions import ImproperlyConfigured, TaskRevokedError
from emq_compat.shim.pipeline import Publisher, pipeline_of
from emq_compat.shim.remote_error import exception_from

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["AsyncResult", "EagerResult"]

R = TypeVar("R")
T = TypeVar("T")


class AsyncResult(Generic[R]):
    """A task's result by its id; asks the broker when it is asked, and keeps what is final.

    Any method that needs the result raises ImproperlyConfigured naming result_backend where the broker is a
    stock eventmq router, which keeps none, and OperationalError when the broker doesn't answer.
    """

    TimeoutError = errors.TimeoutError

    def __init__(
        self,
        id: str,  # noqa: A002 - Celery's name
        backend: object = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: AsyncResult[Any] | None = None,
    ) -> None:
        if not id:
            raise ValueError("a result needs a task's id")
        self.id = id
        self.parent = parent
        self.ignored = False
        self._app = app
        self._final: StoredResult | None = None

    @property
    def app(self) -> Celery:
        """The app whose broker keeps the result."""
        return self._app if self._app is not None else current.get_app()

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

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
        """Wait for the result, which the broker pushes, ``timeout`` seconds (None: for ever), and return it.

        ``interval``, ``no_ack`` and ``on_interval`` belong to Celery's polling and AMQP stores; nothing is
        polled here. A task that ignores its result has None at once.

        Raises:
            TimeoutError: not final in time.
            Exception: the task's, by its class where that is loaded here (``propagate=False`` returns it).
            RuntimeError: called inside a task, which could wait for itself; ``disable_sync_subtasks=False``
                allows it.
        """
        if self.ignored:
            return None  # type: ignore[return-value]
        if disable_sync_subtasks:
            _refuse_inside_task()
        if follow_parents and propagate and self.parent is not None:
            self.parent.maybe_throw()
        stored = self._final
        if stored is None:
            stored = self._final = self._waited(timeout)
        if propagate and stored.state in PROPAGATE_STATES:
            raise self._exception(stored)
        value = self._value(stored)
        if callback is not None:
            callback(self.id, value)
        return value  # type: ignore[no-any-return]

    wait = get

    def _waited(self, timeout: float | None) -> StoredResult:
        client = self.app.client
        pipeline = pipeline_of(client)
        if pipeline is not None and any(m.headers.task_id == self.id for m in pipeline.messages):
            raise RuntimeError(f"task {self.id} is published when its pipeline's block ends, not before")
        late = errors.TimeoutError(f"task {self.id} isn't done after {timeout} s")
        if timeout is not None and timeout <= 0:
            stored = self._stored()
            if stored is None or stored.state not in states.READY_STATES:
                raise late
            return stored
        client = self._store()
        try:
            for _, stored in client.wait([self.id], timeout):
                return stored
        except builtins.TimeoutError as exc:
            raise late from exc
        except errors.OperationalError:
            errors.join_kombu()
            raise
        raise late

    def _store(self) -> Publisher:
        """Return the client, whose broker keeps results; raises ImproperlyConfigured where it doesn't."""
        client = self.app.client
        if client.stock:
            raise ImproperlyConfigured(
                "a stock eventmq router keeps no results: set result_backend, or use an emq:// broker"
            )
        return client

    def _stored(self) -> StoredResult | None:
        """Return what the broker has now; None: nothing, which reads as PENDING."""
        if self._final is not None:
            return self._final
        stored = self._asked(lambda client: client.results([self.id])).get(self.id)
        if stored is not None and stored.state in states.READY_STATES:
            self._final = stored
        return stored

    def _asked(self, ask: Callable[[Publisher], T]) -> T:
        """Ask the broker; where it doesn't answer, the OperationalError is kombu's, too."""
        client = self._store()
        try:
            return ask(client)
        except errors.OperationalError:
            errors.join_kombu()
            raise

    def _exception(self, stored: StoredResult) -> BaseException:
        reply = stored.reply
        error = reply.get("error")
        if not isinstance(error, dict):
            if stored.state == states.REVOKED:
                return TaskRevokedError(str(reply.get("value") or "revoked"))
            text = error or reply.get("value")
            error = {"type": "Exception", "args": [text], "message": str(text)}
        if "args" in error:
            error = {**error, "args": revive(error["args"])}
        return exception_from(error, str(reply.get("traceback") or ""))

    def _value(self, stored: StoredResult) -> Any:
        if stored.state in states.EXCEPTION_STATES:
            return self._exception(stored)
        return revive(stored.reply.get("value"))

    @property
    def state(self) -> str:
        """The task's state now; PENDING for an id that the broker knows nothing of."""
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
        return None if stored is None else self._value(stored)

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """The worker's traceback as text."""
        stored = self._stored()
        return None if stored is None else stored.reply.get("traceback") or None

    @property
    def children(self) -> list[AsyncResult[Any]] | None:
        """What the task published while it ran; not kept yet: None."""
        return None

    def ready(self) -> bool:
        """Return whether the state is final."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        """Return whether the task returned."""
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        """Return whether the task failed."""
        return self.state == states.FAILURE

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> Any:
        """Raise the task's exception if it failed or was revoked; return its value otherwise."""
        stored = self._stored()
        if stored is None:
            return None
        if propagate and stored.state in states.PROPAGATE_STATES:
            raise self._exception(stored)
        value = self._value(stored)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Have the broker drop the result."""
        self._final = None
        self._asked(lambda client: client.ask("forget", ids=[self.id]))

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
        named = signal or "SIGTERM"
        answer = self._asked(
            lambda client: client.ask("revoke", timeout, ids=[self.id], terminate=terminate, signal=named)
        )
        return answer.get(self.id) if isinstance(answer, dict) else None

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return self.id == other.id
        return self.id == other if isinstance(other, str) else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id,)


class EagerResult(AsyncResult[R]):
    """The result of a task that was run in place."""

    def __init__(
        self,
        id: str | None,  # noqa: A002 - Celery's name
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(id or new_id())
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self.name = name

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> R:
        """Return the value, or raise the task's exception (``propagate=False`` returns it)."""
        if self._state in states.PROPAGATE_STATES and propagate:
            raise self._result if isinstance(self._result, BaseException) else Exception(self._result)
        return self._result  # type: ignore[no-any-return]

    wait = get

    def _stored(self) -> StoredResult | None:
        return None

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

    def maybe_throw(
        self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None
    ) -> Any:
        """Raise the task's exception if it failed; return its value otherwise."""
        value = self.get(propagate=propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Nothing: no store has it."""

    def revoke(self, *args: Any, **kwargs: Any) -> str | None:
        """Mark it as revoked: it has run already."""
        self._state = states.REVOKED
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self._result, self._state, self._traceback)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


def _refuse_inside_task() -> None:
    frame = current.frame_var.get()
    if frame is not None and not frame.request.called_directly and not frame.request.is_eager:
        raise RuntimeError(
            "never call result.get() inside a task: all workers may wait for each other; "
            "disable_sync_subtasks=False allows it"
        )


