"""Who may say what to a broker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emq_compat.message import ReplyHeaders
from emq_compat.protocol.commands import (
    Ack,
    Command,
    Kbye,
    PublishTopic,
    Ready,
    Reply,
    Show,
    Shown,
)
from emq_compat.protocol.frames import decode
from emq_compat.protocol.roles import ADMINISTRATOR, CLIENT, PUBLISHER, WORKER, Role

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).with_name("golden_stock_0_3_13.json")
ROLES = {"client": CLIENT, "scheduler": CLIENT, "worker": WORKER, "admin": ADMINISTRATOR}


def _said_to_brokers() -> list[Any]:
    messages = json.loads(GOLDEN.read_text())["messages"]
    return [
        pytest.param(ROLES[m["from"]], [f.encode() for f in m["frames"]], id=f"{m['from']}: {m['case']}")
        for m in messages
        if m["to"] == "broker"
    ]


@pytest.mark.parametrize(("role", "frames"), _said_to_brokers())
def test_whatever_stock_peers_say_is_theirs_to_say(role: Role, frames: list[bytes]) -> None:
    """No message of a stock client, scheduler, job manager or emq-cli is refused for who says it."""
    said = type(decode(frames))
    assert said in (PUBLISHER if said is PublishTopic else role).says


@pytest.mark.parametrize(
    ("role", "command", "word"),
    [
        (CLIENT, Ready(msgid="m"), "READY"),
        (CLIENT, Ack(msgid="m", acked=("a",)), "ACK"),
        (ADMINISTRATOR, PublishTopic(msgid="m", topic="t", payload=b""), "PUBLISH"),
        (WORKER, Show(msgid="m", what="STATUS"), "STATUS"),
        (WORKER, Shown(msgid="m", body=b"{}"), "REPLY"),
        (ADMINISTRATOR, Reply(msgid="m", body=b"", request_msgid="r", headers=ReplyHeaders()), "REPLY"),
        (PUBLISHER, Kbye(msgid="m"), "KBYE"),
    ],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_the_refusal_names_it(role: Role, command: Command, word: str) -> None:
    """What a peer may not say is refused with an error that names the command, the message and the peer."""
    assert type(command) not in role.says
    error = role.refusal(command)
    assert f"{word} is not for {role.name}s to say here" == str(error)
    assert (word, "m") == (error.command, error.msgid)
