"""The bodies of ANSWERs (docs/protocol.md): a JSON document with ``ok``, or with an error."""

from __future__ import annotations

import json

__all__ = ["error_body"]


def error_body(kind: str, text: str) -> bytes:
    """Return the document that refuses a question; ``kind`` is the name of an exception's class."""
    return json.dumps({"error": {"type": kind, "message": text}}).encode()
