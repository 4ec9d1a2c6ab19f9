"""The keyword options of apply_async and send_task: which there are, and what they come to in a message."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from emq_compat.headers import via_text
from emq_compat.message import MAX_ID_BYTES
from emq_compat.shim.attributes import TERMS
from emq_compat.shim.build import Options, Plan, unix_time
from emq_compat.shim.call_terms import OPTIONS, call_terms
from emq_compat.shim.canvas.places import as_reference, part_header
from emq_compat.shim.checks import check_limits, interval_of, limit_of, priority_of, queue_name
from emq_compat.stamps import tags_of

if TYPE_CHECKING:
    from emq_compat.shim.request import Context
    from emq_compat.shim.settings import Settings

__all__ = [
    "ADDRESS",
    "PROPERTIES",
    "check_limits",
    "check_names",
    "interval_of",
    "limit_of",
    "priority_of",
    "queue_name",
    "read_options",
    "unknown_options",
]

#: What says where a message goes.
ADDRESS: Final = frozenset({"exchange", "exchange_type", "queue", "route_name", "router", "routing_key"})
#: What kombu would be told, or what the caller has dealt with: without meaning for a message of ours.
_WITHOUT_MEANING: Final = frozenset(
    {
        "add_to_parent", "argsrepr", "connection", "delivery_mode", "exchange_type",
        "immediate", "kwargsrepr", "mandatory", "origin", "producer", "publisher", "result_cls", "retry",
        "retry_policy", "route_name", "router", "task_type",
    }
)  # fmt: skip
_MEANT: Final = frozenset(
    {
        "awaits", "chain", "chord", "compression", "countdown", "epilogue", "eta", "exchange", "expires",
        "group_id", "group_index", "headers", "ignore_result", "immutable", "link", "link_error",
        "parent_id", "priority", "queue", "replaced_task_nesting", "reply_to", "retries", "root_id",
        "routing_key", "serializer", "shadow", "soft_time_limit", "stamped_headers", "task_id", "time_limit",
        "link_exhausted", "via", *TERMS,
    }
)  # fmt: skip
#: AMQP's message properties that Celery passes on from a call: a run finds them in ``request.properties``.
PROPERTIES: Final = frozenset(
    {"app_id", "cluster_id", "correlation_id", "message_id", "timestamp", "type", "user_id"}
)


def check_names(given: Mapping[str, Any]) -> None:
    """Refuse options that there are not.

    Raises:
        TypeError: there is no such option; the nearest is named.
    """
    for told in unknown_options(given):
        raise TypeError(told)


def unknown_options(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be said of each option that there isn't, with the nearest that there is."""
    stamps = given.get("stamped_headers") or ()
    for name, value in given.items():
        if name in _MEANT or name in _WITHOUT_MEANING or name in PROPERTIES or name in stamps:
            continue
        if value is not None:
            near = difflib.get_close_matches(name, _MEANT | PROPERTIES, n=1)
            yield f"there is no option {name!r}" + (f": is {near[0]!r} meant?" if near else "")


def read_options(plan: Plan, conf: Settings, given: Mapping[str, Any], request: Context | None) -> Options:
    """Return the options of one publish; ``request`` is that of the task that publishes.

    Raises:
        TypeError: there is no such option (the nearest is named), or a value is of the wrong kind.
        ValueError: a value is out of its range.
        ImproperlyConfigured: a queue's name can't be.
    """
    check_names(given)
    options = Options(plan)
    get = given.get
    if request is not None and request.id is not None:
        options.parent_id = request.id
        options.root_id = request.root_id or request.id
    options.parent_id = get("parent_id") or options.parent_id
    options.root_id = get("root_id") or options.root_id
    options.task_id = _task_id(get("task_id"))
    options.headers = _headers(get("headers"))
    options.retries = get("retries") or 0
    _read_times(options, plan, conf, given)
    if (queue := get("queue")) is not None:
        options.queue = queue_name(queue)
    if (priority := get("priority")) is not None:
        options.priority = priority_of(priority)
    if (ignore := get("ignore_result")) is not None:
        options.ignore_result = bool(ignore)
        if plan.ignore_result and not ignore:
            options.extra["ignore_result"] = False  # the worker's own task says otherwise
    for name in ("group_id", "group_index", "reply_to", "shadow"):
        if get(name) is not None:
            options.extra[name.removesuffix("_id")] = given[name]
    if not PROPERTIES.isdisjoint(given):
        options.extra["properties"] = {name: given[name] for name in sorted(PROPERTIES & given.keys())}
    if plan.over_kombu:
        _read_kombu(options, given)
    _read_workflow(options, given)
    options.serializer = get("serializer") or plan.serializer
    if get("compression") is not None:
        options.compression = given["compression"]
    if not OPTIONS.isdisjoint(given) and any(given[name] is not None for name in OPTIONS & given.keys()):
        terms = options.terms
        options.terms = call_terms(None, plan.name, given) if terms is None else terms.with_call(given)
    return options


