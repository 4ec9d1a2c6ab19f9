"""A broker whose clock is a file's; its arguments: the file, three endpoints, the data folder."""

from __future__ import annotations

import sys
import time

from emq_compat.broker.records import Moment
from emq_compat.broker.server import Server
from tests.faults.clock_file import ClockFile
from tests.faults.own_broker import serve


class ClockedServer(Server):
    """Server.now() is the clock by which everything in a broker is due."""

    clock: ClockFile

    def now(self) -> Moment:
        return Moment(self.clock.unix(), time.monotonic())


def main(clock: str, *where: str) -> None:
    ClockedServer.clock = ClockFile(clock)
    serve(ClockedServer, *where)


if __name__ == "__main__":
    main(*sys.argv[1:])
