"""A broker that kills itself between its journal's commit of a hand-out and the sending of it, once.

Its arguments: a file that is there while it is to do so, three endpoints, the data folder.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from emq_compat.broker.records import Dispatch, Send
from emq_compat.broker.server import Server
from tests.faults.own_broker import serve


class StrickenServer(Server):
    """What is in the outbox has been stored: nothing of a turn with a hand-out leaves."""

    strikes: Path

    def _send(self, outbox: list[Send | Dispatch]) -> None:
        if any(isinstance(item, Dispatch) for item in outbox) and self.strikes.exists():
            self.strikes.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._send(outbox)


def main(strikes: str, *where: str) -> None:
    StrickenServer.strikes = Path(strikes)
    serve(StrickenServer, *where, dead_after_s=2.0)


if __name__ == "__main__":
    main(*sys.argv[1:])
