"""``celery.contrib.migrate``: messages that wait, moved to other queues or to another broker.

Nothing is consumed: the broker tells what waits, and what is wanted moves there, in one transaction. Between
two brokers it is as transfer.py says.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from emq_compat import transfer
from emq_compat.client import Client, client_for
from emq_compat.errors import MessageError
from emq_compat.message import Job, Publish
from emq_compat.shim import current
from emq_compat.shim.connections import Connection, Producer
from emq_compat.shim.surface.names import worker_direct
from emq_compat.transfer import PAGE, Found

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = [
    "Message",
    "State",
    "StopFiltering",
    "expand_dest",
    "filter_status",
    "migrate_task",
    "migrate_tasks",
    "move",
    "move_by_idmap",
    "move_by_taskmap",
    "move_direct",
    "move_direct_by_id",
    "move_direct_by_idmap",
    "move_direct_by_taskmap",
    "move_task_by_id",
    "prepare_queues",
    "republish",
    "start_filter",
    "task_id_eq",
    "task_id_in",
]


class StopFiltering(Exception):
    """Raised by a filter or callback: enough."""


class State:
    """How far it has come.

    Attributes:
        count: messages that were looked at, or migrated.
        filtered: messages that were moved.
        total_apx: how many waited at the beginning.
        stayed: msgid → why it couldn't be migrated, of those that were wanted.
    """

    def __init__(self) -> None:
        self.count = 0
        self.filtered = 0
        self.total_apx = 0
        self.stayed: dict[str, str] = {}

    @property
    def strtotal(self) -> str:
        """``total_apx`` as text, ``?`` where nothing is known."""
        return str(self.total_apx) if self.total_apx else "?"

    def __repr__(self) -> str:
        return f"^{self.filtered}" if self.filtered else f"{self.count}/{self.strtotal}"


class Message:
    """A message that waits, with the attributes of kombu's.

    Attributes:
        found: the message as the broker tells it.
        acknowledged: it was taken out of its queue by ``ack``.
    """

    content_type, content_encoding = "application/json", "utf-8"

    def __init__(self, client: Client, found: Found) -> None:
        self._client = client
        self.found = found
        self.acknowledged = False
        headers = found.headers
        self.headers = {"id": headers.task_id, "task": headers.task, "retries": headers.retries}
        self.properties = {"correlation_id": headers.task_id, "priority": headers.priority}
        self.delivery_info = {"exchange": "", "routing_key": found.queue, "priority": headers.priority}

    @property
    def body(self) -> bytes:
        """The payload; empty where it is too large to be shown."""
        return self.found.payload or b""

    @property
    def payload(self) -> dict[str, Any]:
        """The call: task, id, args, kwargs, retries, eta and expires (unix seconds), and what Celery adds."""
        headers = self.found.headers
        try:
            job = Job.decode(self.body)
        except MessageError:
            job = None
        return {
            **(job.celery if job is not None else {}),
            "task": headers.task,
            "id": headers.task_id,
            "args": list(job.args) if job is not None else [],
            "kwargs": dict(job.kwargs) if job is not None else {},
            "retries": headers.retries,
            "eta": headers.eta or None,
            "expires": headers.expires or None,
        }

    def ack(self, *_: Any, **__: Any) -> None:
        """Take it out of its queue; nothing where a worker has been given it meanwhile."""
        if not self.acknowledged:
            dropped = transfer.drop(self._client, self.found.queue, [self.found.msgid])
            self.acknowledged = bool(dropped)

    def reject(self, requeue: bool = False, **_: Any) -> None:
        """``ack``, or with ``requeue`` nothing: it has never left its queue."""
        if not requeue:
            self.ack()

    def requeue(self, **_: Any) -> None:
        """Nothing: it has never left its queue."""


Predicate = Callable[[dict[str, Any], Message], Any]
Callback = Callable[[State, dict[str, Any], Message], Any]


def republish(
    producer: Any,
    message: Message,
    exchange: Any = None,
    routing_key: str | None = None,
    remove_props: Any = None,
) -> None:
    """Publish a copy of a message to the queue ``routing_key`` (by default its own) of the producer's broker.

    The same copy in the same queue twice, because it was cut off, is one.

    Raises:
        OperationalError: it was not confirmed.
        ValueError: the message is too large to be copied.
    """
    found = message.found
    if found.payload is None:
        raise ValueError(f"message {found.msgid} is too large to be passed on")
    queue = routing_key or _name(exchange) or found.queue
    msgid = uuid.uuid5(uuid.NAMESPACE_OID, f"{found.msgid} {queue}").hex
    _client_of(producer, None).publish(
        Publish(queue=queue, headers=found.headers, payload=found.payload, msgid=msgid)
    )


def migrate_task(
    producer: Any, body_: Any, message: Message, queues: Mapping[str, str] | None = None
) -> None:
    """``republish`` to the queue that ``queues`` names for the message's own."""
    republish(producer, message, routing_key=(queues or {}).get(message.found.queue))


