"""Attributes of signatures that are members of their dicts."""

from __future__ import annotations

from typing import Any

__all__ = ["Member"]


class Member:
    """An attribute that is a member of the dict, or of a dict in it: ``options.task_id``."""

    def __init__(self, path: str, doc: str) -> None:
        *self.holders, self.key = path.split(".")
        self.__doc__ = doc

    def _holder(self, sig: Any) -> Any:
        for name in self.holders:
            sig = sig[name]
        return sig

    def __get__(self, sig: Any, owner: type) -> Any:
        return self if sig is None else self._holder(sig).get(self.key)

    def __set__(self, sig: Any, value: Any) -> None:
        self._holder(sig)[self.key] = value
