"""Clients that misbehave, each in a process of its own until it is ended.

    python -m tests.faults.unruly KIND PORT [ARGUMENT]

KIND: ``crowd`` (ARGUMENT connections: a tenth of them say nothing, a tenth half a greeting, the others
HELLO), ``deaf`` (asks for a result, ARGUMENT its task id, over and over and never reads), ``deaf-waits`` (the
same with waits), ``deaf-topics`` (subscribes to everything), ``halves`` (breaks off anywhere), ``endless`` (a
message without an end), ``publishes`` and ``asks`` (as fast as it can).
"""

from __future__ import annotations

import itertools
import os
import random
import resource
import selectors
import socket
import sys
import time

import zmq

from emq_compat.message import Headers, Job, new_id
from emq_compat.protocol.commands import Ask, Hello, Request
from emq_compat.protocol.frames import encode
from emq_compat.wire import Wire
from tests.faults import zmtp
from tests.faults.zmtp import Raw


def say(text: str) -> None:
    """Tell whoever has started this."""
    print(text, flush=True)


def crowd(port: int, count: str) -> None:
    """Stand there, in great number."""
    wanted = int(count)
    hard = max(wanted + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted + 100, hard), hard))
    selector = selectors.DefaultSelector()
    standing = closed = connected = 0

    def connect(n: int) -> None:
        nonlocal connected
        sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        if n % 10 == 1:
            sock.sendall(zmtp.GREETING[: random.randrange(1, 64)])
        elif n % 10:
            sock.sendall(zmtp.opening("crowd"))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
        connected += 1

    def listen(timeout_s: float) -> None:
        nonlocal standing, closed
        for key, _ in selector.select(timeout_s):
            assert isinstance(key.fileobj, socket.socket)
            try:
                data = key.fileobj.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                closed += 1
                selector.unregister(key.fileobj)
                key.fileobj.close()
            if b"READY" in data:
                key.fileobj.send(zmtp.hello())
            if b"HELLO" in data:
                standing += 1

    for n in range(wanted):
        connect(n)
        if n % 50 == 0:
            listen(0)
    say(f"connected {connected}")
    told = ""
    while True:
        listen(0.5)
        now = f"standing {standing}, closed {closed}"
        if now != told:
            told = now
            say(now)


def _deaf(port: int, verb: str, arguments: dict[str, object]) -> None:
    for n in itertools.count():
        raw = Raw(port, receive_buffer=4096).shake("deaf")
        asked = 0
        while raw.send(zmtp.said(Ask(msgid=new_id(), verb=verb, arguments=arguments))):
            asked += 1
            if asked in (1, 100, 1000):
                say(f"asked {asked}")
        say(f"stuck {n} after {asked}")
        time.sleep(0.2)


def deaf(port: int, task_id: str) -> None:
    """Ask for results and read none."""
    _deaf(port, "results", {"ids": [task_id]})


def deaf_waits(port: int, task_id: str) -> None:
    """Wait for results and read none."""
    _deaf(port, "wait", {"ids": [task_id]})


def deaf_topics(port: int, _: str) -> None:
    """Subscribe to everything, again and again, and read nothing."""
    _deaf(port, "subscribe", {"topics": [""]})


def halves(port: int, seed: str) -> None:
    """Break off anywhere."""
    rng = random.Random(int(seed or "0"))
    whole = zmtp.opening("half") + zmtp.hello()
    kept: list[Raw] = []
    for n in itertools.count(1):
        kind = rng.randrange(6)
        raw = Raw(port) if kind in (0, 1, 5) else Raw(port).shake("half")
        if kind == 0:
            raw.send(whole[: rng.randrange(len(whole))])
        elif kind == 1:
            raw.send(rng.randbytes(rng.randrange(1, 500)))
        elif kind == 2:
            raw.send(rng.randbytes(rng.randrange(1, 2000)))
        elif kind == 3:  # 60 MB that don't come
            raw.send(b"\x02" + (60 << 20).to_bytes(8, "big") + b"x" * 1000)
        elif kind == 4:  # far more than is allowed
            raw.send(b"\x02" + (1 << 40).to_bytes(8, "big") + b"x" * 1000)
        else:
            cut = bytearray(whole)
            cut[rng.randrange(len(cut))] = rng.randrange(256)
            raw.send(bytes(cut))
        if rng.random() < 0.5:
            raw.close()
        else:
            kept.append(raw)
        if len(kept) > 50:
            kept.pop(0).close()
        if n % 100 == 0:
            say(f"broke off {n}")


def endless(port: int, _: str) -> None:
    """Send a message that never ends."""
    part = zmtp.more(b"x" * 10_000) * 10
    for n in itertools.count():
        raw = Raw(port).shake("endless")
        sent = 0
        while raw.send(part):
            sent += len(part)
            if sent // len(part) % 100 == 0:
                say(f"sent {sent >> 20} MB")
        say(f"cut off {n} after {sent >> 20} MB")


def _flood(port: int, commands: list[list[bytes]]) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wire = Wire(context, f"tcp://127.0.0.1:{port}", identity=f"flood.{os.urandom(6).hex()}".encode())
    wire.socket.setsockopt(zmq.SNDHWM, 1000)
    wire.send(Hello(msgid=new_id(), about={}))
    began = time.monotonic()
    for sent, frames in enumerate(itertools.cycle(commands), 1):
        wire.socket.send_multipart([*frames[:3], new_id().encode(), *frames[4:]])
        if sent % 500 == 0:
            wire.receive(10_000)
            if time.monotonic() - began > 0.5:
                say(f"sent {sent}")
                began = time.monotonic()


def publishes(port: int, queue: str) -> None:
    """Publish without waiting for anything."""
    payload = Job(path="tests.faults.faulty_tasks", callable="flood").encode()
    headers = Headers(task="tests.faults.faulty_tasks.flood", task_id=new_id(), no_result=True)
    _flood(port, [encode(Request(msgid=new_id(), queue=queue, headers=headers, payload=payload))])


def asks(port: int, count: str) -> None:
    """Ask without an end: what is cheap and what is dear, for so many ids."""
    ids = [new_id() for _ in range(int(count or "1"))]
    told = [
        Ask(msgid=new_id(), verb="results", arguments={"ids": ids}),
        Ask(msgid=new_id(), verb="wait", arguments={"ids": ids}),
        Ask(msgid=new_id(), verb="queues", arguments={}),
        Ask(msgid=new_id(), verb="stats", arguments={}),
        Ask(msgid=new_id(), verb="workers", arguments={}),
    ]
    _flood(port, [encode(ask) for ask in told])


KINDS = {
    "crowd": crowd,
    "deaf": deaf,
    "deaf-waits": deaf_waits,
    "deaf-topics": deaf_topics,
    "halves": halves,
    "endless": endless,
    "publishes": publishes,
    "asks": asks,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
