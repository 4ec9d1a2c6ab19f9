"""Which modules are the project's own: a stored error may have those imported, to be raised by its class."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["own_modules_of"]

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*").fullmatch
#: Packages of which the project is no part, whatever is registered from them.
_NEVER = frozenset({"emq_compat", "celery", "builtins", "__main__", "sys", "os"})


def own_modules_of(app: Celery) -> Callable[[str], bool]:
    """Return a function that tells whether a module lies in a package of the app's.

    These are the top-level packages (or modules) of its registered tasks, of the settings imports and
    include, and the app's own name.
    """

    def is_own(module: str) -> bool:
        if not _NAME(module):
            return False
        return module.partition(".")[0] in _roots(app)

    return is_own


def _roots(app: Celery) -> set[str]:
    conf = app.conf
    names = [app.main or ""]
    for setting in (conf.imports, conf.include):
        names += [setting] if isinstance(setting, str) else list(setting or ())
    names += [type(task).__module__ for task in app.tasks.values()]
    roots = {name.partition(".")[0] for name in names}
    return {root for root in roots if root and root not in _NEVER}
