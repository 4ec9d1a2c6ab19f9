"""Record the frames that stock eventmq 0.3.13 really sends: `python -m tests.stock.record_golden [FILE]`.

Each stock program in turn talks to a bare socket in its peer's place, which writes down what arrives. What
that socket itself says is not recorded. Message ids, identities and timestamps differ from one recording to
the next.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from tests.processes import Procs, unused_port, wait_until
from tests.stock.peers import Stock, stock_environment

GOLDEN = Path(__file__).resolve().parents[1] / "protocol" / "golden_stock_0_3_13.json"
VERSION = b"eMQP/1.0"
TIMEOUT_S = 20.0

ABOUT = (
    "Frames that stock eventmq 0.3.13 sent, recorded by tests/stock/record_golden.py. `frames` is what a"
    " DEALER sends or receives, from the empty frame on (for PUBLISH's subscribers: topic, payload);"
    " `identity` is the frame that a ROUTER sees before them, null where the receiver is no ROUTER."
    " Every frame is UTF-8 text."
)


class Recording:
    """The messages recorded so far, and the bare sockets that hear them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._peers: list[Peer] = []

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self._peers:
            peer.socket.close(linger=0)
        self._context.term()

    def peer(self, kind: int, identity: bytes | None = None) -> Peer:
        """A bare socket in a stock program's place."""
        peer = Peer(self._context, kind, identity)
        self._peers.append(peer)
        return peer

    def add(
        self, sender: str, receiver: str, case: str, frames: list[bytes], identity: bytes | None = None
    ) -> None:
        self.messages.append(
            {
                "from": sender,
                "to": receiver,
                "case": case,
                "identity": identity and identity.decode(),
                "frames": [frame.decode() for frame in frames],
            }
        )


class Peer:
    """A bare socket in a stock program's place."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], kind: int, identity: bytes | None = None
    ) -> None:
        self.socket = context.socket(kind)
        self.is_router = kind == zmq.ROUTER
        if identity:
            self.socket.setsockopt(zmq.IDENTITY, identity)

    def bind(self) -> str:
        address = f"tcp://127.0.0.1:{unused_port()}"
        self.socket.bind(address)
        return address

    def connect(self, address: str) -> Peer:
        self.socket.connect(address)
        return self

    def say(self, command: bytes, *rest: bytes, to: bytes | None = None) -> bytes:
        """Send a command with a fresh msgid, which is returned."""
        msgid = f"golden-{time.monotonic_ns()}".encode()
        self.socket.send_multipart([*([to] if to else []), b"", VERSION, command, msgid, *rest])
        return msgid

    def hear(
        self, wanted: bytes | None = None, timeout_s: float = TIMEOUT_S
    ) -> tuple[bytes | None, list[bytes]]:
        """The next message (identity, frames), past those that are not the command `wanted`."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000))
            if not self.socket.poll(left_ms):
                raise TimeoutError(f"{wanted!r} did not come within {timeout_s:g} s")
            parts = self.socket.recv_multipart()
            identity, frames = (parts[0], parts[1:]) if self.is_router else (None, parts)
            if wanted is None or frames[2] == wanted:
                return identity, frames


def record(stock: Stock) -> list[dict[str, Any]]:
    """Run every stock program and return the recorded messages, in a fixed order of cases."""
    with Recording() as recording:
        for part in (_client, _worker, _worker_goes, _scheduler, _router, _admin, _publisher):
            part(stock, recording)
        return recording.messages


def _job(function: str = "add", *args: object, path: str = "stock_tasks", **more: object) -> bytes:
    options = {
        "callable": function,
        "path": path,
        "args": args,
        "kwargs": {},
        "class_args": [],
        "class_kwargs": {},
    }
    return json.dumps(["run", {**options, **more}]).encode()


