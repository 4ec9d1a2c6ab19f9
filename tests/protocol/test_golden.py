"""What stock eventmq 0.3.13 really sent is understood, and said by us in the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emq_compat.protocol.commands import Disconnect, Hello, Request, Show
from emq_compat.protocol.frames import decode, encode

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).with_name("golden_stock_0_3_13.json")
MESSAGES: list[dict[str, Any]] = [
    message for message in json.loads(GOLDEN.read_text())["messages"] if message["to"] != "subscriber"
]


def _name(message: dict[str, Any]) -> str:
    return f"{message['from']}→{message['to']}: {message['case']}"


@pytest.mark.parametrize("message", MESSAGES, ids=_name)
def test_it_is_read_and_said_alike(message: dict[str, Any]) -> None:
    """Decoding what stock sent and encoding it again for a stock peer gives the same frames."""
    frames = [frame.encode() for frame in message["frames"]]
    command = decode(frames)
    if isinstance(command, Hello):
        assert 4 == len(frames)  # emq-cli's own; we answer it, and say HELLO only to peers of ours
        return
    again = encode(command, stock=True)
    assert again[:4] == [b"", b"eMQP/1.0", frames[2], frames[3]]
    if isinstance(command, Request):
        assert set(again[5].split(b",")) == set(frames[5].split(b","))
        assert (again[4], again[6]) == (frames[4], frames[6])
    elif not isinstance(command, Show | Disconnect):
        assert [_value(frame) for frame in again[4:]] == [_value(frame) for frame in frames[4:]]


def _value(frame: bytes) -> object:
    """A frame's JSON value, or its bytes: spaces in JSON don't matter."""
    try:
        return json.loads(frame)
    except ValueError:
        return frame
