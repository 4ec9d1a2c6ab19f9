"""A broker whose clock is a file's; its arguments: the file, three endpoints, the data folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from emq_compat.broker.records import Moment
from emq_compat.broker.running import handle_signals
from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig
from tests.faults.clock_file import ClockFile


class ClockedServer(Server):
    """Server.now() is the clock by which everything in a broker is due."""

    clock: ClockFile

    def now(self) -> Moment:
        return Moment(self.clock.unix(), time.monotonic())


def main(clock: str, frontend: str, backend: str, admin: str, data: str) -> None:
    ClockedServer.clock = ClockFile(clock)
    config = BrokerConfig(frontend=frontend, backend=backend, admin=admin, data=Path(data))
    server = ClockedServer(config)
    with handle_signals(server):
        print("serving", flush=True)
        server.run()
    server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
