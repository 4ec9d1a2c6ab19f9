"""A broker as a process: from its start to TERM or INT."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from emq_compat.broker.neighbours import other_users
from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig

__all__ = ["handle_signals", "run_broker"]

logger = logging.getLogger(__name__)


def run_broker(
    config: BrokerConfig, watch: Callable[[Server], None] | None = None, *, neighbours: int = logging.WARNING
) -> None:
    """Run a broker in this process until TERM or INT.

    ``watch`` is called with the server when it is about to begin; ``neighbours`` is the level at which it is
    logged that other people's programs can use the broker.

    Raises:
        EmqError: it can't start; the message says why.
    """
    _allow_connections()
    server = Server(config)
    try:
        where = (
            "memory only" if config.memory else f"journal {server.store.path}, durability {config.durability}"
        )
        with handle_signals(server):
            logger.info(
                "broker %s: clients %s, workers %s, %s", os.getpid(), config.frontend, config.backend, where
            )
            for note in server.store.notes:
                logger.warning("%s", note)
            warn_of_neighbours(config, neighbours)
            if watch is not None:
                watch(server)
            server.run()
    finally:
        server.close()
        logger.info("broker %s ended", os.getpid())


@contextlib.contextmanager
def handle_signals(server: Server) -> Iterator[None]:
    """TERM and INT end ``run`` of a server; the former handlers come back afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(signum: int, frame: FrameType | None) -> None:
        server.stop()

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    wake_before = signal.set_wakeup_fd(server.doors.wake.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wake_before)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def warn_of_neighbours(config: BrokerConfig, level: int = logging.WARNING) -> None:
    """Say so when other people's programs on this machine can use the broker as well."""
    if config.keys_dir is not None or not any(e.startswith("tcp://") for e in config.endpoints().values()):
        return
    if users := other_users():
        named = ", ".join(users[:3]) + (f" and {len(users) - 3} more" if len(users) > 3 else "")
        logger.log(
            level,
            "every user of this machine (%s) can connect to the broker: --ipc FOLDER keeps others out "
            "(emq+ipc://FOLDER), or --keys DIR",
            named,
        )


def _allow_connections() -> None:
    """Have as many descriptors as the system lets this process have: each client takes one."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
