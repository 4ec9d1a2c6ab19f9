"""How a workflow is shown: the module of its tasks is named once."""

from __future__ import annotations

__all__ = ["module_once"]


def module_once(task: str, text: str) -> str:
    """Return ``text`` with the module of ``task`` only where it comes first: ``proj.add(1) | add(2)``."""
    module, dot, _ = task.rpartition(".")
    if not dot:
        return text
    first, found, rest = text.partition(module + dot)
    return first + found + rest.replace(module + dot, "")
