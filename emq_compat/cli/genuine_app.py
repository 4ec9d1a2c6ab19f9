"""Telling whether ``-A`` names an app of the package celery."""

from __future__ import annotations

import sys
from typing import Any

from emq_compat.shim.find_app import AppNotFound, find_app

__all__ = ["genuine_app"]


def genuine_app(written: str) -> Any | None:
    """Return the celery.Celery that ``-A`` names; None: it names none, and what it names the shim finds.

    Importing the module tells: a project that hasn't imported the package celery has no app of it.
    """
    try:
        find_app(written)
    except AppNotFound:
        utils, base = (sys.modules.get(f"celery.app.{name}") for name in ("utils", "base"))
        if utils is None or base is None:
            return None
        try:
            found = utils.find_app(written)
        except Exception:  # noqa: BLE001 - told by the shim's find_app, which names what was missing
            return None
        return found if isinstance(found, base.Celery) else None
    return None
