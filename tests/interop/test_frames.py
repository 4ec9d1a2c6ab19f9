"""What our broker says to stock peers, frame by frame, against what stock eventmq says in its place."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from emq_compat.message import Headers, Job, Publish, new_id
from tests.broker_process import Broker
from tests.hand_worker import HandWorker
from tests.interop.conftest import Notes, defer
from tests.processes import wait_until
from tests.stock.peers import Stock
from tests.stock.record_golden import GOLDEN

pytestmark = [pytest.mark.interop]

#: Whole; stock eventmq looks for these words anywhere in the text.
_HEADERS = re.compile(r"reply-requested(,retry-count:\d+)?(,timeout:[1-9]\d*)?").fullmatch


def _golden(sender: str, receiver: str) -> list[dict[str, Any]]:
    messages = json.loads(GOLDEN.read_text())["messages"]
    return [m for m in messages if (m["from"], m["to"]) == (sender, receiver)]


def _shapes(receiver: str) -> set[tuple[str, int]]:
    """(command, number of frames) of all that a stock router says to this kind of peer."""
    return {(m["frames"][2], len(m["frames"])) for m in _golden("broker", receiver)}


class Played:
    """A stock peer that a test plays with recorded frames; it keeps all that it hears."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, kind: str) -> None:
        self.identity = str(uuid.uuid4())
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, self.identity.encode())
        self.socket.connect(endpoint)
        self.recorded = {m["case"]: m["frames"] for m in _golden(kind, "broker")}
        self.heard: list[list[bytes]] = []

    def say(self, case: str, **changed: str) -> str:
        """Say what was recorded for a case, with a fresh msgid; `frame_N` replaces a frame."""
        frames = list(self.recorded[case])
        frames[3] = str(uuid.uuid4())
        for name, value in changed.items():
            frames[int(name.removeprefix("frame_"))] = value
        self.socket.send_multipart([frame.encode() for frame in frames])
        return str(frames[3])

    def commands(self, name: str) -> list[list[str]]:
        """All messages of a command so far, as text."""
        while self.socket.poll(0):
            self.heard.append(self.socket.recv_multipart())
        return [[f.decode() for f in frames] for frames in self.heard if frames[2] == name.encode()]

    def wait(self, name: str, count: int = 1, timeout_s: float = 15.0) -> list[list[str]]:
        """Wait until so many messages of a command are there."""
        wait_until(lambda: len(self.commands(name)) >= count, timeout_s, what=f"{count} {name}")
        return self.commands(name)


