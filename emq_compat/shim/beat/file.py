"""A schedule in a file, as Celery's beat has it: a shelve of the entries and of what they were made under."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emq_compat.shim.beat.scheduler import logger
from emq_compat.shim.surface.release import __version__

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["ScheduleFile"]


class ScheduleFile:
    """The file, open.

    One that can't be read is removed and begun anew, as is one of another time zone. ``persistence`` opens
    it, ``suffixes`` are what the library puts behind its name.

    Attributes:
        entries: by name; ``sync`` writes them.
    """

    def __init__(self, filename: str, app: Celery, persistence: Any, suffixes: Sequence[str]) -> None:
        self.filename = filename
        made_under = {"tz": app.conf.timezone, "utc_enabled": app.conf.enable_utc}
        try:
            self._store = self._open(persistence)
            kept = {name: self._store.get(name) for name in ("entries", "__version__", *made_under)}
        except Exception as exc:  # noqa: BLE001 - dbm, pickle and what is pickled raise what they like
            logger.exception("Removing corrupted schedule file %r: %r", filename, exc)
            for suffix in suffixes:
                with suppress(FileNotFoundError):
                    os.remove(filename + suffix)
            self._store = self._open(persistence)
            kept = {}
        differs = [name for name, value in made_under.items() if kept.get(name) not in (None, value)]
        if differs:
            logger.warning("Reset: %s changed", " and ".join(differs))
        if differs or not isinstance(kept.get("entries"), dict):
            self._store.clear()
            self._store["entries"] = {}
        self._store.update({"__version__": __version__, **made_under})
        self.entries: dict[str, Any] = dict(self._store["entries"])

    def _open(self, persistence: Any) -> Any:
        return persistence.open(self.filename)

    def sync(self) -> None:
        """Write the entries as they are."""
        self._store["entries"] = self.entries
        self._store.sync()

    def close(self) -> None:
        """Close it; ``sync`` has written it."""
        self._store.close()