# What a stock client is told to send, one message a line.
CLIENT_CALLS = {
    "REQUEST, no header": "defer_job(socket, stock_tasks.add, args=[2, 3])",
    "REQUEST reply-requested": "defer_job(socket, stock_tasks.add, args=[2, 3], reply_requested=True)",
    "REQUEST guarantee": "defer_job(socket, stock_tasks.add, args=[2, 3], guarantee=True)",
    "REQUEST retry-count": "defer_job(socket, stock_tasks.add, args=[2, 3], retry_count=3)",
    "REQUEST timeout": "defer_job(socket, stock_tasks.add, args=[2, 3], timeout=9)",
    "REQUEST all headers": (
        "defer_job(socket, stock_tasks.add, args=[2, 3], reply_requested=True, guarantee=True,"
        " retry_count=3, timeout=9)"
    ),
    "REQUEST, a queue and kwargs": "defer_job(socket, stock_tasks.add, kwargs={'x': 2}, queue='mail')",
    "REQUEST, a callable by name": "defer_job(socket, 'stock_tasks.add', args=[2, 3])",
    "REQUEST, a method of a class": (
        "defer_job(socket, stock_tasks.Counter().up, args=[4], class_args=[1], class_kwargs={'step': 2})"
    ),
    "REQUEST, text beyond ASCII": "defer_job(socket, stock_tasks.add, args=['gr\\xfc\\xdfe ', '\\u2713'])",
    "SCHEDULE interval": "schedule(socket, stock_tasks.add, interval_secs=60, args=[2, 3])",
    "SCHEDULE cron": "schedule(socket, stock_tasks.add, cron='*/5 * * * *', args=[2, 3])",
    "SCHEDULE nohaste, run_count": (
        "schedule(socket, stock_tasks.add, interval_secs=60, args=[2, 3], queue='mail',"
        " headers=('nohaste', 'run_count:3'))"
    ),
    "SCHEDULE, no header": "schedule(socket, stock_tasks.add, interval_secs=60, args=[2, 3], headers=())",
    "UNSCHEDULE": "schedule(socket, stock_tasks.add, args=[2, 3], unschedule=True)",
    "UNSCHEDULE with the interval": (
        "schedule(socket, stock_tasks.add, interval_secs=60, args=[2, 3], unschedule=True)"
    ),
    "PUBLISH": "send_publish_request(socket, 'topic', ['update', '1'])",
}


def _client(stock: Stock, recording: Recording) -> None:
    router = recording.peer(zmq.ROUTER)
    calls = "".join(f"assert messages.{call}\n" for call in CLIENT_CALLS.values())
    stock.client(calls + "time.sleep(0.2)  # until the socket has sent\n", broker=router.bind())
    for case in CLIENT_CALLS:
        identity, frames = router.hear()
        recording.add("client", "broker", case, frames, identity)


def _worker(stock: Stock, recording: Recording) -> None:
    router = recording.peer(zmq.ROUTER)
    stock.jobmanager(broker=router.bind(), jobs=1, wait=False)
    identity, informed = router.hear(b"INFORM")
    assert identity is not None
    recording.add("worker", "broker", "INFORM worker", informed, identity)
    router.say(b"ACK", informed[3], to=identity)
    router.say(b"HEARTBEAT", str(time.time()).encode(), to=identity)

    def heard(command: bytes, case: str) -> None:
        recording.add("worker", "broker", case, router.hear(command)[1], identity)

    heard(b"READY", "READY")
    heard(b"HEARTBEAT", "HEARTBEAT of a worker")
    jobs = {
        "REPLY, a value": (b"reply-requested", _job("add", 2, 3)),
        "REPLY, a method of a class": (b"reply-requested", _job("up", 4, path="stock_tasks:Counter")),
        "REPLY, an exception": (b"reply-requested", _job("fail", "no such luck")),
        "REPLY, a callable that is not there": (b"reply-requested", _job("nowhere")),
        "REPLY, a timeout": (b"reply-requested,timeout:1", _job("sleep", 30)),
    }
    for case, (headers, payload) in jobs.items():
        msgid = router.say(b"REQUEST", b"default", headers, payload, to=identity)
        heard(b"REPLY", case)
        assert recording.messages[-1]["frames"][5] == msgid.decode()
        if (
            "timeout" not in case
        ):  # that process ends: its successor says READY after the broker's next HEARTBEAT
            heard(b"READY", f"READY after {case}")
    router.say(b"DISCONNECT", to=identity)
    heard(b"KBYE", "KBYE at DISCONNECT")


