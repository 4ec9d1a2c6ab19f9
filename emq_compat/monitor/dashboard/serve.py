"""The dashboard as a server."""

from __future__ import annotations

import uvicorn

from emq_compat.client import Client
from emq_compat.monitor.dashboard.access import Access
from emq_compat.monitor.dashboard.watch import Watch
from emq_compat.monitor.dashboard.web import Shown, application

__all__ = ["server"]

#: Pages hold their connections open: at the end they are cut off.
_LEAVE_S = 1


def server(client: Client, access: Access, shown: Shown) -> uvicorn.Server:
    """Return the server of a dashboard, which runs on a socket that listens."""
    return uvicorn.Server(
        uvicorn.Config(
            application(client, access, shown, Watch(client)),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=_LEAVE_S,
            forwarded_allow_ips="127.0.0.1,::1",
        )
    )
