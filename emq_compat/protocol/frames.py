"""Frames ↔ commands: the codec of eMQP/1.0.

``decode`` takes the frames of one message from the empty delimiter on (without a ROUTER's identity frame)
and returns a command, or raises RemoteProtocolError naming the frame that is wrong. ``encode`` is its
inverse. Payloads and bodies of replies are passed on undecoded.
"""

from __future__ import annotations

from emq_compat.protocol.decoder import decode
from emq_compat.protocol.encoder import encode, request_frames
from emq_compat.protocol.limits import LIMITS, MAX_QUEUE_NAME, Limits

__all__ = ["LIMITS", "MAX_QUEUE_NAME", "Limits", "decode", "encode", "request_frames"]
