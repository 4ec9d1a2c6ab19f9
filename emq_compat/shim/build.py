"""From a call to a message: what ``delay()`` publishes.

A Plan holds what is the same for every message of a task (path, name, queue, limits …), as text ready to be
joined: building one message is two calls of the JSON encoder and one join.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from emq_compat.chain_steps import carried
from emq_compat.message import Headers, Publish, new_id
from emq_compat.shim.codec import dumps, loads, plain_dumps, too_large
from emq_compat.shim.exceptions import EncodeError, ImproperlyConfigured, join_kombu
from emq_compat.shim.packing import is_plain, pack, unpack
from emq_compat.shim.paths import TaskPath

if TYPE_CHECKING:
    from emq_compat.shim.call_terms import CallTerms
    from emq_compat.shim.request import Context

__all__ = ["Options", "Plan", "argument_check", "as_carried", "build", "build_with", "unix_time"]


class Options:
    """The options of one publish that differ from the task's own; times are unix seconds, 0: none."""

    __slots__ = (
        "awaits", "chord", "compression", "epilogue", "eta", "expires", "extra", "headers", "ignore_result",
        "immutable", "limit_s", "parent_id", "priority", "queue", "retries", "root_id", "serializer",
        "soft_limit_s", "tags", "task_id", "terms", "via",
    )  # fmt: skip

    def __init__(self, plan: Plan) -> None:
        self.awaits = ""
        self.chord = ""
        self.epilogue = plan.epilogue
        self.serializer = plan.serializer
        self.compression = plan.compression
        self.eta = 0.0
        self.expires = 0.0
        self.immutable = False
        self.extra: dict[str, Any] = {}
        self.headers: Mapping[str, Any] | None = None
        self.ignore_result = plan.ignore_result
        self.limit_s: float | None = None
        self.parent_id: str | None = None
        self.priority = plan.priority
        self.queue = plan.queue
        self.retries = 0
        self.root_id: str | None = None
        self.soft_limit_s: float | None = None
        self.tags = ""
        self.task_id: str | None = None
        self.terms = plan.terms
        self.via = ""


class Plan:
    """What is the same in every message of one task, under one version of the app's settings."""

    __slots__ = (
        "_head", "_origin_pid", "_tail", "by_call", "by_queue", "check", "compression", "dumps", "epilogue",
        "expires", "ignore_result", "keep_s", "keeps_errors", "limit_s", "name", "over_kombu", "packs",
        "path", "priority", "queue", "serializer", "stock", "terms", "version",
    )  # fmt: skip

    def __init__(
        self,
        *,
        name: str,
        path: TaskPath,
        queue: str,
        version: int,
        by_call: bool = False,
        stock: bool = False,
        priority: int = 0,
        ignore_result: bool = False,
        keeps_errors: bool = False,
        expires: float | datetime | None = None,
        limit_s: float | None = None,
        check: Callable[..., None] | None = None,
        epilogue: bool = False,
        keep_s: float | None = None,
        serializer: str | None = None,
        compression: str | None = None,
        terms: CallTerms | None = None,
        over_kombu: bool = False,
    ) -> None:
        """``by_call``: the queue and other options depend on the call (AMQP.send_options).

        ``expires`` (seconds or a time) and ``limit_s`` (stock workers don't know it) are the
        task's.

        ``keeps_errors``: an ignored result is kept if it is an error (store_errors_even_if_ignored), so that
        the broker must not be told to drop it; the worker does that. ``epilogue`` and ``keep_s`` are headers:
        results live elsewhere, and how long the broker keeps them.
        ``terms``: those of each call (unique keys, places, paces); None: there are none.
        ``over_kombu``: the broker is one of kombu's, which has neither those nor chords.
        """
        self.name = name
        self.path = path
        self.queue = queue
        self.by_call = by_call
        #: Queue that a call names → the options that its task, its route and that queue come to.
        self.by_queue: dict[str, Mapping[str, Any]] = {}
        self.version = version
        self.stock = stock
        self.priority = priority
        self.ignore_result = ignore_result
        self.keeps_errors = keeps_errors
        self.expires = expires
        self.limit_s = limit_s
        self.check = check
        self.epilogue = epilogue
        self.keep_s = keep_s
        self.serializer = serializer
        self.compression = compression
        self.terms = terms
        self.over_kombu = over_kombu
        #: Its messages aren't plain JSON, or come on terms: ``build`` is not for them.
        self.packs = terms is not None or not is_plain(serializer, compression)
        #: A stock job manager passes arguments on as they are.
        self.dumps = plain_dumps if stock else dumps
        self._head = (
            f'["run",{{"path":{dumps(path.path)},"callable":{dumps(path.callable)},'
            f'"class_args":{dumps(path.class_args)},"class_kwargs":{{}},"args":'
        )
        self._origin_pid = 0
        self._tail = ""

    def tail(self) -> str:
        """Return the text between the arguments and the task's id; it names this process as the origin."""
        pid = os.getpid()
        if pid != self._origin_pid:
            origin = f"gen{pid}@{os.uname().nodename}"
            self._tail = f',"celery":{{"task":{dumps(self.name)},"origin":{dumps(origin)},"id":'
            self._origin_pid = pid
        return self._tail


