"""A broker process of a test's own kind: a script's part in it."""

from __future__ import annotations

from pathlib import Path

from emq_compat.broker.running import handle_signals
from emq_compat.broker.server import Server
from emq_compat.config import BrokerConfig


def serve(kind: type[Server], frontend: str, backend: str, admin: str, data: str, **terms: float) -> None:
    """Run one until TERM or INT; ``terms``: of its BrokerConfig."""
    config = BrokerConfig(frontend=frontend, backend=backend, admin=admin, data=Path(data), **terms)
    server = kind(config)
    with handle_signals(server):
        print("serving", flush=True)
        server.run()
    server.close()
