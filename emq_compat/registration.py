"""Tells kombu of the transport ``emq://``.

kombu loads the entry points of the group ``kombu.serializers`` when it first needs serializers, as for a
Producer, a Consumer or a Celery app; loading ours adds the transport's name to kombu's table. What is loaded
is a serializer that is none: it has neither an encoder nor a decoder. Whoever makes a Connection before that
imports this module, or emq_compat after kombu.
"""

from __future__ import annotations

import contextlib

__all__ = ["SERIALIZER", "register"]

_TRANSPORT = "emq_compat.genuine.transport:Transport"


def register() -> None:
    """Add ``emq`` to the transports that kombu knows by name; imports nothing but kombu's table of them."""
    from kombu.transport import TRANSPORT_ALIASES  # noqa: PLC0415 - not before kombu is wanted

    TRANSPORT_ALIASES.setdefault("emq", _TRANSPORT)


with contextlib.suppress(Exception):  # whoever imports kombu must not fail by this
    register()

#: (encoder, decoder, content type) as kombu's registry wants them.
SERIALIZER = (None, None, "application/x-emq")
