"""Values that JSON can't carry, or that are compressed: packed with kombu's serializers into a JSON object.

    {"content_type": "application/x-python-serialize", "content_encoding": "binary",
     "compression": "application/x-gzip", "body": "…"}

``body`` is base64 where the encoding is ``binary`` or the value is compressed. It is read only where the
reader's accept_content allows its content type: a pickle that nobody allowed is never loaded. kombu, which
knows the serializers and what a project has registered, is loaded when the first value is packed or read.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from emq_compat.decompression import MOST_BYTES, bound
from emq_compat.shim.exceptions import EncodeError, ImproperlyConfigured, join_kombu

__all__ = ["MARKER", "is_plain", "pack", "serializer_of", "unpack"]

#: The type of kombu's envelope around a packed value of a result.
MARKER = "serialized"

#: What a project says when it wants messages to be what they are anyway.
_JSON = (None, "json", "application/json")


def is_plain(serializer: str | None, compression: str | None) -> bool:
    """Whether this serializer and compression (None or empty: none) leave a message plain JSON."""
    return serializer in _JSON and not compression


def pack(value: Any, serializer: str | None, compression: str | None = None) -> dict[str, str]:
    """Return ``value`` packed with these, by the names under which kombu knows them.

    Raises:
        EncodeError: the serializer can't carry the value.
        SerializerNotInstalled (kombu's): there is no such serializer.
        ImproperlyConfigured: there is no such compression here.
    """
    from kombu import compression as compressions  # noqa: PLC0415 - heavy, and only needed here
    from kombu import serialization  # noqa: PLC0415
    from kombu.exceptions import SerializerNotInstalled  # noqa: PLC0415

    try:
        content_type, encoding, body = serialization.dumps(value, serializer or "json")
    except SerializerNotInstalled:
        raise
    except Exception as exc:
        join_kombu()
        raise EncodeError(f"{serializer} can't carry it: {exc}") from exc
    packed = {"content_type": content_type, "content_encoding": encoding}
    if compression:
        if len(body) > MOST_BYTES:
            raise EncodeError(f"it has {len(body)} bytes, and what is compressed may have {MOST_BYTES}")
        try:
            body, packed["compression"] = compressions.compress(body, compression)
        except KeyError:
            known = ", ".join(sorted(compressions._aliases))
            why = f"no compression {compression!r} is installed; known: {known}"
            raise ImproperlyConfigured(why) from None
    if compression or encoding == "binary" or isinstance(body, bytes):
        raw = body if isinstance(body, bytes) else body.encode()
        packed["body"] = base64.b64encode(raw).decode()
        packed["content_encoding"] = encoding if compression else "binary"
    else:
        packed["body"] = body
    return packed


def unpack(packed: Mapping[str, Any], accept: Iterable[str] | None) -> Any:
    """Return what was packed; ``accept`` are names of serializers or content types (None: JSON only).

    Raises:
        ContentDisallowed (kombu's): its content type is not accepted; nothing of it has been read then.
        DecodeError (kombu's): it can't be read.
    """
    from kombu import compression as compressions  # noqa: PLC0415 - heavy, and only needed here
    from kombu import serialization  # noqa: PLC0415
    from kombu.exceptions import ContentDisallowed, DecodeError  # noqa: PLC0415

    bound()
    content_type, encoding = str(packed.get("content_type")), str(packed.get("content_encoding"))
    accepted = serialization.prepare_accept_content(["json"] if accept is None else list(accept))
    if content_type not in accepted and content_type != "application/json":
        raise ContentDisallowed(f"refused: content of the type {content_type}, not among accept_content")
    try:
        body: Any = packed["body"]
        if packed.get("compression") or encoding == "binary":
            body = base64.b64decode(body, validate=True)
        if packed.get("compression"):
            body = compressions.decompress(body, packed["compression"])
    except Exception as exc:
        raise DecodeError(f"a packed value can't be read: {exc}") from exc
    return serialization.loads(body, content_type, encoding, accept=[*accepted, "application/json"])


def serializer_of(packed: Mapping[str, Any]) -> str:
    """Return the name under which kombu knows the serializer of a packed value."""
    from kombu.serialization import registry  # noqa: PLC0415 - heavy, and only needed here

    return str(registry.type_to_name[packed["content_type"]])
