"""What an import of Celery's is written as, so that it needs no Celery: ``celery`` becomes the shim."""

from __future__ import annotations

from types import ModuleType

from emq_compat.shim.alias.finder import AliasModule, alias_module
from emq_compat.shim.alias.table import MODULES
from emq_compat.shim.public_modules import PUBLIC

__all__ = ["home_of", "reaches"]


def home_of(module: str) -> str | None:
    """Return the module of the shim's that a module of Celery's is; None: it has none.

    What others take from billiard is in Celery's exceptions, too.
    """
    if module == "billiard.exceptions":
        return f"{PUBLIC}.exceptions"
    if module in MODULES and module.partition(".")[0] == "celery":
        return PUBLIC + module.removeprefix("celery")
    return None


def reaches(module: str, path: str) -> bool:
    """Return whether ``module.path`` is there: ``celery``, ``signals.task_prerun.connect``."""
    try:
        found: object = alias_module(module)
    except ImportError:
        return False
    for name in path.split("."):
        if not isinstance(found, AliasModule):
            return True  # what an object has is not a question of imports
        try:
            found = getattr(found, name)
        except (AttributeError, ImportError):
            return False
        if not isinstance(found, ModuleType) and getattr(found, "__unsupported__", False) is True:
            return False
    return True
