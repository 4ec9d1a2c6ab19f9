"""A real broker process, and a worker that a test plays by hand."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import zmq

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import Ack, Capabilities, Heartbeat, Inform, Kbye, Ready, Reply, Request
from emq_compat.wire import Wire
from tests.processes import Proc, Procs

STARTED = "clients tcp://"


class Broker:
    """A broker process that can be killed and started again on its folder and ports."""

    def __init__(self, procs: Procs, port: Callable[[], int], data: Path) -> None:
        self.procs = procs
        self.data = data
        self.ports = {name: port() for name in ("frontend", "backend", "admin")}
        self.url = f"emq://127.0.0.1:{self.ports['frontend']}?worker_port={self.ports['backend']}"
        self.client = Client(self.url)
        self.proc: Proc | None = None

    def argv(self, *options: str) -> list[str]:
        """The command line."""
        sockets = [part for name, n in self.ports.items() for part in (f"--{name}", f"tcp://127.0.0.1:{n}")]
        return ["broker", *sockets, *([] if "--memory" in options else ["--data", str(self.data)]), *options]

    def start(self, *options: str, ready: str | None = STARTED) -> Proc:
        """Start it, and wait until it is up."""
        self.proc = self.procs.emq(*self.argv(*options), ready=ready)
        return self.proc

    def endpoint(self, name: str) -> str:
        """One of its endpoints."""
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def waiting(self, queue: str = "q") -> int:
        """How many messages wait in a queue, delayed ones included."""
        rows = self.client.ask("queues")
        return sum(row["waiting"] + row["delayed"] for row in rows if row["name"] == queue)


class HandWorker:
    """A worker without a pool: it takes what it is given and answers when told to."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *queues: str,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        self.identity = new_id().encode()
        self.wire = Wire(context, endpoint, identity=self.identity)
        self.taken: list[Request] = []
        self.acked: set[str] = set()
        capabilities = Capabilities(slots=4, pid=os.getpid(), hostname="test", tasks=tasks)
        self.wire.send(
            Inform(
                msgid=new_id(),
                queues=tuple((10, queue) for queue in queues),
                role="worker",
                capabilities=capabilities,
            )
        )

    def ready(self, count: int) -> None:
        """Ask for more."""
        self.wire.send(Ready(msgid=new_id(), count=count))

    def until(self, done: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Receive, and beat, until ``done()``."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, f"not within {timeout_s} s; taken: {len(self.taken)}"
            self.wire.socket.poll(50)
            for command in self.wire.receive():
                self._take(command)
            self.wire.send(Heartbeat(msgid=new_id(), timestamp=time.time()))

    def _take(self, command: object) -> None:
        if isinstance(command, Request):
            self.taken.append(command)
        elif isinstance(command, Ack):
            self.acked.update(command.acked)

    def take(self, count: int) -> list[Request]:
        """Wait until so many were given in all."""
        self.until(lambda: len(self.taken) >= count)
        return self.taken

    def succeed(self, request: Request, value: bytes = b"1") -> None:
        """Answer one, and wait until the broker has it on disk."""
        reply = Reply(
            msgid=new_id(),
            body=b'{"value":' + value + b',"state":"SUCCESS"}',
            request_msgid=request.msgid,
            headers=ReplyHeaders(state="SUCCESS", attempt=request.headers.attempt),
        )
        self.wire.send(reply)
        self.until(lambda: request.msgid in self.acked)

    def leave(self) -> None:
        """Say goodbye."""
        self.wire.send(Kbye(msgid=new_id()))

    def close(self) -> None:
        self.wire.close()


def message(queue: str = "q", **headers: object) -> Publish:
    """A message that any worker could run."""
    head = Headers(**{"task_id": new_id(), "task": "pkg.tasks.f", "guarantee": True, **headers})  # type: ignore[arg-type]
    return Publish(queue=queue, headers=head, payload=Job(path="pkg.tasks", callable="f").encode())


@pytest.fixture
def broker(procs: Procs, free_port: Callable[[], int], tmp_path: Path) -> Iterator[Broker]:
    """A broker that is not started yet."""
    made = Broker(procs, free_port, tmp_path / "data")
    yield made
    made.client.close()


@pytest.fixture
def hand_worker(broker: Broker) -> Iterator[Callable[..., HandWorker]]:
    """A function that connects workers played by hand."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[HandWorker] = []

    def worker(*queues: str, tasks: Mapping[str, str] | None = None) -> HandWorker:
        made.append(HandWorker(context, broker.endpoint("backend"), *queues, tasks=tasks))
        return made[-1]

    yield worker
    for one in made:
        one.close()
    context.destroy(linger=0)
