"""Where clients are served: in turns of bounded time, one client after the other, and only those that read.

A client that says much, or asks what takes long, must not keep the others waiting; one that doesn't read what
it is sent must not fill the broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from emq_compat.broker.engine import Engine
from emq_compat.broker.line import Line, Said
from emq_compat.broker.records import Moment
from emq_compat.errors import RemoteProtocolError
from emq_compat.permits import Permit
from emq_compat.protocol.commands import Command, Request
from emq_compat.wire.routers import Router

__all__ = ["FrontDesk"]

logger = logging.getLogger(__name__)

#: What clients say is handled for so long in one turn; the rest stands in line.
TURN_S = 0.03
#: So long a line may be, until what comes waits at its sender.
LINE = 128
#: How often it is looked whether a client reads to whom much is under way; more often while results wait.
LOOK_S, LOOK_OFTEN_S = 1.0, 0.01
#: Who reads nothing for so long is cut off.
DEAF_S = 60.0

#: Handles what a client says.
Serve: TypeAlias = Callable[[bytes, "Command | RemoteProtocolError", "Permit | None", Moment], None]


class FrontDesk:
    """Serves the clients of one socket.

    Args:
        serve: handles one message.
        gone: is told of a client whose connection is gone, after all that it has said.

    Attributes:
        publishes: (client, publish) of those that were handled in this turn.
        look_at: monotonic time at which ``look_after_unread`` is due, if anything is unread.
    """

    def __init__(self, wire: Router, serve: Serve, gone: Callable[[bytes, Moment], None]) -> None:
        self.publishes: list[tuple[bytes, Request]] = []
        self.look_at = 0.0
        self.line = Line()
        self._wire = wire
        self._serve = serve
        self._gone = gone
        #: Client → what of it changes while it reads, and since when that didn't.
        self._deaf: dict[bytes, tuple[object, float]] = {}
        self._engine: Engine | None = None

    def room(self, batch: int) -> int:
        """Return how many messages may be received, of at most so many: few while some stand in line."""
        return max(0, LINE - len(self.line)) if len(self.line) else batch

    def begin_turn(self, engine: Engine, received: Sequence[Said]) -> None:
        """Look up what is known of the publishes that this turn may take."""
        self._engine = engine
        self.publishes = [(client, said) for client, said, _ in received if type(said) is Request]
        publishes = [said for _, said in self.publishes]
        if len(self.line):
            publishes += [said for _, said, _ in self.line if type(said) is Request]
        engine.begin_turn(publishes)

    def turn(self, received: Sequence[Said], now: Moment) -> None:
        """Handle what was received, and what stood in line before it, as far as there is time."""
        line, serve, until = self.line, self._serve, now.mono + TURN_S
        if len(line):
            line.add(received)
            self.publishes = []
            for client, said, permit in line.take():
                if type(said) is Request:
                    self.publishes.append((client, said))
                if said is None:
                    self._gone(client, now)
                else:
                    serve(client, said, permit, now)
                if time.monotonic() >= until:
                    break
        else:
            for i, (client, said, permit) in enumerate(received, 1):
                if said is not None:
                    serve(client, said, permit, now)
                if time.monotonic() >= until and i < len(received):
                    line.add(received[i:])
                    left = sum(type(said) is Request for _, said, _ in received[i:])
                    self.publishes = self.publishes[: len(self.publishes) - left]
                    break
        for client in self._wire.gone():
            if client in line:
                line.add([(client, None, None)])
            else:
                self._gone(client, now)
        if self._engine is not None and self._engine.results.postponed:
            self.look_at = min(self.look_at, now.mono + LOOK_OFTEN_S)

    def look_after_unread(self, engine: Engine, now: Moment) -> None:
        """Go on with clients that have read what they were sent, and cut off those that don't read at all."""
        unread, wire = engine.desk.unread, self._wire
        for client in list(unread.many):
            if not wire.unsent_bytes(client):
                unread.read(client)
                engine.results.resume(client)
                continue
            progress = wire.taken_bytes(client)
            before, since = self._deaf.get(client, (None, 0.0))
            if progress != before:
                self._deaf[client] = (progress, now.mono)
            elif now.mono - since >= DEAF_S:
                logger.warning("the client %r has read nothing for %g s and is cut off", client, DEAF_S)
                wire.cut(client)
                unread.read(client)
                engine.results.client_gone(client)
        self._deaf = {client: seen for client, seen in self._deaf.items() if client in unread.many}
        self.look_at = now.mono + (LOOK_OFTEN_S if engine.results.postponed else LOOK_S)
