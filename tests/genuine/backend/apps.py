"""Apps of genuine Celery whose results are in a broker of this process."""

from __future__ import annotations

from typing import Any

import celery

from emq_compat.genuine.backend import EmqBackend

__all__ = ["URL", "make_app"]

URL = "memory://backend"


def make_app(**conf: Any) -> celery.Celery:
    app = celery.Celery("backend", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    app._backend = EmqBackend(app, url=URL)
    return app