def build(plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], request: Context | None) -> Publish:
    """Return the message of a call without options; ``request`` is that of the task that makes it.

    Raises:
        EncodeError: an argument can't be carried (it is named), or all are too large. It is a TypeError, as
            in Celery.
        TypeError: the arguments don't fit the task's signature.
    """
    if plan.check is not None:
        plan.check(*args, **kwargs)
    task_id = new_id()
    encode = plan.dumps
    try:
        payload = (
            f'{plan._head}{encode(args if type(args) is tuple else list(args))},"kwargs":'
            f"{encode(kwargs) if kwargs else '{}'}"
            f'{plan.tail()}"{task_id}"'
        )
    except (TypeError, ValueError, RecursionError) as exc:
        raise _unfit(plan.name, args, kwargs, exc, plan.dumps) from exc
    if request is not None and request.id is not None:
        payload += f',"parent_id":{dumps(request.id)},"root_id":{dumps(request.root_id or request.id)}'
    return Publish(
        queue=plan.queue,
        headers=Headers(
            guarantee=not plan.stock,
            timeout=None if plan.limit_s is None else ceil(plan.limit_s),
            task_id=task_id,
            task=plan.name,
            priority=plan.priority,
            expires=0.0 if plan.expires is None else unix_time(plan.expires, time.time(), name="expires"),
            no_result=plan.ignore_result and not plan.keeps_errors,
            epilogue=plan.epilogue,
            keep_s=plan.keep_s,
        ),
        payload=_sized(plan.name, (payload + "}}]").encode()),
    )


