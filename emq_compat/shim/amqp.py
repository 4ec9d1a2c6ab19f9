"""``app.amqp``: the queues of an app, and which one a task goes to.

Celery's precedence: what a call says, then what the task itself says, then its route, then the defaults. A
queue by its name counts before an exchange and a routing key; those two count together, and lead to the queue
that is bound so. A key alone counts where the default exchange is a topic exchange, as in Celery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emq_compat.shim.current import frame_var
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.shim.queues import Exchange, queue_name
from emq_compat.shim.queues import Queues as Table
from emq_compat.shim.routes import Routes
from emq_compat.shim.task_message import TaskMessage, as_task_v2

if TYPE_CHECKING:
    from emq_compat.shim.build import Plan
    from emq_compat.shim.sender import Sender

__all__ = ["AMQP", "Destination", "Router"]

#: Options that say where a message goes, besides ``queue``.
_ADDRESS: Final = ("exchange", "exchange_type", "routing_key")
#: Beside the queue, what decides where a call goes.
_FURTHER: Final = (*_ADDRESS, "route_name", "router")
#: So many queues that calls have named are remembered with a plan.
_QUEUES_KNOWN: Final = 1000
#: What a task may say of it by its attributes.
_OF_TASKS: Final = ("queue", *_ADDRESS, "priority")
#: What a route may say without being asked at each call.
_IN_PLANS: Final = frozenset((*_OF_TASKS, "delivery_mode"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a task's messages go: a queue, a priority (None: none was said).

    ``by_call``: it depends on the call, so that ``AMQP.send_options`` must be asked at each.
    """

    queue: str
    priority: int | None = None
    by_call: bool = False


