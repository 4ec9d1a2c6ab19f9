"""The half of an app that publishes: its connection to the broker, and calls of tasks by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from emq_compat.shim import current, later
from emq_compat.shim.checks import priority_of
from emq_compat.shim.connecting import Connecting
from emq_compat.shim.exceptions import AlwaysEagerIgnored, NoImportablePath
from emq_compat.shim.registry import TaskRegistry
from emq_compat.shim.symbols import instantiate

if TYPE_CHECKING:
    from emq_compat.message import Publish
    from emq_compat.shim.amqp import AMQP
    from emq_compat.shim.app import Celery
    from emq_compat.shim.backend import Backend
    from emq_compat.shim.build import Plan
    from emq_compat.shim.events.system import Events
    from emq_compat.shim.pipeline import Pipeline, Publisher
    from emq_compat.shim.results.single import AsyncResult as Result

__all__ = ["Sender"]


class Sender(Connecting):
    """What Celery() has to do with publishing."""

    _tasks: TaskRegistry
    #: The class of ``amqp``, or its dotted path.
    amqp_cls: Any = "emq_compat.shim.amqp:AMQP"

    def __init__(
        self, changes: Mapping[str, Any], config_source: Any, namespace: str | None, *, silent: bool = False
    ) -> None:
        super().__init__(changes, config_source, namespace, silent=silent)
        self._amqp: AMQP | None = None
        self._plans: dict[str, Plan] = {}
        self._client: Publisher | None = None
        self._client_is_given = False
        self._backend: Backend | None = None
        self._backend_is_given = False
        self._seen_version = -1
        self._connection: tuple[object, ...] = ()
        #: As far as the settings were read; see ``over_kombu``.
        self._over_kombu = False
        self._eager = False
        self._sends_sent = False
        self._retry_policy: Mapping[str, Any] | None = None

    def _refresh(self) -> None:
        """Take over what depends on settings that have changed."""
        conf = self.conf
        if conf.version == self._seen_version:
            return
        len(conf)  # settings that are unread yet are read now: that is a change, too
        self._seen_version = conf.version
        if not self._backend_is_given:
            self._backend = None
        self._eager = bool(conf.task_always_eager)
        self._sends_sent = bool(conf.task_send_sent_event)
        self._retry_policy = None
        if "task_publish_retry_policy" in conf.changes and conf.task_publish_retry:
            self._retry_policy = conf.task_publish_retry_policy
        connection: tuple[object, ...] = (
            self.broker_url, conf.broker_connection_timeout, conf.broker_pool_limit
        )  # fmt: skip
        over_kombu = later.is_kombu(self.broker_url)
        if over_kombu:
            connection += (
                conf.broker_transport_options, conf.broker_use_ssl, conf.broker_login_method,
                conf.broker_failover_strategy, conf.task_publish_retry, conf.task_default_delivery_mode,
                conf.result_backend,
            )  # fmt: skip
        if connection != self._connection:
            self._connection = connection
            self._over_kombu = over_kombu
            self._kombu_pools = None
            if not self._client_is_given:
                self._client = None

    @property
    def broker_url(self) -> str:
        """Where tasks are published: Celery's environment variable, the settings, then EMQ_BROKER_ADDR."""
        url = self.conf.broker_write_url or os.environ.get("EMQ_BROKER_ADDR") or later.DEFAULT_URL
        return url if isinstance(url, str) else ";".join(url)

    @property
    def eager(self) -> bool:
        """Whether delay() runs tasks here (task_always_eager)."""
        self._refresh()
        return self._eager

    @property
    def client(self) -> Publisher:
        """The connection to the broker; set it to use another one (a test's)."""
        self._refresh()
        if self._client is None and self._over_kombu:
            self._client = later.client_of(self)
        if self._client is None:
            from emq_compat.client import Client, client_for  # noqa: PLC0415 - it brings ZeroMQ

            url, conf = self.broker_url, self.conf
            if "broker_connection_timeout" in conf.changes or "broker_pool_limit" in conf.changes:
                limit_s = conf.broker_connection_timeout or 4.0
                self._client = Client(url, timeout_s=limit_s, pool_limit=conf.broker_pool_limit or 0)
            else:
                self._client = client_for(url)
        return self._client

    @client.setter
    def client(self, client: Publisher | None) -> None:
        self._client = client
        self._client_is_given = client is not None
        self._plans.clear()
        self.conf.touch()

    @property
    def over_kombu(self) -> bool:
        """Whether the broker is RabbitMQ, Redis or another one that kombu speaks to: it counts no chords."""
        self._refresh()
        return self._over_kombu and not self._client_is_given

    @property
    def reply_to(self) -> str:
        """The queue that results of this process come to (``rpc://``); empty: they are kept elsewhere."""
        if not self.over_kombu or not self.backend.store.addressed:
            return ""
        return self.backend.store.reply_to

    @property
    def stock(self) -> bool:
        """Whether the broker is a stock eventmq router, which confirms nothing and keeps no results."""
        return self.client.stock

    @property
    def retry_policy(self) -> Mapping[str, Any] | None:
        """How often a publish is tried beyond what the client does by itself (task_publish_retry_policy)."""
        self._refresh()
        return self._retry_policy

    @property
    def backend(self) -> Backend:
        """Where results are (result_backend)."""
        self._refresh()
        if self._backend is None:
            self._backend = later.backend_of(cast("Celery", self))
        return self._backend

    @backend.setter
    def backend(self, backend: Backend | None) -> None:
        self._backend = backend
        self._backend_is_given = backend is not None
        self.conf.touch()

    @property
    def backend_cls(self) -> Any:
        """What says where results are: the setting, or the backend's class."""
        return self.conf.result_backend or later.EmqBackend

    @property
    def sent_events(self) -> Events | None:
        """What events task-sent are sent by (task_send_sent_event); None: they aren't."""
        self._refresh()
        return cast("Celery", self).events if self._sends_sent and not self.stock else None

    def tries(self, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the retry policy of a publish with these options: ``retry`` and ``retry_policy``."""
        if not options.get("retry", True):
            return None
        return options.get("retry_policy") or self.retry_policy

    def publish(self, message: Publish, retry_policy: Mapping[str, Any] | None = None) -> str | None:
        """Publish a message, or have the open pipeline collect it.

        Returns the id of the task that is there in its place, if it is a unique one that joins another:
        nothing was published then.

        Raises:
            OperationalError: not confirmed in time, or refused; it is kombu's OperationalError, too.
        """
        client, first = self.client, None
        announcement = later.announced(message, retry_policy, self.sent_events if self._sends_sent else None)
        if announcement is not None:
            message = announcement.message
        pipeline = later.pipeline_of(client)
        try:
            if pipeline is not None:
                pipeline.add(message)
            else:
                first = later.publish_with_tries(client, message, retry_policy)
        except BaseException as exc:
            if announcement is not None:
                announcement.dropped(exc)
            raise
        if announcement is not None:
            announcement.published() if first is None else announcement.dropped()
        return first

    @property
    def collects(self) -> bool:
        """Whether what is published here and now is collected, and leaves later."""
        return later.pipeline_of(self.client) is not None

    @property
    def amqp(self) -> AMQP:
        """The app's queues and routes."""
        if self._amqp is None:
            self._amqp = instantiate(self.amqp_cls, self)
        return self._amqp

    def select_queues(self, queues: Sequence[str] | None = None) -> None:
        """Have a worker of this app listen on these queues only."""
        self.amqp.queues.select(queues)

    def pipeline(self) -> Pipeline:
        """Return a context manager: what is published inside is confirmed as a whole when it ends."""
        return later.Pipeline(self.client)

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Result[Any]:
        """Publish a call of a task by its name, which need not be registered here.

        Options and errors are those of Task.apply_async.
        """
        if self.eager:
            warnings.warn(AlwaysEagerIgnored("send_task publishes even with task_always_eager"), stacklevel=2)
        plan = self._plans.get(name)
        if plan is None or plan.version != self.conf.version:
            plan = self._plans[name] = self._plan_by_name(name)
        if plan.by_call or not options.keys().isdisjoint(later.ADDRESS):
            options = self.amqp.addressed(plan, options, args, kwargs, self._tasks.get(name))
        frame = current.frame_var.get()
        read = later.read_options(plan, self.conf, options, None if frame is None else frame.request)
        collected = read.terms is not None and self.collects
        message = later.build_with(plan, args or (), kwargs or {}, read, collected=collected)
        first = self.publish(message, self.tries(options))
        result: Result[Any] = (options.get("result_cls") or later.AsyncResult)(
            first or message.headers.task_id, app=cast("Celery", self)
        )
        result.ignored = read.ignore_result
        return result

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Result[Any]:
        """``send_task`` for coroutines: the loop goes on until the broker has confirmed."""
        app = cast("Celery", self)
        policy = self.tries(options)
        return await later.published(app, lambda: self.send_task(name, args, kwargs, **options), policy)

    def _plan_by_name(self, name: str) -> Plan:
        """Return the plan of a task known by its name, which by Celery's rule tells its path, too."""
        module, _, attribute = name.rpartition(".")
        path = later.TaskPath(path=module or "__main__", callable=attribute or name)
        if name in self._tasks:
            try:
                path = later.path_of(self._tasks[name])
            except NoImportablePath:
                if self.stock:
                    raise
        destination = self.amqp.destination(name, self._tasks.get(name))
        priority = self.conf.task_default_priority if destination.priority is None else destination.priority
        return later.Plan(
            name=name,
            path=path,
            queue=destination.queue,
            by_call=destination.by_call,
            version=self.conf.version,
            stock=self.stock,
            priority=priority_of(priority or 0),
            ignore_result=bool(self.conf.task_ignore_result),
            keeps_errors=bool(self.conf.task_store_errors_even_if_ignored),
            epilogue=not self.stock and not self.backend.kept_by_broker,
            keep_s=None if self.stock else later.seconds_kept(self.conf),
            serializer=self.conf.task_serializer,
            compression=self.conf.task_compression,
            terms=later.call_terms(self._tasks[name], name) if name in self._tasks else None,
            over_kombu=self.over_kombu,
        )