def build_with(
    plan: Plan,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Options,
    *,
    collected: bool = False,
) -> Publish:
    """Return the message of a call with options.

    ``collected``: it leaves later, when its task id is known to others already.

    Raises:
        ValueError: a key can't be made of the arguments.
        EncodeError, TypeError: as ``build``; for headers, too.
        ImproperlyConfigured: a stock router can't do what an option asks for.
    """
    if plan.check is not None:
        # The values of the chord that it awaits come in front.
        values: tuple[Any, ...] = ([],) if options.awaits and not options.immutable else ()
        plan.check(*values, *args, **kwargs)
    if plan.stock:
        _refuse_for_stock(plan, options)
    elif plan.over_kombu and (options.terms is not None or "exhausted" in options.extra):
        raise ImproperlyConfigured(
            f"{plan.name}: unique tasks, concurrency keys, shared rates and link_exhausted need an emq:// "
            "broker; RabbitMQ, Redis and the like have no such thing"
        )
    task_id = options.task_id or new_id()
    extra: dict[str, Any] = dict(options.extra)
    if (chain := extra.get("chain")) is not None:
        with suppress(TypeError, ValueError, RecursionError):  # it isn't JSON: see _packed
            extra.update({"chain": list(chain)} if plan.over_kombu else carried(chain, dumps))
    terms = {} if options.terms is None else _terms(options.terms, args, kwargs, options, collected)
    if not is_plain(options.serializer, options.compression):
        extra["packed"] = _packed(plan, args, kwargs, extra, options)
        args, kwargs = (), {}
    if options.parent_id is not None:
        extra["parent_id"] = options.parent_id
    if options.root_id is not None and options.root_id != task_id:
        extra["root_id"] = options.root_id
    if options.headers:
        extra["headers"] = dict(options.headers)
    try:
        payload = (
            f'{plan._head}{plan.dumps(list(args))},"kwargs":{plan.dumps(dict(kwargs))}'
            f"{plan.tail()}{dumps(task_id)}"
        )
    except (TypeError, ValueError, RecursionError) as exc:
        raise _unfit(plan.name, args, kwargs, exc, plan.dumps) from exc
    if extra:
        try:
            payload += "," + dumps(extra)[1:-1]
        except (TypeError, ValueError, RecursionError) as exc:
            join_kombu()
            raise EncodeError(f"an option of {plan.name} can't be carried: {exc}") from exc
    limit_s = options.limit_s if options.limit_s is not None else plan.limit_s
    return Publish(
        queue=options.queue,
        headers=Headers(
            guarantee=not plan.stock,
            timeout=None if limit_s is None else ceil(limit_s),
            task_id=task_id,
            task=plan.name,
            priority=options.priority,
            eta=options.eta,
            expires=options.expires,
            no_result=options.ignore_result and not plan.keeps_errors,
            keep_s=plan.keep_s,
            limit_s=options.limit_s,
            soft_limit_s=options.soft_limit_s,
            retries=options.retries,
            chord=options.chord,
            awaits=options.awaits,
            immutable=options.immutable,
            epilogue=options.epilogue or ("once" in terms and "callbacks" in extra),
            tags=options.tags,
            via=options.via,
            once=terms.get("once", ""),
            slots=terms.get("slots", ""),
            pace=terms.get("pace", ""),
        ),
        payload=_sized(plan.name, (payload + "}}]").encode()),
    )


def _terms(
    terms: CallTerms, args: Sequence[Any], kwargs: Mapping[str, Any], options: Options, collected: bool
) -> dict[str, str]:
    """Return the headers once, slots and pace of a call."""
    extra = options.extra
    part = bool(options.chord or options.awaits or "group" in extra)
    follows = not extra.keys().isdisjoint(("chain", "callbacks", "errbacks"))
    return terms.headers(
        args,
        kwargs,
        awaits=bool(options.awaits) and not options.immutable,
        known=collected or part or follows or options.task_id is not None,
        part=part,
    )


def _sized(name: str, payload: bytes) -> bytes:
    if why := too_large(payload):
        join_kombu()
        raise EncodeError(f"the arguments of {name} are too large: {why}")
    return payload


def _packed(
    plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any], extra: dict[str, Any], options: Options
) -> dict[str, str]:
    """Pack the arguments, and those parts of the workflow in ``extra`` that JSON can't carry."""
    embedded = {}
    for member in ("callbacks", "errbacks", "chain"):
        try:
            dumps(extra.get(member))
        except (TypeError, ValueError, RecursionError):
            embedded[member] = extra.pop(member)
    value = [list(args), dict(kwargs), embedded]
    try:
        return pack(value, options.serializer, options.compression)
    except EncodeError as exc:
        raise EncodeError(f"the arguments of {plan.name} can't be carried: {exc}") from exc


#: 9999-12-31, the last day that a datetime knows.
_LAST: Final = 253_402_214_400.0


