"""JSON of arguments and results, with kombu's envelope for what JSON lacks.

Plain JSON goes the short way. What it refuses is tried with kombu's convention,
``{"__type__": "datetime", "__value__": "2024-…"}`` (datetime, date, time, Decimal, UUID, bytes, objects with
``__json__``), so that genuine Celery peers read it. Types registered with ``kombu.utils.json.register_type``
count too: kombu is asked where it is loaded, and never loaded for it.
"""

from __future__ import annotations

import base64
import json
import sys
import uuid
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

from emq_compat.protocol.limits import LIMITS
from emq_compat.shim.exceptions import EncodeError, join_kombu
from emq_compat.shim.packing import MARKER, unpack

__all__ = ["dumps", "jsonable", "loads", "mentions_types", "plain_dumps", "revive", "too_large"]

_ENCODERS: Final[tuple[tuple[type, str, Callable[[Any], Any]], ...]] = (
    (datetime, "datetime", datetime.isoformat),  # before date: a datetime is one
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (Decimal, "decimal", str),
    (uuid.UUID, "uuid", lambda value: {"hex": value.hex}),
)
_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda fields: uuid.UUID(**fields),
    "bytes": lambda text: text.encode(),
    "base64": base64.b64decode,
}


def _default(value: Any) -> Any:
    """Return what stands for ``value`` in JSON; raises TypeError where nothing does."""
    reducer = getattr(value, "__json__", None)
    if reducer is not None and not isinstance(value, type):
        return reducer()
    for kind, marker, encode in _ENCODERS:
        if isinstance(value, kind):
            return {"__type__": marker, "__value__": encode(value)}
    if isinstance(value, bytes):
        try:
            return {"__type__": "bytes", "__value__": value.decode()}
        except UnicodeDecodeError:
            return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}
    django = sys.modules.get("django.utils.functional")
    if django is not None and isinstance(value, django.Promise):
        return str(value)
    kombu = sys.modules.get("kombu.utils.json")
    if kombu is not None:
        return kombu.JSONEncoder().default(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


#: Returns JSON text; raises TypeError, ValueError or RecursionError. One encoder serves the whole process:
#: ``json.dumps`` with separators would make one at each call.
dumps: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":"), default=_default).encode

#: The same for who doesn't know kombu's envelopes: what plain JSON lacks is a TypeError.
plain_dumps: Final[Callable[[Any], str]] = json.JSONEncoder(separators=(",", ":")).encode


def jsonable(value: Any) -> Any:
    """Return ``value`` as values that plain JSON holds.

    Raises:
        EncodeError: there is no way; the message names the type.
    """
    try:
        return json.loads(dumps(value))
    except (TypeError, ValueError, RecursionError) as exc:
        join_kombu()
        raise EncodeError(str(exc)) from exc


def mentions_types(document: bytes) -> bool:
    """Return whether a JSON document may hold kombu's envelopes."""
    return b'"__type__"' in document


def loads(document: bytes | str) -> Any:
    """Read JSON with kombu's envelopes; raises ValueError for a type that is not known here."""
    return json.loads(document, object_hook=_hook)


def revive(value: Any, accept: Iterable[str] | None = None) -> Any:
    """Return decoded JSON with each of kombu's envelopes in it replaced by what it stands for.

    ``accept`` are the serializers of packed values that may be read (None: JSON alone).

    Raises:
        ValueError: a type that is not known here, a value that is none of its type, or too deep a nesting.
        ContentDisallowed, DecodeError (kombu's): a packed value that isn't accepted, or can't be read.
    """
    try:
        return _revived(value, accept)
    except RecursionError as exc:
        raise ValueError("the value is nested too deeply") from exc


def _revived(value: Any, accept: Iterable[str] | None) -> Any:
    if isinstance(value, dict):
        document = {key: _revived(item, accept) for key, item in value.items()}
        if document.get("__type__") == MARKER and isinstance(document.get("__value__"), dict):
            return unpack(document["__value__"], accept)
        return _hook(document)
    if isinstance(value, list):
        return [_revived(item, accept) for item in value]
    return value


def _hook(document: dict[str, Any]) -> Any:
    if len(document) != 2 or "__type__" not in document or "__value__" not in document:
        return document
    marker = document["__type__"]
    decode = _DECODERS.get(marker) if isinstance(marker, str) else None
    kombu = sys.modules.get("kombu.utils.json")
    try:
        if decode is not None:
            return decode(document["__value__"])
        if kombu is not None and isinstance(marker, str):
            return kombu.object_hook(document)
    except Exception as exc:  # whatever a type's reader raises, a project's own included
        if exc.args[:1] != ("Unsupported type",):
            raise ValueError(f"a value that is no {marker}: {exc!r}") from exc
    raise ValueError(f"a value of the unknown type {marker!r}")


def too_large(raw: bytes) -> str:
    """Return why an encoded message or result can't be carried: both sizes; empty: it isn't too large."""
    size, limit = len(raw), LIMITS.payload_bytes
    return f"{size} bytes, and a message holds at most {limit}" if size > limit else ""