def migrate_tasks(
    source: Any,
    dest: Any,
    migrate: Callable[..., Any] = migrate_task,
    app: Celery | None = None,
    queues: Any = None,
    *,
    ack_messages: bool = True,
    tasks: Any = None,
    limit: int | None = None,
    callback: Callback | None = None,
    consume_from: Iterable[Any] | None = None,
    state: State | None = None,
    **kwargs: Any,
) -> State:
    """Move what waits from one broker to another; returns how it went.

    Args:
        source, dest: connections, or addresses.
        migrate: called with a producer of ``dest``, the body, the message and ``queues``, to publish one.
        queues: queue → its name there; or ``["a", "b:c"]``, or the same joined by commas. Of those only what
            waits there is moved; by default that of the app's queues.
        ack_messages: false: leave the messages in the source, too: they may run twice.
        tasks: names of tasks, in a list or joined by commas: only these.
        limit: how many.
        callback: called with (state, body, message) after each.
        kwargs: Celery's further ones mean nothing.

    Raises:
        OperationalError: a broker doesn't answer.
        ConfigurationError: they are one broker, or a stock router.
    """
    state = state or State()
    app = app or current.get_app()
    names = prepare_queues(queues)
    there = _client_of(dest, app)
    here = _client_of(source, app)
    wanted = _wanted(tasks)

    def tell(found: Found) -> None:
        assert callback is not None
        state.count += 1
        message = Message(here, found)
        callback(state, message.payload, message)

    if not ack_messages:
        producer = Producer(Connection(str(there.addresses[0]), client=there))
        copy = partial(migrate, producer, queues=names)
        return start_filter(
            app, here, copy, tasks=tasks, limit=limit, callback=callback, state=state,
            consume_from=consume_from or list(names) or None,
        )  # fmt: skip
    for queue in _queues(app, consume_from or names):
        state.total_apx += _waiting(here, queue)
        try:
            done = transfer.transfer(
                here,
                there,
                queue,
                names.get(queue),
                choose=wanted,
                on_moved=tell if callback is not None else None,
                publish=None if migrate is migrate_task else partial(_by, migrate, here, there, names),
                limit=None if limit is None else limit - state.count,
            )
        except StopFiltering:
            break
        state.count += done.moved if callback is None else 0
        state.stayed.update(done.stayed)
    return state


def _by(
    migrate: Callable[..., Any], here: Client, there: Client, queues: Mapping[str, str], found: Found
) -> None:
    message = Message(here, found)
    producer = Producer(Connection(str(there.addresses[0]), client=there))
    migrate(producer, message.payload, message, queues=queues)


