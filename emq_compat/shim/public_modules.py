"""Celery's modules below the shim: ``from emq_compat.celery_shim.signals import task_prerun``.

They are there whether or not ``install()`` was called, beside an installed Celery, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["PUBLIC", "register"]

#: Where they are: it takes the place of ``celery`` in a module's name.
PUBLIC: Final = "emq_compat.celery_shim"


class _PublicFinder:
    """A meta path finder; what makes the modules is loaded when the first one is asked for."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module below the shim; None for anything else."""
        if not fullname.startswith(f"{PUBLIC}."):
            return None
        from emq_compat.shim.alias.finder import public_spec  # noqa: PLC0415 - start-up doesn't need it

        return public_spec(fullname)


def register() -> None:
    """Have them found from now on."""
    if _PublicFinder not in sys.meta_path:
        sys.meta_path.append(_PublicFinder)
