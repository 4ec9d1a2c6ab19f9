"""What is fuzzed without sockets: each target takes bytes, and raises only where something is wrong with us.

What a target lets pass is the error that its code promises for bad input. ``corpus/NAME`` holds inputs that
reach its branches; ``tests/fuzzing/__main__.py`` finds more.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from kombu.exceptions import ContentDisallowed, DecodeError

from emq_compat.backends.record import result_of
from emq_compat.broker.asks import Asks
from emq_compat.broker.keyed import Keyed
from emq_compat.broker.records import Send
from emq_compat.celery_message import CeleryMessage, delivery_of, message_of
from emq_compat.celery_shim import Celery
from emq_compat.errors import (
    ConfigurationError,
    LocalProtocolError,
    MessageError,
    NotAllowed,
    NotResolved,
    RemoteProtocolError,
)
from emq_compat.headers import Headers, ReplyHeaders
from emq_compat.keys import authorized_clients
from emq_compat.kombu_message import is_wrapped, json_body, unwrapped, wrapped
from emq_compat.message import Job
from emq_compat.paths import AllowedPaths
from emq_compat.permits import FULL, Permit
from emq_compat.pidbox import asked_in
from emq_compat.protocol.commands import VERSION, Request
from emq_compat.protocol.frames import decode, encode
from emq_compat.protocol.roles import CLIENT, WORKER
from emq_compat.shim.packing import MARKER, pack
from emq_compat.shim.results.content import value_of
from emq_compat.stored import StoredResult
from emq_compat.wire.zmtp import Zmtp, ZmtpError
from tests.broker.bench import Bench
from tests.faults import zmtp

__all__ = ["CORPUS", "TARGETS", "joined"]

_RAISED = ("FAILURE", "RETRY", "REVOKED")

app = Celery("fuzzed", broker="memory://")

CORPUS = Path(__file__).parent / "corpus"

#: Between the frames of an input, and between the messages of a conversation.
FRAME, MESSAGE = b"\xff|", b"\xff\n"


def joined(messages: list[list[bytes]]) -> bytes:
    """Return the input that stands for these messages."""
    return MESSAGE.join(FRAME.join(frames) for frames in messages)


def protocol(data: bytes) -> None:
    """Frames become a command or the peer's error; what became one can be said again and means the same."""
    frames = data.split(FRAME)
    for given in (frames, [b"", VERSION, *frames]):
        with suppress(RemoteProtocolError):
            command = decode(given)
            with suppress(LocalProtocolError):
                again = decode(encode(command))
                assert command == again, f"{command!r} was read again as {again!r}"


def headers(data: bytes) -> None:
    """Headers are read or refused; what was read is written so that it is read as the same."""
    text = data.decode("utf-8", "replace")
    for kind in (Headers, ReplyHeaders):
        with suppress(MessageError):
            found = kind.decode(text)
            again = kind.decode(found.encode())
            assert found == again, f"{found!r} was read again as {again!r}"


def celery(data: bytes) -> None:
    """A Celery message becomes a delivery, whatever is in it, and comes back, or is refused by name."""
    head, _, body = data.partition(FRAME)
    try:
        given = json.loads(head)
    except (ValueError, RecursionError):
        given = {"task": "t", "id": "i"}
    if not isinstance(given, dict):
        given = {"headers": given}
    message = CeleryMessage(
        body=body,
        content_type=given.get("content_type", "application/json"),
        content_encoding=given.get("content_encoding", "utf-8"),
        headers=given.get("headers", {}),
        properties=given.get("properties") if isinstance(given.get("properties"), dict) else {},
    )
    with suppress(MessageError):
        delivery = delivery_of(message, queue="q", msgid="m")
        Headers.decode(delivery.headers.encode())
        message_of(delivery.headers, delivery.payload, accept=("json", "msgpack"))


def job(data: bytes) -> None:
    """A job's payload is read or refused, and names nothing that isn't allowed."""
    with suppress(MessageError):
        found = Job.decode(data)
        with suppress(MessageError):
            message_of(Headers(), data)
        with suppress(NotAllowed, NotResolved, ModuleNotFoundError):
            target = _allowed().resolve(found)
            assert target is json.dumps, f"{found.path}.{found.callable} was resolved"


@cache
def _allowed() -> AllowedPaths:
    return AllowedPaths(["json.dum?s"])


def kombu(data: bytes) -> None:
    """A wrapped message, and a command of remote control, is read or refused."""
    payload = data if is_wrapped(data) else b'["kombu",' + data + b"]"
    json_body(payload)
    with suppress(MessageError):
        wrapped(unwrapped(payload))
    with suppress(MessageError, ValueError, TypeError, RecursionError):
        document = json.loads(data)
        command = asked_in(document)
        command.concerns("celery@h")


