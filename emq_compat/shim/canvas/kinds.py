"""Every kind of signature: importing this registers them all. The names are those of ``celery.canvas``."""

from __future__ import annotations

from typing import Final

from emq_compat.shim.canvas.chain import _chain, chain
from emq_compat.shim.canvas.chord import chord
from emq_compat.shim.canvas.group import group
from emq_compat.shim.canvas.maps import chunks, xmap, xstarmap
from emq_compat.shim.canvas.signature import Signature, maybe_signature, signature
from emq_compat.shim.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "_chain",
    "_chord",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "maybe_subtask",
    "signature",
    "subtask",
    "xmap",
    "xstarmap",
]

#: Celery's other names for them.
subtask = signature
maybe_subtask = maybe_signature
_chord = chord

#: subtask_type → class, of those above.
KINDS: Final[dict[str, type[Signature]]] = dict(Signature.TYPES)
