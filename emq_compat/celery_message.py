"""Celery's task messages, protocol 1 and 2, as ``run`` requests and back.

A message of Celery's becomes an ordinary REQUEST: its times, limits and priority are headers that our broker
acts on, its arguments stand where a stock job manager looks for them, and its workflow stands where the
shim's worker does. What else it holds travels under ``wire`` in the job's Celery part, so that ``message_of``
gives a Celery worker the message that its producer sent.

A body that is not plain JSON (another serializer, compressed) is not read: it travels as a *packed* value,
in the form of shim/packing.py.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from math import ceil, isfinite
from typing import Any, Final

from emq_compat.chain_steps import steps_of
from emq_compat.decompression import bound
from emq_compat.errors import MessageError
from emq_compat.frozen import quickly_made
from emq_compat.ids import new_id
from emq_compat.kombu_json import as_kombu, revived
from emq_compat.message import MAX_ID_BYTES, Delivery, Headers, Job, Publish
from emq_compat.stamps import tags_of

__all__ = ["BROKER_HEADER", "CeleryMessage", "delivery_of", "message_of", "publish_of"]

_JSON: Final = "application/json"

#: The application header of what a Celery message is in a chord that our broker counts: an object with the
#: members ``chord``, ``awaits`` and ``immutable``, as the headers of those names in docs/protocol.md.
BROKER_HEADER: Final = "emq"

#: Members of the application headers that are Celery's own (protocol 2); others are a project's.
_OWN_HEADERS: Final = frozenset(
    {
        "argsrepr", "compression", "eta", "expires", "group", "group_index", "id", "ignore_result",
        "kwargsrepr", "lang", "origin", "parent_id", "replaced_task_nesting", "retries", "root_id", "shadow",
        "stamped_headers", "stamps", "task", "timelimit",
    }
)  # fmt: skip
#: Those of them that the shim's worker reads as they are.
_KEPT_HEADERS: Final = (
    "group", "group_index", "origin", "parent_id", "replaced_task_nesting", "shadow", "stamped_headers",
    "stamps",
)  # fmt: skip
_EMBEDDED: Final = ("callbacks", "errbacks", "chain", "chord")
#: Members of a protocol 1 body → what protocol 2 calls them.
_PROTOCOL_1: Final = {"taskset": "group"}


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryMessage:
    """A message as kombu has it, before it is decoded.

    Attributes:
        body: as it is on the wire; compressed, if the header ``compression`` says so.
        content_type, content_encoding: kombu's, ``application/json`` and ``utf-8`` for instance.
        headers: the application headers: all that protocol 2 says beside the arguments.
        properties: AMQP's message properties that were set: correlation_id, reply_to, priority …
    """

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


def publish_of(
    message: CeleryMessage, *, queue: str, msgid: str | None = None, guarantee: bool = True
) -> Publish:
    """Return the REQUEST that carries a task message.

    Args:
        message: protocol 1 or 2.
        queue: where it goes.
        msgid: names this publish; None: a new one.
        guarantee: whether the broker is to confirm it.

    Raises:
        MessageError: it is no task message; it says what is wrong.
    """
    headers, payload = _request_of(message, guarantee=guarantee)
    return Publish(queue=queue, headers=headers, payload=payload, msgid=msgid or new_id())


def delivery_of(
    message: CeleryMessage, *, queue: str, msgid: str, attempt: int = 1, redelivered: bool = False
) -> Delivery:
    """Return a task message as what an upstream delivers; arguments and errors as ``publish_of``."""
    headers, payload = _request_of(message, attempt=attempt, redelivered=redelivered)
    return Delivery(msgid=msgid, queue=queue, headers=headers, payload=payload)


def message_of(headers: Headers, payload: bytes, *, accept: Iterable[str] = ()) -> CeleryMessage:
    """Return the Celery message of a ``run`` request: what its producer sent, or the like in protocol 2.

    Args:
        headers, payload: of the REQUEST.
        accept: serializers that may be read (accept_content) where values must be joined to arguments
            that are not plain JSON.

    Raises:
        MessageError: it is no ``run`` request, or none that Celery could have sent, as it calls a method.
    """
    job = Job.decode(payload)
    wire = job.celery.get("wire")
    if isinstance(wire, dict) and isinstance(wire.get("headers"), dict):
        if b'"__type__"' in payload:
            wire = revived(wire)
            if not isinstance(wire["headers"], dict):
                raise MessageError("the headers of the Celery message are no object")
        return CeleryMessage(
            body=_body_of(job, wire, accept),
            content_type=str(wire.get("content_type", _JSON)),
            content_encoding=str(wire.get("content_encoding", "utf-8")),
            headers=wire["headers"],
            properties=properties if isinstance(properties := wire.get("properties"), dict) else {},
        )
    return _made_here(job, headers, accept)


# From Celery's message to ours.


def _request_of(
    message: CeleryMessage, *, guarantee: bool = False, attempt: int = 0, redelivered: bool = False
) -> tuple[Headers, bytes]:
    given = message.headers
    if not isinstance(given, Mapping):
        raise MessageError(f"the headers of the message are a {type(given).__name__}, not a mapping")
    packed = message.content_type != _JSON or bool(given.get("compression"))
    if "task" in given:
        args, kwargs, embedded = ((), {}, {}) if packed else _protocol_2(message.body)
        fields: Mapping[str, Any] = given
        wire: dict[str, Any] = {"headers": dict(given)}
        if not packed and tuple(embedded) != _EMBEDDED:
            wire["embed"] = embedded
    elif packed:
        raise MessageError(
            f"a message of the type {message.content_type} without the header 'task' is no task: "
            "messages of protocol 1 are read as JSON only"
        )
    else:
        fields, args, kwargs = _protocol_1(message.body)
        embedded = {name: fields.get(name) for name in _EMBEDDED}
        wire = {"headers": dict(given), "body": fields}
        fields = {_PROTOCOL_1.get(name, name): value for name, value in fields.items()}
    name, task_id = _text(fields, "task"), _text(fields, "id")
    wire["properties"] = properties = dict(message.properties)
    celery: dict[str, Any] = {"task": name, "id": task_id, "wire": wire}
    if packed:
        celery["packed"] = _packed(message)
    if packed or message.content_encoding != "utf-8":
        wire["content_type"], wire["content_encoding"] = message.content_type, message.content_encoding
    for key in _KEPT_HEADERS:
        if fields.get(key):
            celery[key] = fields[key]
    if fields.get("group_index") == 0:
        celery["group_index"] = 0
    if fields.get("root_id") and fields["root_id"] != task_id:
        celery["root_id"] = fields["root_id"]
    if fields.get("ignore_result"):
        celery["ignore_result"] = True
    for key in _EMBEDDED:
        if embedded.get(key):
            celery[key] = embedded[key]
    if properties.get("reply_to"):
        celery["reply_to"] = properties["reply_to"]
    part, awaits, immutable = _in_chord(given.get(BROKER_HEADER))
    if part:
        chord_id, _, index = part.rpartition(":")
        celery["chord"] = {"id": chord_id, "index": index}
        if not packed:
            wire["embed"] = embedded
    if awaits and not immutable and not packed:
        args = args[1:]  # it stands for the values
    own = {key: value for key, value in given.items() if key not in _OWN_HEADERS and key != BROKER_HEADER}
    if own:
        celery["headers"] = own
    module, _, function = name.rpartition(".")
    limits = fields.get("timelimit") or (None, None)
    if not isinstance(limits, (list, tuple)) or len(limits) != 2:
        raise MessageError(f"the message's timelimit is {limits!r}, not [hard, soft] in seconds")
    hard, soft = _seconds(limits[0], "timelimit"), _seconds(limits[1], "timelimit")
    utc = fields.get("utc", True) is not False
    headers = Headers(
        guarantee=guarantee,
        timeout=None if hard is None else ceil(hard),
        task_id=task_id,
        task=name,
        priority=_priority(properties.get("priority")),
        eta=_time(fields.get("eta"), "eta", utc=utc),
        expires=_time(fields.get("expires"), "expires", utc=utc),
        limit_s=hard,
        soft_limit_s=soft,
        attempt=attempt,
        redelivered=redelivered,
        retries=_retries(fields.get("retries")),
        tags=_tags(fields.get("stamps")),
        chord=part,
        awaits=awaits,
        immutable=immutable,
        # Whoever runs it knows what its end entails: callbacks, another result store.
        epilogue=True,
    )
    body = {
        "path": module or "__main__",
        "callable": function,
        "args": args,
        "kwargs": kwargs,
        "class_args": [],
        "class_kwargs": {},
        "celery": celery,
    }
    try:
        return headers, json.dumps(["run", body], separators=(",", ":"), default=as_kombu).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise MessageError(f"a header of the message can't be carried: {exc}") from exc


def _tags(stamps: Any) -> str:
    return ";".join(tags_of(stamps)) if stamps and isinstance(stamps, Mapping) else ""


def _in_chord(told: Any) -> tuple[str, str, bool]:
    """Return the headers ``chord``, ``awaits`` and ``immutable`` that a message asks for."""
    if told is None:
        return "", "", False
    if not isinstance(told, Mapping):
        raise MessageError(f"the message's header {BROKER_HEADER!r} is {told!r}, not an object")
    part, awaits = told.get("chord") or "", told.get("awaits") or ""
    if not isinstance(part, str) or not isinstance(awaits, str):
        raise MessageError(f"the message's header {BROKER_HEADER!r} names no chord: {told!r}")
    read = Headers.decode(Headers(chord=part, awaits=awaits).encode())
    return read.chord, read.awaits, bool(awaits and told.get("immutable"))


def _document(body: bytes | str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise MessageError(f"the message's body is not JSON, which its content type says: {exc}") from exc


def _protocol_2(body: bytes | str) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    document = _document(body)
    if not isinstance(document, list) or len(document) != 3:
        raise MessageError("the message's body is not [args, kwargs, embed]")
    args, kwargs, embedded = document
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MessageError("the message's arguments are not a list and an object")
    if embedded is not None and not isinstance(embedded, dict):
        raise MessageError("the message's embed is not an object")
    return args, kwargs, embedded or {}


def _protocol_1(body: bytes | str) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    document = _document(body)
    if not isinstance(document, dict) or "task" not in document:
        raise MessageError("the message has neither the header 'task' nor a body with a member 'task'")
    args, kwargs = document.pop("args", None) or [], document.pop("kwargs", None) or {}
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MessageError("the message's arguments are not a list and an object")
    return document, args, kwargs


def _packed(message: CeleryMessage) -> dict[str, str]:
    """Return the body in the form of shim/packing.py."""
    packed = {"content_type": message.content_type, "content_encoding": message.content_encoding}
    compression = message.headers.get("compression")
    if compression:
        packed["compression"] = str(compression)
    elif message.content_encoding != "binary":
        try:
            packed["body"] = _bytes(message.body).decode(message.content_encoding)
        except (UnicodeDecodeError, LookupError):
            packed["content_encoding"] = "binary"
        else:
            return packed
    packed["body"] = base64.b64encode(_bytes(message.body)).decode()
    return packed


def _bytes(body: bytes | str | memoryview) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise MessageError(f"the message's {name!r} is {value!r}, not a text")
    if not value.isprintable() or len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise MessageError(f"the message's {name!r} is unprintable or longer than {MAX_ID_BYTES} bytes")
    return value


def _seconds(value: Any, name: str) -> float | None:
    if value is None or value == 0:  # Celery takes 0 for no limit
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (isfinite(value) and value > 0):
        raise MessageError(f"the message's {name} is {value!r}, not a number of seconds")
    return float(value)


def _priority(value: Any) -> int:
    return min(max(value, 0), 9) if isinstance(value, int) else 0


def _retries(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value <= 1 << 31 else 0


def _time(value: Any, name: str, *, utc: bool) -> float:
    """Return a time as unix time, 0.0 for none; a naive one is in UTC, or local."""
    if not value:
        return 0.0
    try:
        if isinstance(value, str):
            # Python 3.10 doesn't read the Z.
            value = datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)
        if isinstance(value, datetime):
            if value.tzinfo is None and utc:
                value = value.replace(tzinfo=timezone.utc)
            return float(max(value.timestamp(), 1.0))
        moment = float(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise MessageError(f"the message's {name} is {value!r}, not a time: {exc}") from exc
    if not isfinite(moment):
        raise MessageError(f"the message's {name} is {value!r}, not a time")
    return moment if moment > 1.0 else 1.0



# And back.



def _body_of(job: Job, wire: Mapping[str, Any], accept: Iterable[str]) -> bytes:
    packed = job.celery.get("packed")
    if packed is not None:
        return _unpacked(job, packed, {}, accept)
    if isinstance(wire.get("body"), dict):  # protocol 1
        return json.dumps({**wire["body"], "args": list(job.args), "kwargs": dict(job.kwargs)}).encode()
    embedded = wire.get("embed")
    if embedded is None:
        embedded = _embedded(job)
    return json.dumps([list(job.args), dict(job.kwargs), embedded]).encode()


def _embedded(job: Job) -> dict[str, Any]:
    return {name: job.celery.get(name) for name in _EMBEDDED} | {"chain": steps_of(job.celery)}


def _unpacked(job: Job, packed: Any, embedded: Mapping[str, Any], accept: Iterable[str]) -> bytes:
    """Return the body that travels packed, with what stands before its arguments and the workflow in it."""
    try:
        body = packed["body"]
        binary = bool(packed.get("compression")) or packed["content_encoding"] == "binary"
        raw = base64.b64decode(body, validate=True) if binary else _bytes(body)
    except (TypeError, KeyError, binascii.Error, AttributeError) as exc:
        raise MessageError(f"the packed arguments of {job.celery.get('task')} can't be read: {exc}") from exc
    if not (job.args or job.kwargs or any(embedded.values())):
        return raw
    return _joined(job, packed, raw, embedded, accept)


def _joined(
    job: Job, packed: Mapping[str, Any], raw: bytes, embedded: Mapping[str, Any], accept: Iterable[str]
) -> bytes:
    from kombu import compression as compressions  # noqa: PLC0415 - heavy, and few messages need it
    from kombu import serialization  # noqa: PLC0415

    bound()
    compression, content_type = packed.get("compression"), str(packed.get("content_type"))
    try:
        plain = compressions.decompress(raw, compression) if compression else raw
        args, kwargs, *rest = serialization.loads(
            plain,
            content_type,
            str(packed["content_encoding"]),
            accept=serialization.prepare_accept_content(accept),
        )
        whole = {**embedded, **(rest[0] if rest and rest[0] else {})}
        value = [[*job.args, *args], {**kwargs, **job.kwargs}, whole]
        name = serialization.registry.type_to_name[content_type]
        body = _bytes(serialization.dumps(value, name)[2])
        return compressions.compress(body, compression)[0] if compression else body
    except Exception as exc:
        raise MessageError(
            f"the packed arguments of {job.celery.get('task')} can't be joined: {exc}"
        ) from exc


def _made_here(job: Job, headers: Headers, accept: Iterable[str]) -> CeleryMessage:
    """Return protocol 2 for what the shim or an eventmq client has made."""
    celery = job.celery
    name = headers.task or celery.get("task")
    if not name:
        if job.class_args or job.class_kwargs or ":" in job.path:
            raise MessageError(f"{job.path}.{job.callable} is a method, which no message of Celery's calls")
        name = f"{job.path}.{job.callable}"
    task_id = headers.task_id or celery.get("id") or new_id()
    get = celery.get
    packed = get("packed")
    if packed is None:
        body, content_type, encoding = _body_of(job, {}, ()), _JSON, "utf-8"
    else:
        body = _unpacked(
            job, packed, {name: value for name, value in _embedded(job).items() if value}, accept
        )
        content_type, encoding = str(packed.get("content_type")), str(packed.get("content_encoding"))
    own = get("headers")
    properties = get("properties")
    told = {
        "lang": "py",
        "task": name,
        "id": task_id,
        "shadow": get("shadow"),
        "eta": _iso(headers.eta),
        "expires": _iso(headers.expires),
        "group": get("group"),
        "group_index": get("group_index"),
        "retries": headers.retries,
        "timelimit": [_as_given(headers.limit_s), _as_given(headers.soft_limit_s)],
        "root_id": get("root_id") or task_id,
        "parent_id": get("parent_id"),
        "argsrepr": get("argsrepr") or ("" if packed is not None else _shown(tuple(job.args))),
        "kwargsrepr": get("kwargsrepr") or ("" if packed is not None else _shown(dict(job.kwargs))),
        "origin": get("origin") or f"gen{os.getpid()}@{os.uname().nodename}",
        "ignore_result": bool(headers.no_result or get("ignore_result")),
        "replaced_task_nesting": get("replaced_task_nesting") or 0,
        "stamped_headers": get("stamped_headers"),
        "stamps": get("stamps") or {},
        **(own if isinstance(own, dict) else {}),
    }
    if packed is not None and packed.get("compression"):
        told["compression"] = packed["compression"]
    return CeleryMessage(
        body=body,
        content_type=content_type,
        content_encoding=encoding,
        headers=told,
        properties={
            "correlation_id": task_id,
            "reply_to": get("reply_to") or "",
            "priority": headers.priority,
            "delivery_mode": 2,
            **(properties if isinstance(properties, dict) else {}),
        },
    )


def _iso(moment: float) -> str | None:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat() if moment else None


def _as_given(seconds: float | None) -> float | None:
    return int(seconds) if seconds is not None and float(seconds).is_integer() else seconds


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 256
_repr.maxlist = _repr.maxtuple = _repr.maxdict = _repr.maxset = 32


def _shown(arguments: Any) -> str:
    return _repr.repr(arguments)[:1024]
