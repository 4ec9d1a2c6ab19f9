"""One conversation, seen from one side: what is legal now, when a heartbeat is due, when the peer is silent.

The tables and how to read them stand in roles.py. Times are seconds of any one clock, passed in as ``now``. Every
message that is heard is a sign of life. Heartbeats are due at their own pace, whatever else is said: those of our
workers list what has not begun.
"""

from __future__ import annotations

from typing import Final

from emq_compat.errors import LocalProtocolError, RemoteProtocolError
from emq_compat.protocol import commands
from emq_compat.protocol.commands import Ack, Command, Heartbeat, Hello, Inform
from emq_compat.protocol.roles import Join, Rejoin, Role, State, Table, Welcome

__all__ = ["STOCK_BEAT_S", "STOCK_DEAD_AFTER_S", "Session"]

#: How often stock eventmq 0.3.13 sends a heartbeat.
STOCK_BEAT_S: Final = 3.0
#: After so much silence a stock router drops a worker (it looks every 10 s).
STOCK_DEAD_AFTER_S: Final = 5.0


class Session:
    """One conversation.

    Attributes:
        role: which side this is.
        state: where it stands.
    """

    __slots__ = ("_beat_s", "_dead_after_s", "_heard", "_informed", "_last_beat", "role", "state")

    def __init__(self, role: Role, now: float, *, dead_after_s: float = 10.0, stock: bool = False) -> None:
        """Begin; the arguments are those of ``pace``."""
        self.role = role
        self.state = State.NEW
        self._heard = now
        self._last_beat = now
        self._informed = ""
        self.pace(dead_after_s, stock=stock)

    def pace(self, dead_after_s: float, *, stock: bool = False) -> None:
        """Set after how much silence the peer is dead, and beat four times in it.

        ``stock``: the peer is stock eventmq 0.3.13: beat at its own pace.
        """
        self._dead_after_s = dead_after_s
        self._beat_s = STOCK_BEAT_S if stock else dead_after_s / 4

    @property
    def next_beat(self) -> float | None:
        """The time at which a HEARTBEAT is due; None: none is."""
        return self._last_beat + self._beat_s if self.state in self.role.beats else None

    @property
    def deadline(self) -> float | None:
        """The time at which the peer counts as dead; None: its silence doesn't count."""
        return self._heard + self._dead_after_s if self.state in self.role.beats else None

    def beat_due(self, now: float) -> bool:
        """Tell whether a HEARTBEAT is due."""
        due = self.next_beat
        return due is not None and now >= due

    def silent(self, now: float) -> bool:
        """Tell whether the peer counts as dead. Ask only once all that has arrived was received."""
        end = self.deadline
        return end is not None and now >= end

    def heard(self, now: float) -> None:
        """Note a sign of life that is no command: a malformed message."""
        self._heard = now

    def send(self, command: Command, now: float) -> None:
        """Note that a command is about to be sent.

        Raises:
            LocalProtocolError: this side may not say that now.
        """
        after = self._after(self.role.sends, command)
        if after is None:
            raise LocalProtocolError(
                f"{self.role.name} may not send {_word(command)} while {self.state.value}"
            )
        if isinstance(command, Heartbeat):
            self._last_beat = now
        elif isinstance(command, Inform):
            self._last_beat = self._heard = now
            self._informed = command.msgid
        self.state = after

    def receive(self, command: Command, now: float) -> None:
        """Note that a command has arrived; even one that is refused is a sign of life.

        Raises:
            RemoteProtocolError: the peer may not say that now; the state stays as it is.
        """
        self._heard = now
        after = self._after(self.role.receives, command)
        if after is None:
            raise RemoteProtocolError(
                f"{self.role.name} may not be sent {_word(command)} while {self.state.value}",
                command=_word(command),
                msgid=command.msgid,
            )
        if isinstance(command, Inform):
            self._informed = command.msgid
            if self.state not in self.role.beats:
                self._last_beat = now
        self.state = after

    def leave(self) -> None:
        """Go: no more work is wanted, and KBYE is still to be said."""
        if self.state in (State.JOINING, State.JOINED):
            self.state = State.LEAVING

    def cut(self, now: float) -> None:
        """Begin anew: the connection was lost."""
        self.state = State.NEW
        self._heard = now
        self._informed = ""

    def _after(self, table: Table, command: Command) -> State | None:
        """Return the state that follows; None: the command is not in the table."""
        options = table.get(self.state, {})
        kind: type = type(command)
        if isinstance(command, Ack):
            if Welcome in options and self._informed in command.acked:
                kind = Welcome
        elif isinstance(command, Hello):
            if Rejoin in options and command.about.get("inform") is True:
                kind = Rejoin
        elif isinstance(command, Inform) and command.role == commands.SCHEDULER:
            kind = Join
        return options.get(kind)


_WORDS: Final = {"PublishTopic": "PUBLISH", "Shown": "REPLY"}


def _word(command: Command) -> str:
    name = type(command).__name__
    return _WORDS.get(name, name.upper())