@pytest.fixture
def played(broker: Broker) -> Iterator[Callable[[str, str], Played]]:
    """A function that connects a played peer: its kind in the recording, the name of the endpoint."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peers: list[Played] = []

    def play(kind: str, endpoint: str) -> Played:
        peers.append(Played(context, broker.endpoint(endpoint), kind))
        return peers[-1]

    yield play
    for peer in peers:
        peer.socket.close(linger=0)
    context.destroy(linger=0)


def _shim_like(queue: str = "default", **headers: Any) -> Publish:
    """A message with all that we add to one."""
    celery = {"task": "timeout:1", "origin": "reply-requested", "nohaste": "guarantee", "id": "ü"}
    job = Job(path="pkg", callable="f", args=("ü", "\ud800"), celery=celery)
    head = Headers(
        **{"task_id": new_id(), "task": "timeout:2,retry-count:x", "chord": "timeout:1:2", **headers}
    )
    return Publish(queue=queue, headers=head, payload=job.encode())


#: What stock eventmq can't read.
POISON = {
    "not UTF-8": b"\xff\xfe",
    "half a character": '["run", {"path": "m", "callable": "f", "args": ["ü'.encode()[:-1],
    "not JSON": b"timeout:1",
    "no options": b'["run"]',
    "the word that ends its thread": b'["run", "DONE"]',
    "no object": b"null",
    "deep": b'["run", {"path": "m", "callable": "f", "args": ' + b"[" * 5000 + b"]" * 5000 + b"}]",
    "empty": b"",
}


def _poison() -> list[Publish]:
    head = Headers(guarantee=True)
    return [Publish(queue="default", headers=head, payload=payload) for payload in POISON.values()]


def test_a_stock_worker_hears_only_what_a_stock_router_says(
    broker: Broker, played: Callable[[str, str], Played], hand_worker: Callable[..., HandWorker]
) -> None:
    """Through publishes, questions, a restart and the end: commands, frames and headers are stock's."""
    broker.start("--dead-after", "2")
    worker = played("worker", "backend")
    informed = worker.say("INFORM worker, no queue")
    assert [informed] == [ack[4] for ack in worker.wait("ACK")]
    ours = hand_worker("q")
    ours.ready(1)
    broker.client.publish(_shim_like("q"))
    ours.take(1)

    messages = [
        _shim_like(),
        _shim_like(priority=9, soft_limit_s=0.5, limit_s=2.5),
        _shim_like(timeout=7, retry_count=2, reply_requested=True),
        _shim_like(timeout=0, expires=time.time() + 600, retries=3, no_result=True),
        _shim_like(eta=time.time() + 0.3),
        Publish(queue="", headers=Headers(), payload=Job(path="p", callable="c").encode()),
    ]
    broker.client.publish_all([*_poison(), *messages])
    for _ in range(len(messages) + 2):
        worker.say("READY")
    requests = worker.wait("REQUEST", len(messages))
    assert {m.msgid for m in messages} == {request[3] for request in requests}
    ids = [m.headers.task_id for m in messages if m.headers.task_id]
    broker.client.ask("revoke", ids=ids, terminate=True)
    broker.client.inspect("ping", timeout_s=0.2)
    broker.client.inspect("active", destination=[worker.identity], timeout_s=0.2)
    for request in requests[:3]:
        worker.say("REPLY, a value", frame_5=request[3])
    worker.say("REPLY, a timeout", frame_5=requests[3][3])
    worker.say("REPLY, an exception", frame_5="never heard of")
    worker.say("HEARTBEAT of a worker")
    wait_until(lambda: broker.client.ask("stats")["stale"] == 1, what="the stale REPLY")

    assert broker.proc is not None
    broker.proc.kill()
    broker.start("--dead-after", "2")
    for case in ("HEARTBEAT of a worker", "READY", "KBYE at TERM"):
        worker.say(case)
    worker.say("REPLY, a value", frame_5=requests[4][3])
    wait_until(lambda: broker.client.ask("stats")["in_flight"] == 2, what="the REPLY of a stranger")
    worker.say("INFORM worker, two queues")
    worker.wait("ACK", 2)
    beats = len(worker.commands("HEARTBEAT"))
    worker.wait("HEARTBEAT", beats + 2)
    worker.say("KBYE at TERM")
    informed_again = worker.say("INFORM worker")
    assert informed_again == worker.wait("ACK", 3)[-1][4]
    admin = played("admin", "admin")
    admin.say("DISCONNECT of emq-cli")
    worker.wait("KBYE")

    said = [[frame.decode() for frame in frames] for frames in worker.heard]
    assert {("", "eMQP/1.0")} == {(frames[0], frames[1]) for frames in said}
    assert _shapes("worker") == {(frames[2], len(frames)) for frames in said}
    golden_options = json.loads(_golden("broker", "worker")[2]["frames"][6])[1]
    for request in worker.commands("REQUEST"):
        assert _HEADERS(request[5]), request
        subcommand, options = json.loads(request[6])
        assert "run" == subcommand
        assert set(golden_options) | {"celery"} >= set(options) >= set(golden_options)
    for beat in worker.commands("HEARTBEAT"):
        assert abs(float(beat[4]) - time.time()) < 600


