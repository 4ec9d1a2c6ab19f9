"""Which Celery the shim stands in for: instrumentation libraries look at ``celery.__version__``."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SERIES", "VERSION", "VERSION_BANNER", "__version__", "version_info", "version_info_t"]


class version_info_t(NamedTuple):  # noqa: N801 - Celery's name
    """A version in its parts."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


#: The Celery whose documented behaviour the shim has.
__version__ = "5.7.0"
SERIES = "emq-compat"
version_info = version_info_t(5, 7, 0, "", "")
VERSION = version_info
VERSION_BANNER = f"{__version__} ({SERIES})"
