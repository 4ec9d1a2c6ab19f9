"""The results of a genuine app: Celery's meta of a result, and the reply JSON that our broker keeps of it.

What plain JSON (with kombu's envelopes) carries stands there as it is, so that the shim and every other
reader has it; what result_serializer carries and JSON doesn't, or what is compressed, travels *packed*, in
the form of shim/packing.py.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from celery import states
from kombu.serialization import dumps
from kombu.utils.json import object_hook

from emq_compat.backends.record import record_of, result_of
from emq_compat.message import REVOKED
from emq_compat.shim.packing import MARKER, pack, unpack
from emq_compat.stored import StoredResult

__all__ = ["Carrier", "exception_record", "meta_of", "reply_of"]

logger = logging.getLogger(__name__)

#: Values that JSON gives back exactly as they were.
_PLAIN: Final = (str, int, bool, type(None))
#: Values of fewer bytes are not compressed: it would make them longer.
_WORTH_COMPRESSING_BYTES: Final = 256


class Carrier:
    """Values as JSON has them, and back.

    Args:
        serializer: result_serializer.
        compression: result_compression, None: none.
        accept: content types of packed values that may be read.
    """

    def __init__(self, serializer: str, compression: str | None, accept: Iterable[str]) -> None:
        self._serializer = serializer
        self._compression = compression
        self.accept = frozenset(accept)

    def carried(self, value: Any) -> Any:
        """Return ``value`` as plain JSON values.

        Raises:
            EncodeError (kombu's): the serializer can't carry it.
        """
        if self._serializer == "json":
            text = dumps(value, serializer="json")[2]
            if not self._compression or len(text) < _WORTH_COMPRESSING_BYTES:
                return json.loads(text)
        elif _is_plain(value) and (
            not self._compression or len(json.dumps(value)) < _WORTH_COMPRESSING_BYTES
        ):
            return value
        return {"__type__": MARKER, "__value__": pack(value, self._serializer, self._compression)}

    def revived(self, value: Any) -> Any:
        """Return decoded JSON with each envelope in it replaced by what it stands for.

        Raises:
            ContentDisallowed, DecodeError (kombu's): a packed value that isn't accepted, or can't be read.
        """
        if isinstance(value, list):
            return [self.revived(item) for item in value]
        if not isinstance(value, dict):
            return value
        document = {key: self.revived(item) for key, item in value.items()}
        if "__type__" not in document:
            return document
        if document["__type__"] == MARKER and isinstance(document.get("__value__"), dict):
            return unpack(document["__value__"], self.accept)
        try:
            return object_hook(document)
        except Exception:  # noqa: BLE001 - a type that this process doesn't know stays what it is
            return document


def _is_plain(value: Any) -> bool:
    """Whether JSON gives ``value`` back exactly: a tuple, or a number as a key, would come back changed."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is float:
        return bool(value - value == 0)  # neither infinite nor NaN
    if kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(type(key) is str and key != "__type__" and _is_plain(item) for key, item in value.items())
    return False


def exception_record(exc: BaseException, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Celery's records say of an exception, with its text, too.

    ``described`` is what Celery's ``prepare_exception`` makes of it for JSON.
    """
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - user code
        text = type(exc).__name__
    return {**described, "exc_text": text}


def reply_of(meta: Mapping[str, Any], carrier: Carrier, pickled: Any = None) -> dict[str, Any]:
    """Return the reply JSON of a result.

    Args:
        meta: Celery's, an exception in it as ``exception_record`` has it.
        pickled: the exception itself, where the serializer is one that carries exceptions.

    Raises:
        EncodeError (kombu's): something in it can't be carried.
    """
    record = dict(meta)
    error = record["result"] if isinstance(record["result"], Mapping) else {}
    if "exc_type" in error and record["status"] in states.EXCEPTION_STATES:
        record["result"] = {**error, "exc_message": carrier.carried(error.get("exc_message"))}
    else:
        record["result"] = carrier.carried(record["result"])
    for name in ("args", "kwargs", "stamped_headers"):
        if record.get(name) is not None:
            record[name] = carrier.carried(record[name])
    for name in meta.get("stamped_headers") or ():
        if name in record:
            record[name] = carrier.carried(record[name])
    record["children"] = json.loads(json.dumps(record.get("children") or []))
    reply = result_of(record).reply
    if pickled is not None and "error" in reply:
        reply["error"]["packed"] = pack(pickled, "pickle")
    return {"value": reply.pop("value"), **reply}


def meta_of(task_id: str, stored: StoredResult | None, carrier: Carrier) -> dict[str, Any]:
    """Return Celery's meta of what is stored, an exception in it as Celery's serialisers leave it."""
    if stored is None:
        return {"status": states.PENDING, "result": None}
    reply = stored.reply
    error = reply.get("error")
    meta = record_of(task_id, {**reply, "state": stored.state})
    if stored.state in states.EXCEPTION_STATES:
        exc = _unpickled(error, carrier)
        if exc is not None:
            meta["result"] = exc
        elif not isinstance(meta["result"], Mapping):
            meta["result"] = {
                "exc_type": "TaskRevokedError" if stored.state == REVOKED else "Exception",
                "exc_module": "celery.exceptions" if stored.state == REVOKED else "builtins",
                "exc_message": [str(error or meta["result"] or stored.state)],
            }
    meta["result"] = carrier.revived(meta["result"])
    return _opened(meta, carrier)


def _unpickled(error: Any, carrier: Carrier) -> Any:
    packed = error.get("packed") if isinstance(error, Mapping) else None
    if not isinstance(packed, Mapping):
        return None
    try:
        return unpack(packed, carrier.accept)
    except Exception as exc:  # noqa: BLE001 - not accepted, or its class isn't here: what is told of it will do
        logger.debug("a pickled exception can't be read: %s", exc)
        return None


def _opened(meta: dict[str, Any], carrier: Carrier) -> dict[str, Any]:
    for name in ("args", "kwargs", "stamped_headers", *(meta.get("stamped_headers") or ())):
        if name in meta:
            meta[name] = carrier.revived(meta[name])
    return meta