def _worker_goes(stock: Stock, recording: Recording) -> None:
    router = recording.peer(zmq.ROUTER)
    queues = ((10, "default"), (15, "mail"))
    manager = stock.jobmanager(broker=router.bind(), jobs=1, queues=queues, wait=False)
    identity, informed = router.hear(b"INFORM")
    assert identity is not None
    recording.add("worker", "broker", "INFORM worker, two queues", informed, identity)
    router.say(b"ACK", informed[3], to=identity)
    manager.wait_line("Starting event loop")
    manager.send_signal(15)
    recording.add("worker", "broker", "KBYE at TERM", router.hear(b"KBYE")[1], identity)

    router = recording.peer(zmq.ROUTER)
    stock.jobmanager(broker=router.bind(), jobs=1, queues=(), wait=False)
    identity, informed = router.hear(b"INFORM")
    recording.add("worker", "broker", "INFORM worker, no queue", informed, identity)


def _scheduler(stock: Stock, recording: Recording) -> None:
    router = recording.peer(zmq.ROUTER)
    stock.scheduler(frontend=router.bind(), wait=False)
    identity, informed = router.hear(b"INFORM")
    assert identity is not None
    recording.add("scheduler", "broker", "INFORM scheduler", informed, identity)
    router.say(b"ACK", informed[3], to=identity)
    router.say(b"HEARTBEAT", str(time.time()).encode(), to=identity)
    recording.add("scheduler", "broker", "HEARTBEAT of a scheduler", router.hear(b"HEARTBEAT")[1], identity)
    router.say(b"SCHEDULE", b"mail", b"guarantee", b"60", _job("add", 2, 3), b"", to=identity)
    recording.add("scheduler", "broker", "REQUEST of a scheduler", router.hear(b"REQUEST")[1], identity)
    router.say(b"DISCONNECT", to=identity)
    recording.add("scheduler", "broker", "KBYE of a scheduler", router.hear(b"KBYE")[1], identity)


def _started_router(stock: Stock) -> tuple[str, str, str]:
    frontend, backend, admin = (f"tcp://127.0.0.1:{unused_port()}" for _ in range(3))
    stock.router(frontend=frontend, backend=backend, admin=admin)
    return frontend, backend, admin


def _router(stock: Stock, recording: Recording) -> None:
    frontend, backend, admin = _started_router(stock)
    worker = recording.peer(zmq.DEALER, b"golden-worker").connect(backend)
    scheduler = recording.peer(zmq.DEALER, b"golden-scheduler").connect(frontend)
    client = recording.peer(zmq.DEALER, b"golden-client").connect(frontend)

    def heard(peer: Peer, receiver: str, command: bytes, case: str) -> None:
        recording.add("broker", receiver, case, peer.hear(command)[1])

    worker.say(b"INFORM", b'[[10, "default"]]', b"worker")
    heard(worker, "worker", b"ACK", "ACK of a worker's INFORM")
    heard(worker, "worker", b"HEARTBEAT", "HEARTBEAT to a worker")
    scheduler.say(b"INFORM", b"", b"scheduler")
    heard(scheduler, "scheduler", b"ACK", "ACK of a scheduler's INFORM")
    heard(scheduler, "scheduler", b"HEARTBEAT", "HEARTBEAT to a scheduler")
    operator = recording.peer(zmq.DEALER, b"golden-operator").connect(admin)

    def has_a_slot() -> bool:
        operator.say(b"ROUTER_SHOW_WORKERS")
        return b'"available_slots": 1' in operator.hear(b"REPLY")[1][4]

    worker.say(b"READY")
    # It reads clients first: without the slot it would keep the REQUEST, and say nothing to the client.
    wait_until(has_a_slot, what="a free slot")
    client.say(b"REQUEST", b"default", b"reply-requested,guarantee", _job("add", 2, 3))
    heard(worker, "worker", b"REQUEST", "REQUEST to a worker with a free slot")
    heard(client, "client", b"REPLY", "REPLY at the hand-out: the msgid alone")
    client.say(b"REQUEST", b"nobody-listens", b"", _job("add", 2, 3))
    worker.say(b"READY")
    heard(worker, "worker", b"REQUEST", "REQUEST that waited, for an unknown queue")
    client.say(b"SCHEDULE", b"default", b"guarantee", b"60", _job("add", 2, 3), b"")
    heard(scheduler, "scheduler", b"SCHEDULE", "SCHEDULE passed on")
    client.say(b"UNSCHEDULE", b"default", b"guarantee", b"-1", _job("add", 2, 3), b"")
    heard(scheduler, "scheduler", b"UNSCHEDULE", "UNSCHEDULE passed on")
    for command in (b"STATUS", b"ROUTER_SHOW_WORKERS", b"ROUTER_SHOW_SCHEDULERS"):
        operator.say(command)
        heard(operator, "admin", b"REPLY", f"REPLY to {command.decode()}")
    operator.say(b"DISCONNECT")
    heard(operator, "admin", b"ACK", "ACK of an administrator's DISCONNECT")
    heard(scheduler, "scheduler", b"KBYE", "KBYE to a scheduler")
    heard(worker, "worker", b"KBYE", "KBYE to a worker")


