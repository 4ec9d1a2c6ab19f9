"""Messages of kombu that are no tasks (remote control, events, a project's own), as REQUESTs and back.

The payload is ``["kombu", {…}]``: no worker takes it for a ``run``, and one that gets it answers that it
doesn't know this subcommand.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from emq_compat.celery_message import CeleryMessage
from emq_compat.errors import MessageError
from emq_compat.kombu_json import as_kombu, revived

__all__ = ["is_wrapped", "json_body", "unwrapped", "wrapped", "wrapped_json"]

_BEGINNING: Final = b'["kombu",'


def wrapped(message: CeleryMessage) -> bytes:
    """Return the payload of the REQUEST that carries a message as it is.

    Raises:
        MessageError: a header or property of it can't be carried.
    """
    document: dict[str, Any] = {
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }
    try:
        document["body"] = message.body.decode()
    except UnicodeDecodeError:
        document["base64"] = base64.b64encode(message.body).decode()
    if message.headers:
        document["headers"] = dict(message.headers)
    if message.properties:
        document["properties"] = dict(message.properties)
    try:
        return json.dumps(["kombu", document], separators=(",", ":"), default=as_kombu).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise MessageError(f"a header of the message can't be carried: {exc}") from exc


def wrapped_json(body: bytes) -> bytes:
    """Return the payload of the REQUEST that carries a JSON document, without headers and properties."""
    json_message = CeleryMessage(
        body=body, content_type="application/json", content_encoding="utf-8", headers={}, properties={}
    )
    return wrapped(json_message)


def is_wrapped(payload: bytes) -> bool:
    """Tell whether a payload is one of ``wrapped``."""
    return payload.startswith(_BEGINNING)


def unwrapped(payload: bytes) -> CeleryMessage:
    """Return the message that ``wrapped`` made a payload of.

    Raises:
        MessageError: it made none of it.
    """
    document = _document(payload)
    if b'"__type__"' in payload:
        document = {**document, **{key: revived(document.get(key)) for key in ("headers", "properties")}}
    for name in ("headers", "properties"):
        if not isinstance(document.get(name) or {}, dict):
            raise MessageError(f"the message's {name} are a {type(document[name]).__name__}, not an object")
    return CeleryMessage(
        body=_body(document),
        content_type=str(document.get("content_type", "")),
        content_encoding=str(document.get("content_encoding", "")),
        headers=document.get("headers") or {},
        properties=document.get("properties") or {},
    )


def json_body(payload: bytes) -> bytes | None:
    """Return the body of a wrapped message as topics have it; None: it is no JSON."""
    try:
        document = _document(payload)
        if document.get("content_type") != "application/json" or (document.get("headers") or {}).get(
            "compression"
        ):
            return None
        return _body(document)
    except (MessageError, AttributeError):
        return None


def _document(payload: bytes) -> dict[str, Any]:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise MessageError(f"the payload is not JSON: {exc}") from exc
    if not (isinstance(document, list) and len(document) == 2 and document[0] == "kombu"):
        raise MessageError('the payload is not ["kombu", {…}]')
    if not isinstance(document[1], dict):
        raise MessageError('the payload is not ["kombu", {…}]')
    return document[1]


def _body(document: Mapping[str, Any]) -> bytes:
    text, packed = document.get("body"), document.get("base64")
    try:
        if isinstance(packed, str):
            return base64.b64decode(packed, validate=True)
        if isinstance(text, str):
            return text.encode("utf-8", "surrogatepass")
    except binascii.Error as exc:
        raise MessageError(f"the message's body is no base64: {exc}") from exc
    raise MessageError("the message has no body")
