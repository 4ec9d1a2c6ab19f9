"""An engine on a journal in memory, with a clock that tests move: commands in, commands out, no socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from emq_compat.broker.asks import Asks
from emq_compat.broker.engine import Engine, EngineOptions
from emq_compat.broker.records import Dispatch, Moment, Send
from emq_compat.broker.store import Store
from emq_compat.message import Headers, Job, Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import (
    Ack,
    Answer,
    Ask,
    Capabilities,
    Command,
    Heartbeat,
    Hello,
    Inform,
    Nack,
    Ready,
    Reply,
    Request,
)

CLIENT = b"client.1"
#: What a worker says of its tasks: one is acknowledged late, the other before it runs.
LATE: dict[str, Any] = {"tasks": {"late": "l", "early": ""}}


class Bench:
    """One broker's engine and journal; ``restart`` is a kill and a new start on the same journal."""

    opened: ClassVar[list[Bench]] = []

    def __init__(self, folder: Path | None = None, **options: Any) -> None:
        self.opened.append(self)
        self.options = EngineOptions(**options)
        self.folder = folder
        self.wall, self.mono = 1_700_000_000.0, 1000.0
        self.store = Store(folder)
        self.engine = Engine(self.store, self.options, {"broker": "b1"}, self.now)
        self.sent: list[object] = []

    @classmethod
    def close_all(cls) -> None:
        """Close the journals of all that were made."""
        while cls.opened:
            cls.opened.pop().store.close()

    @property
    def now(self) -> Moment:
        return Moment(self.wall, self.mono)

    def restart(self) -> None:
        if self.folder is None:
            self.store._undo()
        else:
            self.store.close()
            self.store = Store(self.folder)
        self.engine = Engine(self.store, self.options, {"broker": "b2"}, self.now)

    def turn(self, *commands: tuple[bytes, Command], passed_s: float = 0.0) -> list[object]:
        """One turn with these commands (an identity that starts with ``client`` is a client's)."""
        self.wall += passed_s
        self.mono += passed_s
        engine = self.engine
        engine.begin_turn([c for _, c in commands if isinstance(c, Request)])
        for identity, command in commands:
            if identity.startswith(b"client"):
                engine.from_client(identity, command, self.now)
            else:
                engine.from_worker(identity, command, self.now)
        engine.tick(self.now)
        engine.hand_out(self.now)
        engine.close_turn(self.now)
        self.store.commit()
        self.sent = engine.take_outbox()
        return self.sent

    def pass_time(self, seconds: float, *alive: bytes) -> list[object]:
        """Let time pass in steps of a second, with heartbeats of those alive; returns everything sent."""
        sent: list[object] = []
        left = seconds
        while left > 0:
            step = min(1.0, left)
            left -= step
            beats = [(w, Heartbeat(msgid=new_id(), timestamp=self.wall)) for w in alive]
            sent += self.turn(*beats, passed_s=step)
        return sent

    def publish(self, n: int = 1, queue: str = "q", client: bytes = CLIENT, **headers: Any) -> list[str]:
        """Publish n messages (``headers``: of Headers); their task ids are made of their msgids, returned."""
        requests = []
        for _ in range(n):
            msgid = new_id()
            head = Headers(guarantee=True, **{"task_id": "t-" + msgid, **headers})
            requests.append(
                Request(
                    msgid=msgid, queue=queue, headers=head, payload=job(), header_text=head.encode().encode()
                )
            )
        self.turn(*[(client, r) for r in requests])
        return [r.msgid for r in requests]

    def worker(
        self,
        identity: bytes = b"w.1",
        queues: tuple[str, ...] = ("q",),
        slots: int = 1,
        credit: int = 1,
        **about: Any,
    ) -> list[Dispatch]:
        """A worker of ours says INFORM and READY; returns what it is handed."""
        capabilities = Capabilities(slots=slots, **about)
        inform = Inform(msgid=new_id(), queues=tuple((0, q) for q in queues), capabilities=capabilities)
        return self.handed((identity, inform), (identity, Ready(msgid=new_id(), count=credit)))

    def handed(self, *commands: tuple[bytes, Command], passed_s: float = 0.0) -> list[Dispatch]:
        """A turn; returns the hand-outs."""
        return [s for s in self.turn(*commands, passed_s=passed_s) if isinstance(s, Dispatch)]

    def reply(self, d: Dispatch, state: str = "SUCCESS", ready: int = 0, **more: Any) -> list[Dispatch]:
        """The holder of a hand-out answers it (and asks for ``ready`` more)."""
        commands: list[tuple[bytes, Command]] = [(d.identity, answer(d, state, **more))]
        if ready:
            commands.append((d.identity, Ready(msgid=new_id(), count=ready)))
        return self.handed(*commands)

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """A client asks; returns the answer's document: ``{"ok": …}`` or ``{"error": …}``."""
        if self.engine.asker is None:
            Asks(self.engine, lambda file, done: None, self.now)
        self.turn((CLIENT, Ask(msgid=new_id(), verb=verb, arguments=arguments)))
        [told] = self.commands(Answer)
        return json.loads(told.body)

    def state(self, msgid: str) -> str | None:
        """The stored state of the task of a message published here."""
        stored = self.store.results(["t-" + msgid]).get("t-" + msgid)
        return stored.state if stored else None

    def commands(self, kind: type) -> list[Any]:
        """The last turn's commands of a kind."""
        return [s.command for s in self.sent if isinstance(s, Send) and isinstance(s.command, kind)]

    def acked(self) -> set[str]:
        """The msgids that the last turn acknowledged."""
        return {m for ack in self.commands(Ack) for m in ack.acked}


def job(path: str = "proj.tasks", name: str = "add") -> bytes:
    return Job(path=path, callable=name).encode()


def attempt_of(d: Dispatch) -> int:
    return Headers.decode(d.header_text).attempt


def answer(
    d: Dispatch,
    state: str = "SUCCESS",
    follow_ups: tuple[Publish, ...] = (),
    body: bytes = b"",
    keep_s: float | None = None,
) -> Reply:
    return Reply(
        msgid=new_id(),
        body=body or b'{"value": 5, "state": "%s"}' % state.encode(),
        request_msgid=d.msgid,
        headers=ReplyHeaders(attempt=attempt_of(d), state=state, keep_s=keep_s),
        follow_ups=follow_ups,
    )


def nack(d: Dispatch) -> Nack:
    return Nack(msgid=new_id(), returned=((d.msgid, attempt_of(d)),))


def hello() -> Hello:
    return Hello(msgid=new_id(), about={})
