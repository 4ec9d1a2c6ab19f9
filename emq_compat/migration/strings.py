"""Names of Celery's inside of strings: what is patched, imported by its path, or named in a setting."""

from __future__ import annotations

import re
from typing import Final

from emq_compat.migration.finding import DIFFERENT, Verdict
from emq_compat.migration.verdicts import Verdicts

__all__ = ["PLUGIN", "PLUGIN_VERDICT", "name_in_string", "package_in_string"]

#: Celery's pytest plugin, as pytest is told of it (``pytest_plugins``, ``-p``).
PLUGIN: Final = "celery.contrib.pytest"
PLUGIN_VERDICT: Final = Verdict(
    status=DIFFERENT,
    reason="write `emq_compat.testing`; behind `celery_shim.install()` `pytest_plugins` may have this name",
)

_PATH = re.compile(r"celery(?:\.\w+)*[.:](\w+)")
_PACKAGE = re.compile(r"(\w*celery\w*)(?:[.:][\w.:]+)?")
#: Tasks that each app has, by their names.
_TASKS: Final = frozenset(
    f"celery.{name}"
    for name in (
        "accumulate", "backend_cleanup", "chain", "chord", "chord_unlock", "chunks", "group", "map", "ping",
        "starmap",
    )
)  # fmt: skip


def name_in_string(text: str, verdicts: Verdicts) -> tuple[str, str] | None:
    """Return the module and the name that a string stands for; None: it names nothing of Celery's.

    Loggers and built-in tasks have dotted names, too: a path counts where its last part is a class, follows a
    colon, or is on the list.
    """
    match = _PATH.fullmatch(text)
    if match is None or text in _TASKS:
        return None
    parts = re.split(r"[.:]", text)
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if module not in verdicts.modules:
            continue
        name = parts[end]
        listed = verdicts.row("import", f"{module}:{name}") is not None
        if listed or ":" in text or name[:1].isupper():
            return module, name
        return None
    return None


def package_in_string(text: str) -> str | None:
    """Return the package that a dotted path begins with, where that is one with celery in its name."""
    match = _PACKAGE.fullmatch(text)
    if match is None or match[1] == "celery":
        return None
    return match[1]
