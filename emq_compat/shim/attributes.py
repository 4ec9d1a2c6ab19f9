"""The attributes of a task: Celery's names and defaults; some are settings until they are set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from emq_compat.shim import exceptions

if TYPE_CHECKING:
    from datetime import datetime

    from emq_compat.shim.app import Celery

__all__ = ["FROM_CONFIG", "TERMS", "Attributes", "FromSetting"]

T = TypeVar("T")


class FromSetting(Generic[T]):
    """An attribute that is the app's setting until a class, an option or an assignment gives it a value."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    @overload
    def __get__(self, task: None, owner: type) -> None: ...
    @overload
    def __get__(self, task: Attributes, owner: type) -> T: ...
    def __get__(self, task: Attributes | None, owner: type) -> T | None:
        return None if task is None else task.app.conf[self.setting]


class _Acknowledges(FromSetting[bool]):
    """``acks_on_failure`` or ``acks_on_timeout``: the setting, else what was said of both, else True."""

    def __get__(self, task: Attributes | None, owner: type) -> Any:
        if task is None:
            return None
        own = task.app.conf[self.setting]
        return bool(task.acks_on_failure_or_timeout if own is None else own)


class _AppsBackend:
    """The app's result store until a class, an option or an assignment names another."""

    def __get__(self, task: Attributes | None, owner: type) -> Any:
        return None if task is None else task.app.backend


class Attributes:
    """What a decorator's options, a class body, an assignment or ``task_annotations`` may set.

    Any other name is kept as an attribute, too, for the project's own use.
    """

    #: Its registered name; empty: given by the app (``module.function``).
    name: str = ""
    #: Whether a class is a base only, never registered itself (Celery 3).
    abstract: bool = True
    #: Tries after the first one; None: without end.
    max_retries: int | None = 3
    #: Seconds before a retry that names no time.
    default_retry_delay: float = 180
    #: Where it is sent; None: the app's task_default_queue. AMQP's nameless exchange routes by a queue's
    #: name, so that a routing_key without an exchange names a queue, too.
    queue: Any = None
    routing_key: str | None = None
    exchange: Any = None
    exchange_type: str | None = None
    #: AMQP's; messages here are always on disk.
    delivery_mode: int | None = None
    #: Seconds, or a time, after which it isn't run any more; None: never.
    expires: float | datetime | None = None
    #: Whether delay() checks arguments against the signature of ``run``.
    typing: bool = True
    #: Whether ``request.children`` and the result keep what a run publishes.
    trail: bool = True
    #: Exceptions after which it is tried again by itself, and those of them after which it isn't.
    autoretry_for: Sequence[type[BaseException]] = ()
    dont_autoretry_for: Sequence[type[BaseException]] = ()
    #: Arguments of ``retry`` for that; the pause then grows with ``retry_backoff`` (True, or seconds).
    retry_kwargs: Mapping[str, Any] = MappingProxyType({})
    retry_backoff: bool | float = False
    retry_backoff_max: int = 600
    retry_jitter: bool = True
    #: Whether its arguments and its result are pydantic models (models.py).
    pydantic: bool = False
    #: Exceptions that are expected: logged without a traceback.
    throws: Sequence[type[BaseException]] = ()
    #: Characters of a result's repr in logs and events.
    resultrepr_maxsize: int = 1024
    #: Whether the worker tells events of it, where it tells events at all.
    send_events: bool = True
    #: Ours (docs/own_features.md): no second call with the same key while the first one holds it.
    unique_for: float | None = None
    unique_key: Any = None
    unique_until: str | None = None
    on_duplicate: str | None = None
    #: Over all workers: how many run at once, and how often one is handed out; of each key, or of the task.
    concurrency_key: Any = None
    concurrency_limit: int | None = None
    global_rate_limit: Any = None
    rate_limit_key: Any = None
    #: What is published, or a method that is called, when it is not tried any more.
    on_retries_exhausted: Any = None
    #: Celery's worker asks these how a message is started and what its parent process does with it. There is
    #: one way here: another class is warned about when the task is declared.
    Strategy: Any = "celery.worker.strategy:default"
    Request: Any = "celery.worker.request:Request"

    priority: FromSetting[int | None] = FromSetting("task_default_priority")
    acks_late: FromSetting[bool] = FromSetting("task_acks_late")
    acks_on_failure_or_timeout: FromSetting[bool] = FromSetting("task_acks_on_failure_or_timeout")
    acks_on_failure: FromSetting[bool] = _Acknowledges("task_acks_on_failure")
    acks_on_timeout: FromSetting[bool] = _Acknowledges("task_acks_on_timeout")
    reject_on_worker_lost: FromSetting[bool | None] = FromSetting("task_reject_on_worker_lost")
    retry_on_worker_lost: FromSetting[bool] = FromSetting("task_retry_on_worker_lost")
    ignore_result: FromSetting[bool] = FromSetting("task_ignore_result")
    track_started: FromSetting[bool] = FromSetting("task_track_started")
    #: Hard and soft limit of a run, in seconds; None: no limit.
    time_limit: FromSetting[float | None] = FromSetting("task_time_limit")
    soft_time_limit: FromSetting[float | None] = FromSetting("task_soft_time_limit")
    rate_limit: FromSetting[Any] = FromSetting("task_default_rate_limit")
    serializer: FromSetting[str] = FromSetting("task_serializer")
    compression: FromSetting[str | None] = FromSetting("task_compression")
    store_errors_even_if_ignored: FromSetting[bool] = FromSetting("task_store_errors_even_if_ignored")
    store_eager_result: FromSetting[bool] = FromSetting("task_store_eager_result")
    #: Where its results are; None, or not set: where the app's are.
    backend: _AppsBackend = _AppsBackend()

    MaxRetriesExceededError: ClassVar[type[exceptions.MaxRetriesExceededError]] = (
        exceptions.MaxRetriesExceededError
    )
    OperationalError: ClassVar[type[BaseException]] = exceptions.OperationalError

    #: (attribute, setting) of those that are settings until they are set; Celery's name for it.
    from_config: ClassVar[tuple[tuple[str, str], ...]] = ()

    #: The module whose import declared it; None: it was declared at run time.
    declared_in: str | None = None
    __wrapped__: Callable[..., Any]
    __trace__: ClassVar[None] = None
    __v2_compat__: ClassVar[bool] = False

    @property
    def app(self) -> Celery:
        """The app it belongs to."""
        raise NotImplementedError


#: The options, of a task and of a call, that keys are made of (call_terms.py).
TERMS = (
    "unique_for", "unique_key", "unique_until", "on_duplicate",
    "concurrency_key", "concurrency_limit", "global_rate_limit", "rate_limit_key",
)  # fmt: skip

#: attribute → setting.
FROM_CONFIG: dict[str, str] = {
    name: value.setting for name, value in vars(Attributes).items() if isinstance(value, FromSetting)
}
Attributes.from_config = tuple(FROM_CONFIG.items())
