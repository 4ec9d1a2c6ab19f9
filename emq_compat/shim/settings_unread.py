"""An app's settings until somebody reads one: what is set is kept, and only a read looks at their source.

``app.conf.timezone = …`` and ``app.conf.update(…)`` at the top of a module neither import the settings'
module nor send on_after_configure, whose receivers stand further down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from emq_compat.shim.settings import Settings

__all__ = ["UnreadSettings"]

#: What may be used without a read.
_WRITES = frozenset(
    {
        "__class__", "__dict__", "_changed", "add_defaults", "clear", "load", "load_again", "own_changes",
        "touch", "unload", "update", "version",
    }
)  # fmt: skip


class UnreadSettings(Settings):
    """Settings that call a function before they are read for the first time, and are plain Settings then."""

    @staticmethod
    def until_read(settings: Settings, read: Callable[[], object]) -> None:
        """Make settings unread: ``read`` is called at the first read, and makes them plain ones."""
        settings.__dict__["_read"] = read
        object.__setattr__(settings, "__class__", UnreadSettings)

    @staticmethod
    def plain(settings: Settings) -> None:
        """Make settings plain ones."""
        object.__setattr__(settings, "__class__", Settings)

    def __getattribute__(self, name: str) -> Any:
        if name in _WRITES:
            return object.__getattribute__(self, name)
        return getattr(_read(self), name)

    def __getitem__(self, name: str) -> Any:
        return _read(self)[name]

    def __contains__(self, name: object) -> bool:
        return name in _read(self)

    def __iter__(self) -> Iterator[str]:
        return iter(_read(self))

    def __len__(self) -> int:
        return len(_read(self))

    def __eq__(self, other: object) -> bool:
        return _read(self) == other

    __hash__ = Settings.__hash__

    def __repr__(self) -> str:
        return repr(_read(self))


def _read(settings: Settings) -> Settings:
    """Return the settings, which are plain ones now."""
    settings.__dict__["_read"]()
    return settings