def _admin(stock: Stock, recording: Recording) -> None:
    router = recording.peer(zmq.ROUTER)
    # Without answers the shell fails at its first question, so each question gets a shell of its own.
    commands = {
        "status": "STATUS",
        "show_workers": "ROUTER_SHOW_WORKERS",
        "show_schedulers": "ROUTER_SHOW_SCHEDULERS",
    }
    address = router.bind()
    script = stock.environment.script("emq-cli")
    for typed, command in {**commands, "shutdown": "DISCONNECT"}.items():
        shell = stock.procs.start(script, "-a", address, stdin=f"{typed}\nquit\n".encode())
        identity, hello = router.hear(b"HELLO")
        assert identity is not None
        if command == "STATUS":
            recording.add("admin", "broker", "HELLO of emq-cli", hello, identity)
        _, asked = router.hear(command.encode())
        recording.add("admin", "broker", f"{command} of emq-cli", asked, identity)
        router.say(b"REPLY", b"{}", to=identity)
        shell.wait()


def _publisher(stock: Stock, recording: Recording) -> None:
    incoming, outgoing = (f"tcp://127.0.0.1:{unused_port()}" for _ in range(2))
    stock.pubsub(incoming=incoming, outgoing=outgoing)
    subscriber = recording.peer(zmq.SUB)
    subscriber.socket.setsockopt(zmq.SUBSCRIBE, b"topic")
    subscriber.connect(outgoing)
    client = recording.peer(zmq.DEALER, b"golden-client").connect(incoming)
    deadline = time.monotonic() + TIMEOUT_S
    while True:  # a PUB socket drops what it gets before the subscription has arrived
        client.say(b"PUBLISH", b"topic", b'["update", "1"]')
        try:
            _, frames = subscriber.hear(timeout_s=0.2)
        except TimeoutError:
            if time.monotonic() > deadline:
                raise
            continue
        recording.add("publisher", "subscriber", "what a subscriber gets", frames)
        return


def recorded(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The golden file's content."""
    peers = {"python": platform.python_version(), "pyzmq": zmq.__version__, "libzmq": zmq.zmq_version()}
    return {"about": ABOUT, "eventmq": "0.3.13", "recorded_with": peers, "messages": messages}


def with_stock(work: Callable[[Stock], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run `work` with a Stock of its own, outside pytest."""
    with tempfile.TemporaryDirectory() as folder:
        procs = Procs(Path(folder))
        try:
            return work(Stock(stock_environment(), procs, Path(folder)))
        except BaseException:
            print(procs.report(), file=sys.stderr)
            raise
        finally:
            procs.close()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else GOLDEN
    target.write_text(json.dumps(recorded(with_stock(record)), indent=1, ensure_ascii=False) + "\n")
    print(target)
