"""``app.bugreport()``: what a bug report should say of a machine and an app."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import TYPE_CHECKING

from emq_compat import __version__
from emq_compat.shim.settings_text import censored_url
from emq_compat.shim.surface.release import VERSION_BANNER

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["bug_report"]


def bug_report(app: Celery) -> str:
    """Return versions, the platform and the app's settings as text; secrets are masked."""
    try:
        zmq = metadata.version("pyzmq")
    except metadata.PackageNotFoundError:
        zmq = "none"
    kind, _, _ = app.broker_url.partition("://")
    return "\n".join(
        (
            f"software -> celery:{VERSION_BANNER} emq-compat:{__version__} pyzmq:{zmq} "
            f"py:{platform.python_version()}",
            f"platform -> system:{platform.system()} arch:{', '.join(filter(None, platform.architecture()))}",
            f"            kernel version:{platform.release()} imp:{platform.python_implementation()}",
            f"loader   -> {type(app.loader).__module__}.{type(app.loader).__qualname__}",
            f"settings -> transport:{kind} results:{censored_url(str(app.conf.result_backend or 'emq'))}",
            "",
            app.conf.humanize(),
            "",
        )
    )