def records(data: bytes) -> None:
    """A stored result, ours or Celery's, becomes a value or an exception, and imports nothing."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    _app()
    before = set(sys.modules)
    for read in (lambda: StoredResult(str(document.get("state", "FAILURE")), reply=document), result_of):
        stored = read(document) if read is result_of else read()
        with suppress(*((ContentDisallowed, DecodeError, ValueError) if stored.state not in _RAISED else ())):
            value = value_of(stored, _app())
            if stored.state in _RAISED:
                assert isinstance(value, BaseException), f"{value!r} can't be raised"
                str(value)
                repr(value)
    new = set(sys.modules) - before
    assert not {name for name in new if not name.startswith(("kombu", "emq_compat"))}, f"imported {new}"


@cache
def _app() -> Any:
    value_of(
        StoredResult("SUCCESS", reply={"value": {"__type__": MARKER, "__value__": pack(1, "json", "gzip")}}),
        app,
    )
    return app


def keys(data: bytes) -> None:
    """A file of a listed key is read or refused."""
    folder = _folder()
    (folder / "clients" / "one.pub").write_bytes(data)
    with suppress(ConfigurationError):
        for permit in authorized_clients(folder).values():
            permit.may_publish(data.decode("utf-8", "replace")[:255])
            permit.may_take("q")


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="emq-fuzz-"))
    (folder / "clients").mkdir()
    return folder


PERMITS = (
    FULL,
    Permit(name="c"),
    Permit(name="w", role="worker"),
    Permit(name="cq", publish=("fuzz", "a*")),
    Permit(name="wq", role="worker", publish=("fuzz",), take=("fuzz", "b")),
    None,
)


def broker(data: bytes) -> None:
    """A conversation with a broker, of clients and workers with and without keys, leaves it at work.

    Each message is led by a byte: who says it, and which permit that one has.
    """
    bench = Bench()
    try:
        asks = Asks(bench.engine, lambda file, done: done(None), bench.now)
        keyed = Keyed(bench.engine, asks)
        for said in data.split(MESSAGE)[:40]:
            _turn(bench, asks, keyed, said)
    finally:
        Bench.opened.remove(bench)
        bench.store.close()


def _turn(bench: Bench, asks: Asks, keyed: Keyed, said: bytes) -> None:
    who = said[0] if said else 0
    engine, now = bench.engine, bench.now
    permit = PERMITS[who // 4 % len(PERMITS)]
    from_worker = bool(who & 1)
    identity = (b"w.%d" if from_worker else b"client.%d") % (who >> 1 & 1)
    with suppress(RemoteProtocolError):
        command = decode([b"", VERSION, *said[1:].split(FRAME)])
        engine.begin_turn([command] if isinstance(command, Request) else [])
        if from_worker and type(command) in WORKER.says:
            if permit is FULL:
                engine.from_worker(identity, command, now)
            else:
                keyed.from_worker(identity, command, permit, now)
        elif not from_worker and type(command) in CLIENT.says:
            if permit is FULL:
                engine.from_client(identity, command, now)
            else:
                keyed.from_client(identity, command, permit, now)
    bench.wall += 0.5
    bench.mono += 0.5
    now = bench.now
    engine.tick(now)
    asks.tick(now)
    engine.hand_out(now)
    engine.close_turn(now)
    bench.store.commit()
    for sent in engine.take_outbox():
        if isinstance(sent, Send):
            with suppress(LocalProtocolError):
                encode(sent.command, stock=sent.stock)
    engine.topics.take()
    engine.desk.notes.clear()


def stream(data: bytes) -> None:
    """What a connection says to a ROUTER means the same however it is cut, and is cut off by an error alone.

    The first byte says where it is cut; the handshake is put before it where its lowest bit is set.
    """
    where = data[0] if data else 0
    said = (zmtp.opening() if where & 1 else b"") + data[1:]
    outcomes = []
    for size in (len(said) or 1, 1 + (where >> 1)):
        heard: list[list[bytes]] = []
        peer = Zmtp(router=True, frame_bytes=1 << 17, frames=50, message_bytes=1 << 18)
        error = ""
        try:
            for at in range(0, len(said), size):
                peer.receive(said[at : at + size], heard)
                assert len(peer.outgoing) < 1 << 13, "it says too much"
        except ZmtpError as exc:
            error = str(exc)
        outcomes.append((heard, error, peer.established, peer.identity))
    assert outcomes[0] == outcomes[1], "it means another thing when it is cut"
    assert all(len(frames) <= 51 for frames in outcomes[0][0])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "protocol": protocol,
    "headers": headers,
    "celery": celery,
    "job": job,
    "kombu": kombu,
    "records": records,
    "keys": keys,
    "broker": broker,
    "stream": stream,
}