class Router:
    """Routes calls by the setting task_routes (Celery's Router)."""

    def __init__(self, app: Sender, routes: Routes, queues: Table) -> None:
        self.app = app
        self.routes = routes
        self.queues = queues

    @property
    def create_missing(self) -> bool:
        """Whether a queue that no setting names may be used."""
        return self.queues.create_missing

    def route(
        self,
        options: Mapping[str, Any],
        name: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> dict[str, Any]:
        """Return a call's options with those of its route, and with the queue as an object.

        Raises:
            QueueNotFound: there is no such queue, and task_create_missing_queues is false.
        """
        said = self.expand_destination(options)
        route = self.routes.lookup(name, args, kwargs, said, task_type)
        merged = self.expand_destination(route or {})
        merged.update({key: value for key, value in said.items() if value is not None})
        if said.get("exchange") is not None and said.get("routing_key") and not said.get("queue"):
            merged.pop("queue", None)
        elif not merged.get("queue") and (merged.get("exchange") is None or not merged.get("routing_key")):
            merged["queue"] = self._by_default(merged)
        return merged

    def _by_default(self, options: Mapping[str, Any]) -> Any:
        """Return the default queue, or the one that a key alone leads to by a default topic exchange."""
        queue = self.queues[self.app.conf.task_default_queue]
        key = options.get("routing_key")
        by_topic = getattr(getattr(queue, "exchange", None), "type", "direct") != "direct"
        if key and by_topic and not self.app.over_kombu:
            return self.queues[self._bound(queue.exchange.name, key)]
        return queue

    def expand_destination(self, route: Mapping[str, Any] | str) -> dict[str, Any]:
        """Return options in which the queue, if they name one, is an object."""
        options = {"queue": route} if isinstance(route, str) else dict(route)
        queue = options.pop("queue", None)
        if queue is not None:
            options["queue"] = self.queues[queue_name(queue)] if isinstance(queue, str) else queue
        return options

    def lookup_route(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> Mapping[str, Any] | None:
        """Return what task_routes says of a call; None: nothing."""
        return self.routes.lookup(name, args, kwargs, options, task_type)

    def queue_of(self, options: Mapping[str, Any]) -> str:
        """Return the name of the queue that the options which ``route`` returned lead to.

        Raises:
            ImproperlyConfigured: no queue is bound so, or several are, or the name can't be one.
        """
        if options.get("queue") is not None:
            return queue_name(options["queue"])
        exchange = options["exchange"]
        return self._bound(getattr(exchange, "name", exchange), options["routing_key"])

    def via(self, options: Mapping[str, Any]) -> tuple[str, tuple[str, str] | None]:
        """Return the queue, and the exchange and key, that such options lead to over a broker of kombu's.

        No exchange and key: the queue's own. An exchange and a key together need no queue of the app's; the
        default queue stands for it.
        """
        queue, key = options.get("queue"), options.get("routing_key")
        exchange = getattr(options.get("exchange"), "name", options.get("exchange"))
        name = queue_name(self.app.conf.task_default_queue if queue is None else queue)
        if exchange and key:
            return name, (str(exchange), str(key))
        own = getattr(queue, "exchange", None)
        kind = options.get("exchange_type") or getattr(own, "type", "direct")
        if kind == "direct" or not (exchange or key):
            return name, None
        conf = self.app.conf
        exchange = exchange or getattr(own, "name", "") or conf.task_default_exchange
        key = key or getattr(queue, "routing_key", None) or conf.task_default_routing_key or name
        return name, (str(exchange), str(key))

    def _bound(self, exchange: str, key: str) -> str:
        """Return the queue that is bound to an exchange by a key; AMQP's nameless exchange takes names."""
        if not exchange:
            return queue_name(self.queues[key])
        found = self.queues.bound(exchange, key)
        if not found and key == exchange:
            return queue_name(self.queues[exchange])
        if len(found) != 1:
            which = f"{', '.join(found)} are" if found else "no queue is"
            raise ImproperlyConfigured(
                f"{which} bound to the exchange {exchange!r} by {key!r}: name a queue, here are only queues"
            )
        return found[0]


class AMQP:
    """What Celery's ``app.amqp`` has, as far as there is no AMQP in it.

    Attributes:
        argsrepr_maxsize, kwargsrepr_maxsize: characters of the arguments' repr in events and logs.
    """

    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024
    queues_cls = Table

    def __init__(self, app: Sender) -> None:
        self.app = app
        self._version = -1
        self._made_of: tuple[object, ...] = ()
        self._routes_of: object = self
        self._router = Router(app, Routes(None), Table())

    def Queues(  # noqa: N802 - Celery's name
        self, queues: Any, create_missing: bool | None = None, **kombu: Any
    ) -> Table:
        """Return a table of queues under the app's settings; without ``queues`` it has the default queue."""
        conf = self.app.conf
        exchange = self.default_exchange
        if not queues and conf.task_default_queue:
            key = conf.task_default_routing_key
            queues = {conf.task_default_queue: {"exchange": exchange, "routing_key": key}}
        if create_missing is None:
            create_missing = bool(conf.task_create_missing_queues)
        return self.queues_cls(
            queues,
            default_exchange=exchange,
            create_missing=create_missing,
            default_routing_key=conf.task_default_routing_key,
        )

    @property
    def default_exchange(self) -> Exchange:
        """The exchange of queues that name none."""
        conf = self.app.conf
        return Exchange(conf.task_default_exchange, conf.task_default_exchange_type)

    @property
    def queues(self) -> Table:
        """The table of queues (task_queues)."""
        return self.router.queues

    @queues.setter
    def queues(self, queues: Any) -> None:
        router = self.router
        router.queues = queues if isinstance(queues, Table) else self.Queues(queues)

    @property
    def default_queue(self) -> Any:
        """The queue of task_default_queue."""
        return self.queues[self.app.conf.task_default_queue]

    @property
    def routes(self) -> tuple[Any, ...]:
        """The routers of task_routes."""
        return tuple(self.router.routes.routers)

    @property
    def router(self) -> Router:
        """The router; made anew where the settings it is made of have changed."""
        conf = self.app.conf
        if conf.version != self._version:
            made_of = (
                conf.task_queues, conf.task_create_missing_queues, conf.task_default_queue,
                conf.task_default_exchange, conf.task_default_exchange_type, conf.task_default_routing_key,
            )  # fmt: skip
            if made_of != self._made_of:
                self._router.queues = self.Queues(conf.task_queues)
                self._made_of = made_of
            if conf.task_routes is not self._routes_of:
                self._router.routes = Routes(conf.task_routes)
                self._routes_of = conf.task_routes
            self._version = conf.version
        return self._router

    def Router(  # noqa: N802 - Celery's name
        self, queues: Table | None = None, create_missing: bool | None = None
    ) -> Router:
        """Return a router of these queues."""
        own = self.router
        if queues is None and create_missing is not None:
            queues = self.Queues(dict(own.queues), create_missing=create_missing)
        return Router(self.app, own.routes, own.queues if queues is None else queues)

    def flush_routes(self) -> None:
        """Read task_routes again: its value was changed in place."""
        self._routes_of, self._version = self, -1

    def destination(self, name: str, task: Any = None) -> Destination:
        """Return where calls of a task go that say nothing of it; ``task``: where it is registered.

        Raises:
            QueueNotFound, ImproperlyConfigured: there is no such queue.
        """
        router = self.router
        inherits = bool(self.app.conf.task_inherit_parent_priority)
        if not router.routes.static:
            return Destination(queue=queue_name(self.app.conf.task_default_queue), by_call=True)
        merged = router.route(_said_by(task), name, task_type=task)
        if self.app.over_kombu:
            queue, via = router.via(merged)
            by_call = via is not None or inherits or not merged.keys() <= _IN_PLANS - {"delivery_mode"}
            return Destination(queue=queue, priority=merged.get("priority"), by_call=by_call)
        return Destination(
            queue=router.queue_of(merged),
            priority=merged.get("priority"),
            by_call=inherits or not merged.keys() <= _IN_PLANS,
        )

    def addressed(
        self,
        plan: Plan,
        options: dict[str, Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        task: Any = None,
    ) -> dict[str, Any]:
        """Return what ``send_options`` does; a call that names just a queue is looked up in the plan."""
        queue = options.get("queue")
        if plan.by_call or type(queue) is not str or not options.keys().isdisjoint(_FURTHER):
            return self.send_options(plan.name, options, args, kwargs, task)
        known = plan.by_queue.get(queue)
        if known is None:
            known = self.send_options(plan.name, {"queue": queue}, None, None, task)
            if len(plan.by_queue) < _QUEUES_KNOWN:
                plan.by_queue[queue] = known
        said = {key: value for key, value in options.items() if value is not None}
        return {**known, **said, "queue": known["queue"]}

    def send_options(
        self,
        name: str,
        options: Mapping[str, Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        task: Any = None,
    ) -> dict[str, Any]:
        """Return the options of a call with what its task and its route say, and its queue's name."""
        said = _said_by(task) | {key: value for key, value in options.items() if value is not None}
        router = said.pop("router", None) or self.router
        merged = dict(router.route(said, said.pop("route_name", None) or name, args, kwargs, task))
        if self.app.over_kombu:
            merged["queue"], merged["via"] = self.router.via(merged)
        else:
            merged["queue"] = self.router.queue_of(merged)
        for key in _ADDRESS:
            merged.pop(key, None)
        frame = frame_var.get()
        inherits = merged.get("priority") is None and self.app.conf.task_inherit_parent_priority
        if inherits and frame is not None and frame.request.delivery_info:
            merged["priority"] = frame.request.delivery_info.get("priority")
        return {**options, **dict.fromkeys(_ADDRESS), **merged}

    def create_task_message(
        self, task_id: str, name: str, args: Any = None, kwargs: Any = None, **options: Any
    ) -> TaskMessage:
        """Return a message in the layout of Celery's protocol 2, for who reads it; ours have another."""
        options.setdefault("argsrepr", repr(args or ())[: self.argsrepr_maxsize])
        options.setdefault("kwargsrepr", repr(kwargs or {})[: self.kwargsrepr_maxsize])
        return as_task_v2(task_id, name, args, kwargs, now=self.app.now(), **options)

    as_task_v2 = create_task_message

    @property
    def producer_pool(self) -> Any:
        """The app's pool of producers."""
        return self.app.producer_pool


def _said_by(task: Any) -> dict[str, Any]:
    """Return what a task's attributes say of where it goes; what is a setting's value isn't the task's."""
    if task is None:
        return {}
    said = {}
    for name in _OF_TASKS:
        own = vars(task).get(name)
        value = getattr(type(task), name, None) if own is None else own
        if value is not None:
            said[name] = value
    return said