def unix_time(
    value: float | datetime | str, now: float, *, tz: Any = timezone.utc, name: str = "a time"
) -> float:
    """Return a countdown in seconds, a datetime (naive: in ``tz``) or its ISO text as unix time.

    ``name`` is what an error calls it.

    Raises:
        TypeError, ValueError: it is none of these, or later than there are dates.
    """
    try:
        when = _unix_time(value, now, tz)
    except OverflowError:
        when = _LAST + 1
    if not when <= _LAST:  # nor is NaN
        raise ValueError(f"{name} must come to a time before the year 10000: {value!r}")
    return max(when, 1.0)  # 0.0: there is none


def _unix_time(value: float | datetime | str, now: float, tz: Any) -> float:
    if isinstance(value, str):
        # Python 3.10 doesn't read the Z.
        value = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=tz)).timestamp()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a number of seconds or a datetime is expected, not {value!r}")
    return now + value


def _refuse_for_stock(plan: Plan, options: Options) -> None:
    """A stock router keeps no time and knows no task: say so, rather than run the task at the wrong time."""
    impossible = [
        name
        for name, asked in (
            ("countdown or eta", options.eta),
            ("expires", options.expires),
            ("soft_time_limit", options.soft_limit_s),
            ("chain", options.extra.get("chain")),
            ("link", options.extra.get("callbacks")),
            ("link_error", options.extra.get("errbacks")),
            ("chord", options.chord or options.awaits),
            ("unique tasks, concurrency keys or shared rates", options.terms is not None),
            ("serializer or compression", not is_plain(options.serializer, options.compression)),
        )
        if asked
    ]
    if impossible:
        raise ImproperlyConfigured(
            f"{plan.name}: a stock eventmq router can't do {', '.join(impossible)}; use an emq:// broker"
        )


def as_carried(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments of the task ``name`` as they come out of a message.

    Raises:
        EncodeError: one can't be carried; the message names it.
    """
    if not is_plain(serializer, None):
        assert serializer is not None
        packed = unpack(pack([list(args), dict(kwargs)], serializer), [serializer])
        return packed[0], packed[1]
    try:
        carried: tuple[list[Any], dict[str, Any]] = tuple(loads(dumps([list(args), dict(kwargs)])))
    except (TypeError, ValueError, RecursionError) as exc:
        raise _unfit(name, args, kwargs, exc) from exc
    return carried


def argument_check(run: Callable[..., Any]) -> Callable[..., None] | None:
    """Return a function of the same signature that does nothing: calling it checks arguments as Python does.

    None: the signature can't be had, or takes everything.
    """
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except (TypeError, ValueError):
        return None
    kinds = [p.kind for p in parameters]
    if kinds[:1] == [inspect.Parameter.VAR_POSITIONAL] and kinds[-1] is inspect.Parameter.VAR_KEYWORD:
        return None
    empty = inspect.Parameter.empty
    plain = [p.replace(annotation=empty, default=empty if p.default is empty else None) for p in parameters]
    name = getattr(run, "__name__", "run")
    name = name if name.isidentifier() else "run"
    scope: dict[str, Any] = {}
    # The text holds nothing but parameter names of a Python function and the word None.
    exec(f"def {name}{inspect.Signature(plain)}: pass", {}, scope)  # noqa: S102 - a signature of the project's own
    return scope[name]  # type: ignore[no-any-return]


def _unfit(
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    cause: Exception,
    encode: Callable[[Any], str] = dumps,
) -> EncodeError:
    """Return the error that names the first argument which can't be carried."""
    join_kombu()
    named = [(f"argument {index}", value) for index, value in enumerate(args)]
    named += [(f"argument {key!r}", value) for key, value in kwargs.items()]
    for label, value in named:
        try:
            encode(value)
        except (TypeError, ValueError, RecursionError) as exc:
            return EncodeError(f"{name}: {label} ({type(value).__name__}) can't be carried: {exc}")
    return EncodeError(f"{name}: the arguments can't be carried: {cause}")
