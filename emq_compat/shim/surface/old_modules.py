"""``celery.log`` and ``celery.messaging``: what Celery keeps of its modules of old, with the current app."""

from __future__ import annotations

from typing import Any

from emq_compat.shim import current

__all__ = [
    "establish_connection",
    "get_default_logger",
    "redirect_stdouts_to_logger",
    "setup_logging_subsystem",
]


def get_default_logger(*args: Any, **kwargs: Any) -> Any:
    """Return ``current_app.log.get_default_logger(…)``."""
    return current.get_app().log.get_default_logger(*args, **kwargs)


def redirect_stdouts_to_logger(*args: Any, **kwargs: Any) -> Any:
    """Call ``current_app.log.redirect_stdouts_to_logger(…)``."""
    return current.get_app().log.redirect_stdouts_to_logger(*args, **kwargs)


def setup_logging_subsystem(*args: Any, **kwargs: Any) -> Any:
    """Call ``current_app.log.setup_logging_subsystem(…)``."""
    return current.get_app().log.setup_logging_subsystem(*args, **kwargs)


def establish_connection(*args: Any, **kwargs: Any) -> Any:
    """Return ``current_app.connection(…)``."""
    return current.get_app().connection(*args, **kwargs)