def test_schedulers_and_administrators_hear_only_what_a_stock_router_says(
    broker: Broker, played: Callable[[str, str], Played]
) -> None:
    """ACK and HEARTBEAT to a scheduler; a REPLY with one JSON object, and ACK, to an administrator."""
    broker.start("--dead-after", "2")
    scheduler, admin = played("scheduler", "frontend"), played("admin", "admin")
    assert scheduler.say("INFORM scheduler") == scheduler.wait("ACK")[0][4]
    scheduler.say("HEARTBEAT of a scheduler")
    scheduler.say("REQUEST of a scheduler")
    scheduler.wait("HEARTBEAT", 3)
    scheduler.say("KBYE of a scheduler")
    recorded = {m["case"]: m["frames"][4] for m in _golden("broker", "admin")}
    admin.say("HELLO of emq-cli")
    for n, command in enumerate(("STATUS", "ROUTER_SHOW_WORKERS", "ROUTER_SHOW_SCHEDULERS"), 1):
        admin.say(f"{command} of emq-cli")
        shown = json.loads(admin.wait("REPLY", n)[-1][4])
        assert set(json.loads(recorded[f"REPLY to {command}"])) == set(shown)
    assert admin.say("DISCONNECT of emq-cli") == admin.wait("ACK")[0][4]
    scheduler.commands("")
    assert _shapes("scheduler") >= {(f[2].decode(), len(f)) for f in scheduler.heard}
    assert _shapes("admin") == {(f[2].decode(), len(f)) for f in admin.heard}


def test_every_recorded_request_of_a_client_is_taken(
    broker: Broker, played: Callable[[str, str], Played], hand_worker: Callable[..., HandWorker]
) -> None:
    """What a stock client says is stored as it was said; only a guarantee is acknowledged."""
    broker.start()
    client = played("client", "frontend")
    cases = [case for case in client.recorded if case.startswith("REQUEST")]
    msgids = {client.say(case): case for case in cases}
    guaranteed = {msgid for msgid, case in msgids.items() if "guarantee" in client.recorded[case][5]}
    worker = hand_worker("default", "mail")
    worker.ready(len(cases))
    taken = worker.take(len(cases))
    assert set(msgids) == {request.msgid for request in taken}
    for request in taken:
        frames = client.recorded[msgids[request.msgid]]
        assert (frames[4], frames[6]) == (request.queue, request.payload.decode())
        assert frames[5] == request.headers.stock()
    assert guaranteed == {ack[4] for ack in client.wait("ACK", len(guaranteed))}
    for case in client.recorded:
        if "SCHEDULE" in case:
            client.say(case)
    wait_until(lambda: broker.client.ask("schedules") == [], what="the last UNSCHEDULE")
    assert 0 == broker.client.ask("stats")["malformed"]
    assert 0 == broker.client.ask("stats")["refused"]


def test_what_would_break_a_stock_job_manager_never_reaches_it(
    broker: Broker, stock: Stock, notes: Notes
) -> None:
    """What it can't read becomes a dead letter; all else runs, in the session that it began with."""
    broker.start()
    manager = stock.jobmanager(broker=broker.endpoint("backend"), jobs=4)
    broker.client.publish_all(_poison())
    name = "stock_tasks"
    odd: list[dict[str, Any]] = [
        {"path": name, "callable": "nowhere"},
        {"path": "no.such.module", "callable": "f"},
        {"path": f"{name}:Nobody", "callable": "f"},
        {"path": f"{name}:Counter", "callable": "up", "args": (2,), "class_args": (1, 2, 3)},
        {"path": "", "callable": "f"},
        {"path": name, "callable": "add", "args": (1, 2, 3, 4)},
        {"path": name, "callable": "add", "kwargs": {"z": 1}},
        {"path": name, "callable": "add", "args": ("\ud800", "\x00")},
        {"path": name, "callable": "fail", "args": ("timeout:1",)},
    ]
    for options in odd:
        message = Publish(queue="default", headers=Headers(), payload=Job(**options).encode())
        broker.client.publish(message)
    defer(stock, broker.endpoint("frontend"), f"'stock_tasks.note', args=[{notes.path!r}, 'alive']")
    notes.wait(1, timeout_s=30)
    wait_until(lambda: broker.client.ask("stats")["in_flight"] == 0, what="all replies")
    assert manager.alive()
    assert 1 == manager.output().count("Starting event loop")
    assert "Unhandled exception" not in manager.output()
    dead = broker.client.ask("dead_list", limit=100, after=0)
    assert len(POISON) + 1 == len(dead)
