"""How records of results become bytes: the settings result_serializer and result_accept_content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.backends.keyvalue import RecordCodec
from emq_compat.errors import OperationalError
from emq_compat.shim.codec import revive
from emq_compat.shim.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["codec_of"]


class _Json:
    """JSON, with kombu's envelopes left in it as they are until a value is asked for."""

    content = ("application/json", "utf-8")

    def encode(self, record: Mapping[str, Any] | Sequence[Any]) -> bytes:
        return json.dumps(record).encode()

    def decode(self, data: bytes | str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise OperationalError(f"a stored result is no JSON (result_serializer says so): {exc}") from exc
        return record


class _Kombu:
    """What kombu's registry has: pickle, yaml, msgpack."""

    def __init__(self, serializer: str, accept: Any) -> None:
        from kombu import serialization  # noqa: PLC0415 - heavy, and only needed here

        try:
            self._content_type, self._encoding, _ = serialization.registry._encoders[serializer]
            self._accept = serialization.prepare_accept_content(accept)
        except KeyError as exc:
            raise ImproperlyConfigured(f"there is no result_serializer {serializer!r}") from exc
        self.content = (self._content_type, self._encoding)
        self._serialization = serialization
        self._name = serializer

    def encode(self, record: Mapping[str, Any] | Sequence[Any]) -> bytes:
        plain = dict(record) if isinstance(record, Mapping) else list(record)
        _, _, data = self._serialization.dumps(revive(plain, self._accept), serializer=self._name)
        return data.encode() if isinstance(data, str) else data

    def decode(self, data: bytes | str) -> dict[str, Any]:
        try:
            record: dict[str, Any] = self._serialization.loads(
                data,
                content_type=self._content_type,
                content_encoding=self._encoding,
                accept=self._accept,
            )
        except Exception as exc:  # whatever a serializer raises
            raise OperationalError(f"a stored result is no {self._name} that is accepted: {exc}") from exc
        return record


def codec_of(app: Celery) -> RecordCodec:
    """Return the codec that the app's settings say.

    Raises:
        ImproperlyConfigured: there is no such serializer.
    """
    conf = app.conf
    if conf.result_serializer == "json":
        return _Json()
    accept = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
    return _Kombu(conf.result_serializer, accept)
