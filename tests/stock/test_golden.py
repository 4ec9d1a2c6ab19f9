"""The recorded frames against the program that they were recorded from."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.stock.peers import Stock
from tests.stock.record_golden import GOLDEN, record

pytestmark = [pytest.mark.interop]


def _shape(messages: list[dict[str, Any]]) -> list[tuple[str, str, str, list[str], int]]:
    return [
        (message["from"], message["to"], message["case"], message["frames"][:3], len(message["frames"]))
        for message in messages
    ]


def _golden() -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(GOLDEN.read_text())["messages"]
    return messages


def test_every_command_of_both_directions_is_recorded() -> None:
    """The golden file holds every command that a stock peer says."""
    said = Counter(
        (message["from"], message["frames"][2]) for message in _golden() if message["to"] != "subscriber"
    )
    assert {
        *(("client", command) for command in ("REQUEST", "SCHEDULE", "UNSCHEDULE", "PUBLISH")),
        *(("worker", command) for command in ("INFORM", "READY", "HEARTBEAT", "REPLY", "KBYE")),
        *(("scheduler", command) for command in ("INFORM", "HEARTBEAT", "REQUEST", "KBYE")),
        *(
            ("broker", command)
            for command in ("ACK", "HEARTBEAT", "REQUEST", "REPLY", "SCHEDULE", "UNSCHEDULE", "KBYE")
        ),
        *(("admin", command) for command in ("HELLO", "STATUS", "DISCONNECT")),
        *(("admin", command) for command in ("ROUTER_SHOW_WORKERS", "ROUTER_SHOW_SCHEDULERS")),
    } == set(said)


@pytest.mark.long
def test_a_new_recording_has_the_same_shape(stock: Stock) -> None:
    """Recording again gives the same commands in the same cases, with as many frames each."""
    assert _shape(_golden()) == _shape(record(stock))
