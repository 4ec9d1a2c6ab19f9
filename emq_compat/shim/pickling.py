"""Pickling an app, and what belongs to one: what is made again is made of the same names and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emq_compat.shim import current

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["AppPickler", "unpickle_app", "unpickle_attribute"]


class AppPickler:
    """Makes an app again (Celery's ``Celery.Pickler``); a subclass may change how."""

    def __call__(self, cls: type[Celery], **kwargs: Any) -> Celery:
        """Return an app made with these arguments."""
        return self.construct(cls, **kwargs)

    def construct(self, cls: type[Celery], **kwargs: Any) -> Celery:
        """Return an app made with these arguments."""
        return cls(**kwargs)


def unpickle_app(cls: type[Celery], pickler: type[AppPickler], kwargs: dict[str, Any]) -> Celery:
    """Make an app again; it doesn't become the current one."""
    return pickler()(cls, **kwargs, set_as_current=False)


def unpickle_attribute(path: str, args: tuple[Any, ...]) -> Any:
    """Call an attribute of the current app: ``AsyncResult`` with its arguments."""
    found: Any = current.get_app()
    for part in path.split("."):
        found = getattr(found, part)
    return found(*args)
