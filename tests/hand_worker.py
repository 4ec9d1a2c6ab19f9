"""A worker that a test plays by hand. The fixture is ``hand_worker`` of tests/conftest.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import zmq

from emq_compat.keys import Keys
from emq_compat.message import Headers, Job, Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import Ack, Capabilities, Heartbeat, Inform, Kbye, Ready, Reply, Request
from emq_compat.wire import Wire


class HandWorker:
    """A worker without a pool: it takes what it is given and answers when told to."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        *queues: str,
        tasks: Mapping[str, str] | None = None,
        keys: Keys | None = None,
    ) -> None:
        self.identity = new_id().encode()
        self.wire = Wire(context, endpoint, identity=self.identity, keys=keys)
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
