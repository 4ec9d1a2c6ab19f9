"""Values of message headers that plain JSON lacks, in the form that kombu's JSON gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emq_compat.errors import MessageError

__all__ = ["as_kombu", "revived"]


def as_kombu(value: Any) -> Any:
    """Return what kombu's JSON has for a value that plain JSON lacks; raises TypeError if it has nothing."""
    from kombu.utils.json import JSONEncoder  # noqa: PLC0415 - heavy, and headers are plain values mostly

    return JSONEncoder().default(value)


def revived(value: Any) -> Any:
    """Return decoded JSON with the values that ``as_kombu`` gave away.

    Raises:
        MessageError: it is nested too deeply.
    """
    from kombu.utils.json import object_hook  # noqa: PLC0415 - heavy, and headers are plain values mostly

    try:
        return _revived(value, object_hook)
    except RecursionError as exc:
        raise MessageError("the message's headers are nested too deeply") from exc


def _revived(value: Any, object_hook: Callable[[dict[str, Any]], Any]) -> Any:
    if isinstance(value, dict):
        document = {key: _revived(item, object_hook) for key, item in value.items()}
        try:
            return object_hook(document)
        except Exception:  # noqa: BLE001 - a type that is not known here stays as it is
            return document
    return [_revived(item, object_hook) for item in value] if isinstance(value, list) else value