def _read_kombu(options: Options, given: Mapping[str, Any]) -> None:
    """Read what means something to brokers of kombu's only."""
    if (via := given.get("via")) is not None:
        options.via = via_text(*via)
    if given.get("delivery_mode") is not None:
        modes = {"transient": 1, "persistent": 2}
        mode = modes.get(given["delivery_mode"], given["delivery_mode"])
        options.extra["properties"] = {**options.extra.get("properties", {}), "delivery_mode": mode}
    for name in ("argsrepr", "kwargsrepr"):
        if given.get(name) is not None:
            options.extra[name] = str(given[name])


#: What a message says of its workflow: option → member of the Job's Celery part.
_WORKFLOW: Final = (
    ("chain", "chain"),
    ("replaced_task_nesting", "replaced_task_nesting"),
    ("stamped_headers", "stamped_headers"),
)


#: What is called after its end: option → member of the Job's Celery part.
_CALLED: Final = (("link", "callbacks"), ("link_error", "errbacks"), ("link_exhausted", "exhausted"))


def _read_workflow(options: Options, given: Mapping[str, Any]) -> None:
    """Read what belongs to workflows: see canvas/chord.py for ``chord`` and ``awaits``."""
    extra = options.extra
    for name, member in _CALLED:
        if value := given.get(name):
            extra[member] = list(value) if isinstance(value, (list, tuple)) else [value]
    for name, member in _WORKFLOW:
        if value := given.get(name):
            extra[member] = value
    if stamps := given.get("stamped_headers"):
        extra["stamped_headers"] = list(stamps)
        extra["stamps"] = {name: given[name] for name in stamps if name in given}
        options.tags = ";".join(tags_of(extra["stamps"]))
    if chord := as_reference(given.get("chord"), given.get("task_id"), given.get("group_index")):
        extra["chord"] = chord
        options.chord = part_header(chord)
    if awaits := given.get("awaits"):
        options.awaits = f"{awaits['id']}:{awaits['size']}"
        options.immutable = bool(given.get("immutable"))
    options.epilogue = bool(
        options.epilogue
        or given.get("epilogue")
        or extra.get("chain")
        or extra.get("errbacks")
        or extra.get("exhausted")
    )


def _read_times(options: Options, plan: Plan, conf: Settings, given: Mapping[str, Any]) -> None:
    now = time.time()
    get = given.get
    zone = None if conf.enable_utc else _zone(conf)
    tz: dict[str, Any] = {} if zone is None else {"tz": zone}
    if (eta := get("eta")) is not None:
        options.eta = unix_time(eta, now, name="eta", **tz)
    elif (countdown := get("countdown")) is not None and (seconds := _seconds(countdown)) is not None:
        options.eta = unix_time(seconds, now, name="countdown")
    if (expires := get("expires")) is not None:
        options.expires = unix_time(expires, now, name="expires", **tz)
    elif plan.expires is not None:
        options.expires = unix_time(plan.expires, now, name="expires")
    options.limit_s = limit_of("time_limit", get("time_limit"))
    options.soft_limit_s = limit_of("soft_time_limit", get("soft_time_limit"))
    check_limits(options.limit_s, options.soft_limit_s)


def _seconds(countdown: Any) -> float | None:
    """Return a countdown's seconds; None: at once."""
    try:
        seconds = float(countdown)
    except OverflowError:
        seconds = float("inf")
    return None if seconds <= 0 else seconds


def _zone(conf: Settings) -> Any:
    """Return the zone of naive datetimes where messages aren't in UTC; None: this machine's."""
    if conf.timezone is None or not isinstance(conf.timezone, str):
        return conf.timezone
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - few projects need it

    return ZoneInfo(conf.timezone)


def _task_id(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"task_id must be text, not {value!r}")
    if value and (len(value.encode(errors="replace")) > MAX_ID_BYTES or not value.isprintable()):
        raise ValueError(f"task_id must be at most {MAX_ID_BYTES} printable bytes, not {value[:64]!a}")
    return value or None


def _headers(value: Any) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"headers must be a dict, not {value!r}")
    return value
