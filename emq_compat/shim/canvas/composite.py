"""What chains, groups and chords have in common, and what is asked of a signature that may be one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current
from emq_compat.shim.canvas.signature import Signature, maybe_signature

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["Composite", "chaining", "in_full", "is_a", "is_empty", "make", "oldest", "unrolled"]


class Composite(Signature):
    """A signature that is made of others."""

    #: What it is made of.
    tasks: Any

    @property
    def app(self) -> Celery:
        """Its app, or else that of the first of the others."""
        return self._own_app() or current.get_app()

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    def _own_app(self) -> Celery | None:
        """Return the app that it, or what it is made of, was given; None: it is the current one's."""
        app: Celery | None = self._app
        if app is None and self.tasks:
            app = getattr(self.tasks[0], "_app", None)
        return app


def is_a(kind: str, sig: Any) -> bool:
    """Return whether it is a signature of this kind: ``chain``, ``group`` or ``chord``."""
    return isinstance(sig, Signature.TYPES[kind])


def make(kind: str, *args: Any, **kwargs: Any) -> Any:
    """Return a new composite signature."""
    return Signature.TYPES[kind](*args, **kwargs)


def unrolled(sig: Any) -> Any:
    """Return the only member of a group of one; anything else as it is."""
    if is_a("group", sig) and len(sig.tasks) == 1:
        return maybe_signature(sig.tasks[0], app=sig._app)
    return sig


def in_full(sig: Any) -> Any:
    """Return chunks as the group that they come to; anything else as it is."""
    if sig["subtask_type"] != "chunks":
        return sig
    whole = sig.group()
    whole.options.update(sig.options)
    return whole


def is_empty(sig: Any) -> bool:
    """Return whether a signature is a group or chain of nothing, or of nothing but such."""
    if is_a("group", sig) or is_a("chain", sig):
        return all(is_empty(maybe_signature(task)) for task in sig.tasks)
    return False


def oldest(result: Any) -> Any:
    """Return the first of a result's parents, or itself: what happens before it is to be its parent."""
    while result.parent is not None:
        result = result.parent
    return result


#: reduce(chaining, steps): what ``a | b | c`` does.
chaining: Callable[[Any, Any], Any] = operator.or_
