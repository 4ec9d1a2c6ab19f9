"""Settings as text for people: one a line, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pprint import pformat
from typing import Any

__all__ = ["as_text", "censored_items", "censored_url"]

_MASK = "********"
#: Names whose values are never shown.
_SECRET = re.compile(
    "API|TOKEN|KEY(?!S?_PREFIX)|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI", re.I
)
#: What looks so is no secret, though its name says KEY.
_OPEN = frozenset({"task_default_routing_key"})
_NEXT_ADDRESS = re.compile(r"(?=[;,][\w+.-]+://)")
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):(?:[^/]*|.*)@")
_ADDRESSES = re.compile("broker.*_url|backend", re.I)


def censored_items(items: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy of ``items`` where secrets are masked, in mappings inside it, too."""
    return {name: _censored(name, value) for name, value in items.items()}


def _censored(name: Any, value: Any) -> Any:
    if isinstance(name, str) and name not in _OPEN and _SECRET.search(name):
        return _MASK if value else value
    if isinstance(value, Mapping):
        return censored_items(value)
    if isinstance(name, str) and _ADDRESSES.search(name):
        if isinstance(value, str):
            return censored_url(value)
        if isinstance(value, (list, tuple)):
            return [censored_url(part) if isinstance(part, str) else part for part in value]
    return value


def censored_url(url: str, mask: str = _MASK) -> str:
    """Return an address, or several (``;`` or ``,`` between them), with the passwords masked.

    A password may hold what should be percent-encoded in it: it ends at the last ``@`` before the path.
    """
    return "".join(_PASSWORD.sub(rf"\1:{mask}@", part, count=1) for part in _NEXT_ADDRESS.split(url))


def as_text(items: Mapping[Any, Any]) -> str:
    """Return one line (or, of long values, several) a setting: ``name: value``."""
    return "\n".join(f"{name}: {pformat(value, width=80)}" for name, value in items.items())
