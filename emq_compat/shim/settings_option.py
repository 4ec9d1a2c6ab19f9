"""What is known of a setting, and finding one by the last part of its name (``app.conf.find_option``)."""

from __future__ import annotations

from typing import Any, NamedTuple

from emq_compat.shim.settings_table import SETTINGS

__all__ = ["FoundOption", "Option", "option_named"]


class Option(NamedTuple):
    """What is known of a setting: its default, the kind of its values, Celery 3's name (or "")."""

    default: Any
    type: str
    old: str


class FoundOption(NamedTuple):
    """Where ``find_option`` found a setting: ``worker``, ``prefetch_multiplier`` and what is known of it."""

    namespace: str
    key: str
    type: Option


def option_named(name: str, namespace: str = "") -> FoundOption:
    """Return where a setting is, by its name without its first part; raises KeyError."""
    wanted = name.lower()
    names = [f"{namespace.lower()}_{wanted}", wanted] if namespace else [wanted]
    names += [known for known in SETTINGS if known.partition("_")[2] == wanted]
    for known in names:
        if known in SETTINGS:
            head, _, tail = known.partition("_") if known != wanted or namespace else ("", "", known)
            return FoundOption(head if tail else "", tail or head, Option(*SETTINGS[known]))
    raise KeyError(name)