def start_filter(
    app: Celery,
    conn: Any,
    filter: Predicate,  # noqa: A002 - Celery's name
    limit: int | None = None,
    timeout: float = 1.0,
    ack_messages: bool = False,
    tasks: Any = None,
    queues: Any = None,
    callback: Callback | None = None,
    forever: bool = False,
    on_declare_queue: Any = None,
    consume_from: Iterable[Any] | None = None,
    state: State | None = None,
    accept: Any = None,
    **kwargs: Any,
) -> State:
    """Call ``filter`` with (body, message) of all that waits; returns how many that were.

    Args:
        limit: look at so many.
        timeout: with ``forever``, seconds between two looks.
        ack_messages: take each out of its queue afterwards.
        tasks: names of tasks, in a list or joined by commas: only these.
        consume_from, queues: which queues; by default the app's.
        callback: called with (state, body, message) after each.
        forever: go on with what comes, until StopFiltering is raised.
    """
    state = state or State()
    client = _client_of(conn, app)
    wanted = _wanted(tasks)
    names = _queues(app, consume_from or prepare_queues(queues))
    state.total_apx += sum(_waiting(client, name) for name in names)
    seen: set[str] = set()
    try:
        while True:
            for found in _found(client, names, wanted):
                if found.msgid in seen:
                    continue
                if forever:
                    seen.add(found.msgid)
                message = Message(client, found)
                body = message.payload
                filter(body, message)
                state.count += 1
                if ack_messages:
                    message.ack()
                if callback is not None:
                    callback(state, body, message)
                if limit and state.count >= limit:
                    return state
            if not forever:
                return state
            time.sleep(timeout)
    except StopFiltering:
        return state


def move(
    predicate: Predicate,
    connection: Any = None,
    exchange: Any = None,
    routing_key: str | None = None,
    source: Iterable[Any] | None = None,
    app: Celery | None = None,
    callback: Callback | None = None,
    limit: int | None = None,
    transform: Callable[[Any], Any] | None = None,
    **kwargs: Any,
) -> State:
    """Move the messages that ``predicate`` wants to other queues of the same broker.

    Args:
        predicate: called with (body, message). What is true wants the message: a queue, its name, or
            ``(exchange, routing_key)`` say where; anything else means ``exchange`` and ``routing_key``.
        connection: the broker; the app's by default.
        source: the queues to look at; by default the app's.
        callback: called with (state, body, message) after each move.
        limit: move so many.
        transform: called with what ``predicate`` returned; gives what counts instead.
        kwargs: ``tasks``, ``queues``, ``consume_from`` and ``state``, as for ``start_filter``.

    Raises:
        ValueError: nothing says where a message is to go.
    """
    app = app or current.get_app()
    client = _client_of(connection, app)
    state = kwargs.get("state") or State()
    names = _queues(app, source or kwargs.get("consume_from") or prepare_queues(kwargs.get("queues")))
    state.total_apx += sum(_waiting(client, name) for name in names)

    def destination(message: Message) -> str | None:
        told = predicate(message.payload, message)
        if not told:
            return None
        return _destination(app, transform(told) if transform is not None else told, exchange, routing_key)

    page: list[tuple[Message, str]] = []
    seen: set[str] = set()
    size = PAGE if callback is None else 1
    try:
        for found in _found(client, names, _wanted(kwargs.get("tasks"))):
            if found.msgid in seen:
                continue  # it has come into this queue by this very move
            state.count += 1
            message = Message(client, found)
            to = destination(message)
            if to is None or to == found.queue:
                continue
            page.append((message, to))
            seen.add(found.msgid)
            if len(page) >= size or (limit and state.filtered + len(page) >= limit):
                _move_page(client, page, state, callback)
                page = []
                if limit and state.filtered >= limit:
                    return state
        _move_page(client, page, state, callback)
    except StopFiltering:
        _move_page(client, page, state, callback)
    return state


def _move_page(
    client: Client, page: list[tuple[Message, str]], state: State, callback: Callback | None
) -> None:
    routes: dict[tuple[str, str], list[Message]] = {}
    for message, to in page:
        routes.setdefault((message.found.queue, to), []).append(message)
    page.clear()
    moved: list[Message] = []
    for (queue, to), messages in routes.items():
        gone = set(transfer.move(client, queue, [message.found.msgid for message in messages], to))
        moved += [message for message in messages if message.found.msgid in gone]
        state.filtered += len(gone)
    for message in moved if callback is not None else ():
        callback(state, message.payload, message)  # type: ignore[misc]


def move_by_idmap(map: Mapping[str, Any], **kwargs: Any) -> State:  # noqa: A002 - Celery's name
    """Move the messages of tasks by their ids: id → queue; further arguments are those of ``move``."""
    return move(lambda body, message: map.get(body["id"]), limit=len(map), **kwargs)


