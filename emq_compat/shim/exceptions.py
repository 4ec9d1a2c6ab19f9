"""Celery's exceptions under Celery's names, and the two of kombu that publishing raises.

``except kombu.exceptions.OperationalError`` must catch what ``delay()`` raises, but importing kombu costs
more than the rest of the shim together. So nothing here imports it: ``join_kombu`` gives OperationalError and
EncodeError kombu's classes as bases when the first of them is about to be raised. An ``except`` clause is
evaluated after that, whenever the caller imported kombu.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.errors import EmqError, OperationalError

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

__all__ = [
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "EncodeError",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NoImportablePath",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "QueueNotFound",
    "Reject",
    "RemoteTraceback",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "join_kombu",
    "reraise",
]


class CeleryWarning(UserWarning):
    """The root of the warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """send_task doesn't run tasks in place, whatever task_always_eager says."""


class DuplicateNodenameWarning(CeleryWarning):
    """Two workers have the same name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """A second callable was registered under a task's name."""


class FixupWarning(CeleryWarning):
    """A fix-up couldn't be applied."""


class NotConfigured(CeleryWarning):
    """No configuration was found."""


class SecurityWarning(CeleryWarning):
    """The set-up is insecure."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Something will be deprecated."""


class CDeprecationWarning(DeprecationWarning):
    """Something is deprecated."""


class CeleryError(Exception):
    """The root of the errors that Celery code catches."""


class ImproperlyConfigured(CeleryError):
    """A setting, or how a task is declared, is wrong."""


class NoImportablePath(ImproperlyConfigured):
    """A task can't be reached by importing a module (``shim/paths.py`` has the rules)."""


class SecurityError(CeleryError):
    """Something isn't trusted."""


class TaskPredicate(CeleryError):
    """What a task raises to end in another way than by returning or failing."""


class Retry(TaskPredicate):
    """The task is to be tried again later.

    ``exc`` is what made it fail, ``when`` the delay in seconds or the time of the next try.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
    ) -> None:
        self.message = message
        self.exc = exc if isinstance(exc, BaseException) else None
        self.excs = exc if isinstance(exc, str) else _repr(exc) if exc is not None else None
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        super().__init__(message, exc, when)

    def humanize(self) -> str:
        """Return when the next try is, in words."""
        return f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}: {self.excs}" if self.excs else f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.exc, self.when)


class Ignore(TaskPredicate):
    """A task raises this to have nothing recorded."""


class Reject(TaskPredicate):
    """A task raises this to have its message dropped to the dead letters, or put back (``requeue=True``)."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class TaskError(CeleryError):
    """Something is wrong with a task."""


class QueueNotFound(KeyError, TaskError):
    """A task was routed to a queue that isn't declared."""


class IncompleteStream(TaskError):
    """A stream ended too early."""


class NotRegistered(KeyError, TaskError):
    """No task of this name is registered."""

    def __repr__(self) -> str:
        return f"Task of kind {self} never registered, please make sure it's imported."


class AlreadyRegistered(TaskError):
    """A task of this name is registered already."""


class TimeoutError(TaskError):  # noqa: A001 - Celery's name
    """The result wasn't there in time."""


class MaxRetriesExceededError(TaskError):
    """The task has been tried as often as max_retries allows."""

    def __init__(
        self,
        *args: object,
        task_args: Sequence[Any] = (),
        task_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.task_args = task_args
        self.task_kwargs = task_kwargs or {}
        super().__init__(*args)


class TaskRevokedError(TaskError):
    """The task was revoked: there is no result."""


class InvalidTaskError(TaskError):
    """A message isn't a task."""


class ChordError(TaskError):
    """A task of a chord's header failed."""


class BackendError(Exception):
    """The result store couldn't be read or written."""


class BackendGetMetaError(BackendError):
    """A result couldn't be read."""

    def __init__(self, *args: object, task_id: str = "") -> None:
        self.task_id = task_id
        super().__init__(*args)


class BackendStoreError(BackendError):
    """A result couldn't be written."""

    def __init__(self, *args: object, state: str = "", task_id: str = "") -> None:
        self.state = state
        self.task_id = task_id
        super().__init__(*args)


class SoftTimeLimitExceeded(Exception):
    """Raised inside a task that runs longer than its soft time limit; its argument is the limit, if known."""

    def __str__(self) -> str:
        return _with_limit(self)


class TimeLimitExceeded(Exception):
    """A task ran longer than its hard time limit, in seconds, and was ended."""

    def __str__(self) -> str:
        return _with_limit(self)


class WorkerLostError(Exception):
    """The process that ran the task is gone."""


class Terminated(Exception):
    """The process that ran the task was ended on request."""


class WorkerTerminate(SystemExit):
    """Ends the worker at once."""


class WorkerShutdown(SystemExit):
    """Ends the worker once its tasks are done."""


class EncodeError(EmqError, TypeError):
    """A value can't be carried by a message or a result."""


class RemoteTraceback(Exception):
    """The traceback of the worker, as the cause of the exception that ``get()`` raises."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def join_kombu() -> None:
    """Make OperationalError and EncodeError kombu's too; called just before one of them leaves the shim.

    Takes the time of importing kombu.exceptions, once, and only where something went wrong.
    """
    try:
        from kombu import exceptions as kombu  # noqa: PLC0415 - heavy, and only needed here
    except ImportError:  # a user can't name its classes then
        return
    if not issubclass(OperationalError, kombu.OperationalError):
        OperationalError.__bases__ = (EmqError, kombu.OperationalError)
    if not issubclass(EncodeError, kombu.EncodeError):
        EncodeError.__bases__ = (EmqError, kombu.EncodeError, TypeError)


def reraise(tp: type[BaseException], value: BaseException, tb: TracebackType | None = None) -> None:
    """Raise ``value`` with the traceback ``tb``."""
    if value.__traceback__ is not tb:
        raise value.with_traceback(tb)
    raise value


def _with_limit(exc: BaseException) -> str:
    """Return what Celery says of a time limit: the class's name with the seconds in parentheses."""
    given = (f"{arg:g}" if isinstance(arg, float) else str(arg) for arg in exc.args)
    return f"{type(exc).__name__}({', '.join(given)})"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - an exception's own __repr__ may fail
        return f"<{type(value).__name__}>"
