"""A broker that can be made to misbehave: what docs/protocol.md says of a client's session, and nothing else.

As a thread: ``with FakeBroker() as broker``. As a process, for signals:
``python -m tests.client.fake_broker ENDPOINT FILE`` appends each msgid that it takes to FILE.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.utils.monitor

from emq_compat.message import ReplyHeaders, new_id
from emq_compat.protocol.commands import Ack, Answer, Ask, Command, Hello, Reply, Request
from emq_compat.protocol.frames import decode, encode


@dataclass
class Behaviour:
    """What it does wrong. Counts go down by themselves.

    Attributes:
        says_hello: answers HELLO.
        refuses_hellos: so many HELLOs are answered with a refusal first.
        loses_requests: so many REQUESTs are dropped unread, and the connection with them.
        loses_acks: so many REQUESTs are taken, but the connection is cut before their ACK.
        acks: sends ACKs at all.
        ack_batch: so many msgids in one ACK.
        refuses: queue → the error of a refusal.
        answers: verb → function from arguments to the answer's document.
    """

    says_hello: bool = True
    refuses_hellos: int = 0
    loses_requests: int = 0
    loses_acks: int = 0
    acks: bool = True
    ack_batch: int = 1
    refuses: dict[str, dict[str, str]] = field(default_factory=dict)
    answers: dict[str, Callable[[dict[str, Any]], object]] = field(default_factory=dict)


class FakeBroker:
    """A ROUTER in a thread; ``taken`` lists the msgids it holds, each once, in order."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*", behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.taken: dict[str, Request] = {}
        self.requests = 0
        self.asked: list[Ask] = []
        self.hellos = 0
        self.waits: dict[str, set[bytes]] = {}
        self.final: dict[str, tuple[str, bytes]] = {}
        self.changed = threading.Condition()
        self._context = zmq.Context()
        self._wake = self._context.socket(zmq.PAIR)
        self._wake.bind("inproc://wake")
        self._router = self._bind(endpoint)
        self.endpoint = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return self.endpoint.replace("tcp://", "emq://")

    def __enter__(self) -> FakeBroker:
        self._thread = threading.Thread(target=self._run, name="fake-broker")
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._tell("stop")
        assert self._thread is not None
        self._thread.join(10)
        self._wake.close(0)
        self._context.term()

    def finish(self, task_id: str, state: str = "SUCCESS", value: object = None) -> None:
        """Make a result final; who waits for it is told."""
        self._tell(json.dumps([task_id, state, value]))

    def restart(self, pause: threading.Event | None = None) -> None:
        """Cut all connections and listen again on the same endpoint; what it has taken it keeps."""
        self._tell("restart")

    def wait_until(self, predicate: Callable[[], object], timeout_s: float = 10.0) -> None:
        with self.changed:
            if not self.changed.wait_for(predicate, timeout_s):
                raise TimeoutError("the fake broker saw nothing of the kind")

    def serve(self) -> None:
        """Run in this thread until the process ends."""
        self._run()

    def _bind(self, endpoint: str) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 200)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        router.setsockopt(zmq.SNDHWM, 0)
        router.setsockopt(zmq.RCVHWM, 0)
        router.bind(endpoint)
        return router

    def _tell(self, what: str) -> None:
        self._wake_end().send_string(what)

    def _wake_end(self) -> zmq.Socket[bytes]:
        return self._wake

    def _run(self) -> None:
        told = self._context.socket(zmq.PAIR)
        told.connect("inproc://wake")
        poller = zmq.Poller()
        poller.register(told, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        acks: dict[bytes, list[str]] = {}
        while True:
            ready = dict(poller.poll())
            if told in ready:
                what = told.recv_string()
                if what == "stop":
                    break
                if what == "restart":
                    poller.unregister(self._router)
                    self._restart()
                    poller.register(self._router, zmq.POLLIN)
                else:
                    self._finish(*json.loads(what))
            elif self._router in ready:
                cut = self._read(acks)
                for identity, msgids in acks.items():
                    size = self.behaviour.ack_batch
                    for i in range(0, len(msgids), size):
                        self._say(identity, Ack(msgid=new_id(), acked=tuple(msgids[i : i + size])))
                acks.clear()
                if cut:
                    poller.unregister(self._router)
                    self._restart()
                    poller.register(self._router, zmq.POLLIN)
            with self.changed:
                self.changed.notify_all()
        told.close(0)
        self._router.close(0)

    def _read(self, acks: dict[bytes, list[str]]) -> bool:
        """Read all that is there; tells whether the connections must be cut."""
        behaviour = self.behaviour
        while self._router.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            identity, *frames = self._router.recv_multipart()
            command = decode(frames)
            if isinstance(command, Request):
                self.requests += 1
                if behaviour.loses_requests:
                    behaviour.loses_requests -= 1
                    return True
                error = behaviour.refuses.get(command.queue)
                if error is not None:
                    self._refuse(identity, command.msgid, error)
                    continue
                self.taken.setdefault(command.msgid, command)
                if behaviour.loses_acks:
                    behaviour.loses_acks -= 1
                    return True
                if behaviour.acks:
                    acks.setdefault(identity, []).append(command.msgid)
            elif isinstance(command, Hello):
                self.hellos += 1
                if behaviour.refuses_hellos:
                    behaviour.refuses_hellos -= 1
                    self._say(identity, Hello(msgid=new_id(), about={"refused": "not for clients"}))
                elif behaviour.says_hello:
                    self._say(identity, Hello(msgid=new_id(), about={"broker": "fake", "version": "0"}))
            elif isinstance(command, Ask):
                self._answer(identity, command)
        return False

    def _answer(self, identity: bytes, ask: Ask) -> None:
        self.asked.append(ask)
        if ask.verb == "wait":
            for task_id in ask.arguments["ids"]:
                if task_id in self.final:
                    self._push(identity, task_id)
                else:
                    self.waits.setdefault(task_id, set()).add(identity)
            return
        answer = self.behaviour.answers.get(ask.verb, lambda arguments: {"ok": True})
        document = answer(dict(ask.arguments))
        if document is not None:
            self._say(identity, Answer(msgid=new_id(), body=json.dumps(document).encode(), asked=ask.msgid))

    def _finish(self, task_id: str, state: str, value: object) -> None:
        self.final[task_id] = state, json.dumps({"value": value, "state": state}).encode()
        for identity in self.waits.pop(task_id, ()):
            self._push(identity, task_id)

    def _push(self, identity: bytes, task_id: str) -> None:
        state, body = self.final[task_id]
        headers = ReplyHeaders(attempt=1, state=state)
        self._say(identity, Reply(msgid=new_id(), body=body, request_msgid=task_id, headers=headers))

    def _refuse(self, identity: bytes, msgid: str, error: dict[str, str]) -> None:
        body = json.dumps({"error": error}).encode()
        headers = ReplyHeaders(attempt=0, state="REFUSED")
        self._say(identity, Reply(msgid=new_id(), body=body, request_msgid=msgid, headers=headers))

    def _say(self, identity: bytes, command: Command) -> None:
        self._router.send_multipart([identity, *encode(command)])

    def _restart(self) -> None:
        with self._router.get_monitor_socket(zmq.EVENT_CLOSED) as monitor:
            self._router.unbind(self.endpoint)
            monitor.poll(5000)  # until the port is free again
            self._router.disable_monitor()
        self._router.close(0)
        self.waits.clear()
        self._router = self._bind(self.endpoint)


class _FileLog(dict[str, Request]):
    """Appends each msgid to a file when it is first taken."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def setdefault(self, key: str, default: Request) -> Request:  # type: ignore[override]
        if key not in self:
            os.write(self._fd, f"{key}\n".encode())
            self[key] = default
        return default


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("endpoint")
    parser.add_argument("file")
    parser.add_argument("--ack-batch", type=int, default=1)
    options = parser.parse_args()
    broker = FakeBroker(options.endpoint, Behaviour(ack_batch=options.ack_batch))
    broker.taken = _FileLog(options.file)
    print("listening", flush=True)
    broker.serve()


if __name__ == "__main__":
    main()