def move_by_taskmap(map: Mapping[str, Any], **kwargs: Any) -> State:  # noqa: A002 - Celery's name
    """Move the messages of tasks by their names: name → queue."""
    return move(lambda body, message: map.get(body["task"]), **kwargs)


def move_task_by_id(task_id: str, dest: Any, **kwargs: Any) -> State:
    """Move the message of one task to a queue."""
    return move_by_idmap({task_id: dest}, **kwargs)


move_direct = partial(move, transform=worker_direct)
move_direct_by_id = partial(move_task_by_id, transform=worker_direct)
move_direct_by_idmap = partial(move_by_idmap, transform=worker_direct)
move_direct_by_taskmap = partial(move_by_taskmap, transform=worker_direct)


def task_id_eq(task_id: str, body: Mapping[str, Any], message: Any) -> bool:
    """Return whether it is the message of this task; with functools.partial a predicate."""
    return bool(body["id"] == task_id)


def task_id_in(ids: Any, body: Mapping[str, Any], message: Any) -> bool:
    """Return whether it is the message of one of these tasks; with functools.partial a predicate."""
    return body["id"] in ids


def filter_status(state: State, body: Mapping[str, Any], message: Any, **kwargs: Any) -> None:
    """Print which task is moved, and how many there are: a ``callback``."""
    print(f"Moving task {state.filtered}/{state.strtotal}: {body['task']}[{body['id']}]")  # noqa: T201 - so it is asked for


def prepare_queues(queues: Any) -> dict[str, str]:
    """Return queue → its new name: of such a mapping, of ``["a", "b:c"]``, or of that joined by commas."""
    if isinstance(queues, str):
        queues = queues.split(",")
    if isinstance(queues, Mapping):
        return dict(queues)
    pairs = (_name(queue).partition(":") for queue in queues or ())
    return {old.strip(): (new or old).strip() for old, _, new in pairs if old.strip()}


def expand_dest(ret: Any, exchange: Any, routing_key: Any) -> tuple[Any, Any]:
    """Return exchange and routing key: ``ret`` if it is such a pair, else the others."""
    if isinstance(ret, (tuple, list)) and len(ret) == 2:
        return ret[0], ret[1]
    return exchange, routing_key


def _destination(app: Celery, told: Any, exchange: Any, routing_key: str | None) -> str:
    if isinstance(told, str) or hasattr(told, "name"):
        return _name(told)
    ex, key = expand_dest(told, exchange, routing_key)
    bound = app.amqp.queues.bound(_name(ex), key) if ex and key else []
    queue = bound[0] if bound else key or _name(ex)
    if not queue:
        raise ValueError(f"{told!r} doesn't say where the message is to go, and no routing_key is given")
    return str(queue)


def _name(named: Any) -> str:
    return named if isinstance(named, str) else str(getattr(named, "name", named or ""))


def _client_of(told: Any, app: Celery | None) -> Client:
    """Return the client of a connection, a producer, an address; None: the app's."""
    if isinstance(told, Producer):
        told = told.connection
    if isinstance(told, Connection):
        told = told.client
    elif isinstance(told, str):
        told = client_for(told)
    elif told is None and app is not None:
        told = app.client
    if not isinstance(told, Client):
        raise TypeError(f"{told!r} is no connection to a broker of ours: give app.connection(URL), or a URL")
    return told


def _queues(app: Celery, told: Iterable[Any]) -> list[str]:
    return [_name(queue) for queue in told] or list(app.amqp.queues.consume_from)


def _wanted(tasks: Any) -> Callable[[Found], bool]:
    names = set(tasks.split(",") if isinstance(tasks, str) else tasks or ())
    return lambda found: not names or found.headers.task in names


def _found(client: Client, queues: Iterable[str], wanted: Callable[[Found], bool]) -> Iterator[Found]:
    for queue in queues:
        yield from filter(wanted, transfer.browse(client, queue))


def _waiting(client: Client, name: str) -> int:
    rows = [row for row in client.ask("queues") if row["name"] == name]
    return sum(row[what] for row in rows for what in ("waiting", "delayed", "parked") if what in row)
