"""The messages of remote control, and what a worker keeps in mind of them."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from kombu.pidbox import Mailbox

from emq_compat.errors import MessageError
from emq_compat.manager.revokes import KEPT, KEPT_S, TOLD_S, Revokes, RevokesTold
from emq_compat.pidbox import Command, answered, asked_in, exchange_of, namespace_of

pytestmark = pytest.mark.unit


def test_a_command_as_kombu_sends_it() -> None:
    """All that a command says is read; empty members are absent ones."""
    body = {
        "method": "pool_grow",
        "arguments": {"n": 2},
        "destination": ["w1@h", "w2@h"],
        "pattern": None,
        "matcher": None,
        "ticket": "t1",
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"},
    }
    command = asked_in(body)
    assert (
        Command(
            method="pool_grow",
            arguments={"n": 2},
            destination=frozenset({"w1@h", "w2@h"}),
            reply_exchange="reply.celery.pidbox",
            reply_key="oid",
            ticket="t1",
        )
        == command
    )
    assert command.wants_reply
    assert command.concerns("w2@h")
    assert not command.concerns("w3@h")
    assert Command(method="ping", arguments={}) == asked_in({"method": "ping", "arguments": None})
    assert asked_in({"method": "ping", "destination": []}).concerns("anyone")


@pytest.mark.parametrize(
    ("matcher", "pattern", "expected"),
    [
        ("glob", "w*@host", True),
        ("glob", "x*", False),
        ("pcre", r"w\d@", True),
        ("pcre", r"\d", False),
        ("", "x*", True),
    ],
)
def test_patterns(matcher: str, pattern: str, expected: bool) -> None:
    """A node is meant by kombu's matchers; without one of them a pattern says nothing."""
    assert expected == Command(method="m", arguments={}, pattern=pattern, matcher=matcher).concerns("w1@host")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"method": None}, "method"),
        ({"arguments": [1]}, "arguments"),
        ({"destination": "w1@h"}, "destination"),
        ({"destination": [1]}, "destination"),
        ({"pattern": 1}, "pattern"),
        ({"reply_to": "x"}, "answer goes"),
    ],
)
def test_what_is_none(changed: dict[str, Any], named: str) -> None:
    """What is no command is refused, and the error names what is wrong."""
    with pytest.raises(MessageError, match=named):
        asked_in({"method": "ping", **changed})
    with pytest.raises(MessageError, match="object"):
        asked_in([1])


@pytest.mark.parametrize(("matcher", "pattern"), [("soundex", "w"), ("pcre", "(")])
def test_patterns_that_are_none(matcher: str, pattern: str) -> None:
    """An unknown matcher and a pattern that can't be compiled are named."""
    with pytest.raises(MessageError, match=r"soundex|\("):
        Command(method="m", arguments={}, pattern=pattern, matcher=matcher).concerns("w1@h")


def test_names_are_kombus() -> None:
    """The exchange of a namespace is kombu's, and is known by its name; that of replies is another one."""
    mailbox = Mailbox("proj", type="fanout")
    assert mailbox.exchange.name == exchange_of("proj")
    assert "proj" == namespace_of(mailbox.exchange.name)
    assert namespace_of(mailbox.reply_exchange.name) is None
    assert namespace_of("celeryev") is None


def test_answers() -> None:
    """An answer stands under its node; an error looks as one of a Celery worker does."""
    assert {"w@h": {"ok": "pong"}} == answered("w@h", b'{"ok": {"ok": "pong"}}')
    assert {"w@h": None} == answered("w@h", b'{"ok": null}')
    document = json.dumps({"error": {"type": "ValueError", "message": "no"}}).encode()
    assert {"w@h": {"error": "ValueError('no')"}} == answered("w@h", document)


def test_revokes_are_forgotten() -> None:
    """Revokes are kept for three hours, and only so many of them, the latest."""
    now = 0.0
    revokes = Revokes(lambda: now)
    assert not revokes
    revokes.add(["a", "b"])
    now = KEPT_S / 2
    revokes.add(["a"])
    assert ["b", "a"] == list(revokes)
    now = KEPT_S
    assert "b" not in revokes
    assert {"a"} == revokes
    revokes.add(str(number) for number in range(KEPT))
    assert KEPT == len(revokes)
    assert "a" not in revokes
    assert "0" in revokes


def test_what_a_revoke_came_to_is_forgotten() -> None:
    """What a revoke came to is told again for a minute, as it was told last."""
    now = 1.0
    told = RevokesTold(lambda: now)
    told.note("a", "revoked")
    told.note("b", "terminating")
    assert [None, "revoked", "terminating"] == [told.get(one) for one in ("c", "a", "b")]
    now += TOLD_S / 2
    told.note("a", "terminating")
    now += TOLD_S / 2
    assert [None, "terminating"] == [told.get(one) for one in ("b", "a")]
    told.note("c", "revoked")
    assert 2 == len(told._told)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a|b|ab)+$",
        "(a?){30}a{30}$",
        "a?" * 30 + "a" * 30,
        ".*.*.*.*.*x",
        "(?=(a+)+$)a",
        "(a+?)*?$",
        "a" * 201,
    ],
)
def test_patterns_that_would_take_for_ever(pattern: str) -> None:
    """A pattern that could match in more ways than can be tried is refused before it is."""
    command = Command(method="m", arguments={}, pattern=pattern, matcher="pcre")
    with pytest.raises(MessageError, match=r"too many ways|at most 200"):
        command.concerns("a" * 60 + "!")


def test_globs_that_would_take_long() -> None:
    """Globs end, however many stars they have; one so long that it takes seconds to read is refused."""
    started = time.process_time()
    assert not Command(method="m", arguments={}, pattern="*a" * 100, matcher="glob").concerns("a" * 99)
    assert time.process_time() - started < 2
    with pytest.raises(MessageError, match="at most 200"):
        Command(method="m", arguments={}, pattern="*a" * 101, matcher="glob").concerns("a")


@pytest.mark.parametrize(
    "pattern",
    [
        r"worker-\d+@host.*",
        r"(?:web|mail|image)-[a-z]{2,8}\d*@.*\.prod$",
        r"^(?P<kind>\w+)@(host)(?:\.lan)?$",
        ".*.*.*x",
        "",
    ],
)
def test_patterns_that_end(pattern: str) -> None:
    """What people write is taken, and the longest of names is done with in a moment."""
    started = time.process_time()
    command = Command(method="m", arguments={}, pattern=pattern, matcher="pcre")
    assert (re.match(pattern, "mail-de2@x.prod") is not None) == command.concerns("mail-de2@x.prod")
    command.concerns("a" * 100_000)
    assert time.process_time() - started < 2
