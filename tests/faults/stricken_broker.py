"""A broker that kills itself between its journal's commit of a hand-out and the sending of it, once.

Its arguments: a file that is there while it is to do so, three endpoints, the data folder.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from emq_compat.broker.records import Dispatch, Send
from emq_compat.broker.running import handle_signals
from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig


class StrickenServer(Server):
    """What is in the outbox has been stored: nothing of a turn with a hand-out leaves."""

    strikes: Path

    def _send(self, outbox: list[Send | Dispatch]) -> None:
        if any(isinstance(item, Dispatch) for item in outbox) and self.strikes.exists():
            self.strikes.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        super()._send(outbox)


def main(strikes: str, frontend: str, backend: str, admin: str, data: str) -> None:
    StrickenServer.strikes = Path(strikes)
    server = StrickenServer(
        BrokerConfig(frontend=frontend, backend=backend, admin=admin, data=Path(data), dead_after_s=2.0)
    )
    with handle_signals(server):
        print("serving", flush=True)
        server.run()
    server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
