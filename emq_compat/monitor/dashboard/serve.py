"""The dashboard as a server."""

from __future__ import annotations

import socket

import uvicorn

from emq_compat.client import Client
from emq_compat.monitor.dashboard.access import Access
from emq_compat.monitor.dashboard.watch import Watch
from emq_compat.monitor.dashboard.web import Shown, application

__all__ = ["server"]

#: A page that doesn't read holds its connection open: at the end it is cut off.
_LEAVE_S = 1
#: Connections and requests at once; what is beyond gets a 503. Pages that look take one each.
_AT_ONCE = 500


class _Server(uvicorn.Server):
    """Ends what is told to pages before it waits for their connections to end."""

    def __init__(self, config: uvicorn.Config, watch: Watch) -> None:
        super().__init__(config)
        self._watch = watch

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._watch.end()
        await super().shutdown(sockets)


def server(client: Client, access: Access, shown: Shown, every_s: float = 1.0) -> uvicorn.Server:
    """Return the server of a dashboard, which runs on a socket that listens.

    ``every_s``: seconds between two looks at the broker.
    """
    watch = Watch(client, every_s)
    config = uvicorn.Config(
        application(client, access, shown, watch),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        limit_concurrency=_AT_ONCE,
        timeout_graceful_shutdown=_LEAVE_S,
        forwarded_allow_ips="127.0.0.1,::1",
    )
    return _Server(config, watch)
