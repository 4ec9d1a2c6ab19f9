"""What a task can do and ask for while it runs: its request, another try, a state of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

from emq_compat.shim import later
from emq_compat.shim.attributes import Attributes
from emq_compat.shim.current import Frame, RequestStack, frame_var
from emq_compat.shim.exceptions import ImproperlyConfigured, Retry
from emq_compat.shim.states import READY_STATES

if TYPE_CHECKING:
    from datetime import datetime

    from emq_compat.shim.app import Celery
    from emq_compat.shim.request import Context
    from emq_compat.shim.task import Task

__all__ = ["TaskRun"]


class TaskRun(Attributes):
    """Mixed into Task."""

    if TYPE_CHECKING:
        run: Callable[..., Any]

        @property
        def app(self) -> Celery: ...
        @property
        def backend(self) -> Any: ...

    @property
    def request(self) -> Context:
        """This run's Context; where it isn't running an empty one, the same each time."""
        frame = self._frame()
        if frame is not None:
            return frame.request
        request: Context = self.__dict__.setdefault("_default_request", later.Context())
        return request

    @property
    def request_stack(self) -> RequestStack:
        """The requests of this task's runs here, the innermost on ``top``."""
        return RequestStack(cast("Task[..., Any]", self))

    def _frame(self) -> Frame | None:
        frame = frame_var.get()
        while frame is not None and frame.task is not self:
            frame = frame.previous
        return frame

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Have the running task tried again later; raises Retry, which ends this try.

        The message of the next try has the same task id, queue, priority, headers, expiry and time limits;
        it is published in the transaction that ends this try. Of ``args`` and ``kwargs`` what isn't given
        stays, but for parameters that the other one names now. ``countdown`` is in seconds (default:
        default_retry_delay). ``throw=False`` returns the Retry instead, and the task goes on.

        Raises:
            Retry: the task is tried again.
            MaxRetriesExceededError: it has been tried often enough; ``exc`` itself, if it is given.
            BaseException: ``exc``, or a Retry, at once, when no worker runs the task (a plain call).
        """
        frame = self._frame()
        request = frame.request if frame is not None else later.Context()
        if frame is None or request.called_directly:
            _raise(exc or Retry("Task can be retried", None))
        if max_retries is not None:
            frame.max_retries = max_retries
        limit = self.max_retries if max_retries is None else max_retries
        args, kwargs = later.rebound(self.run, request, args, kwargs)
        new_args = request.args if args is None else args
        new_kwargs = request.kwargs if kwargs is None else kwargs
        if limit is not None and (request.retries or 0) >= limit:
            frame.exhausted = True
            if exc is not None:
                _raise(exc)
            raise self.MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{new_args} kwargs:{new_kwargs}",
                task_args=new_args or (),
                task_kwargs=new_kwargs or {},
            )
        if eta is None and countdown is None:
            countdown = self.default_retry_delay
        again = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager)
        if request.is_eager:
            again.sig = (tuple(new_args or ()), dict(new_kwargs or {}))
        else:
            message = later.retry_message(
                frame, args=args, kwargs=kwargs, eta=eta, countdown=countdown, options=options
            )
            announcement = later.announced(message, None, self.app.sent_events)
            frame.publish_later(message if announcement is None else announcement.message)
            if announcement is not None:
                announcement.published()
        if throw:
            raise again
        return again

    def send_event(
        self,
        type_: str,
        retry: bool = True,
        retry_policy: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        """Send an event of one's own, ``group-name``, about the running task; see EventDispatcher.send.

        Without a broker it is dropped.
        """
        request = self.request
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            dispatcher.send(type_, uuid=request.id, **fields)

    def update_state(
        self,
        task_id: str | None = None,
        state: str | None = None,
        meta: Any = None,
        **kwargs: Any,
    ) -> None:
        """Tell a state of the running task, or of the task ``task_id``; ``result.info`` shows ``meta``.

        Of a task that runs here it is told by its worker; a final state is what it ends with if it then
        raises Ignore. None is kept of an eager run without store_eager_result; another task's is put into the
        result backend.

        Raises:
            EncodeError: ``meta`` can't be carried.
            ImproperlyConfigured: no task runs here, and none is named.
        """
        frame = self._frame()
        request = frame.request if frame is not None else self.request
        task_id = task_id or request.id
        if task_id is None:
            raise ImproperlyConfigured("update_state works inside a running task, or with a task_id")
        if state is None:
            return
        if task_id != request.id:
            self._store().store_result(task_id, meta, state, request=None, **kwargs)
        elif frame is not None and frame.report is not None:
            told = {"value": self._store().carried(meta), "state": state}
            if state in READY_STATES:
                frame.said = state, told["value"]
            else:
                frame.report(state, later.dumps(told).encode())
        elif self.store_eager_result and not request.ignore_result:
            self._store().store_result(task_id, meta, state, request=request, **kwargs)

    def _store(self) -> Any:
        """Return the result backend; the attribute may have been given as None."""
        app: Any = self.app
        return self.backend or app.backend

    def add_trail(self, result: Any) -> Any:
        """Note a result among the children of the run, if the task keeps them (``trail``); returns it."""
        if self.trail:
            self.request.children.append(result)
        return result

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Enter a run with a Context of these attributes; for tests of a task's body."""
        self.request_stack.push(later.Context(*args, **{**vars(self.request), **kwargs}))

    def pop_request(self) -> None:
        """Leave the run that ``push_request`` entered."""
        self.request_stack.pop()


def _raise(exc: BaseException) -> NoReturn:
    """Raise ``exc``; where another exception is being handled, that one is its cause."""
    handled = sys.exc_info()[1]
    if handled is None or handled is exc:
        raise exc
    raise exc from handled

