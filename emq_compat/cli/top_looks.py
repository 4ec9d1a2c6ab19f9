"""Looks at a broker, one after the other, for `emq-compat top`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from emq_compat.errors import BrokerRefused, EmqError, JournalUnwritable
from emq_compat.monitor.overview.history import History, away
from emq_compat.monitor.overview.look import Asker, look

__all__ = ["Looks"]

logger = logging.getLogger("emq_compat.top")


class Looks:
    """What is known of a broker by looking at it.

    Args:
        client: asks the broker; in a thread of its own, so that keys are heard while it is away.
        every_s: seconds between two looks.

    Attributes:
        sections: what is to be shown; replaced as a whole, never changed. Empty before the first look.
        failed: why no further look can succeed: the broker refuses this client.
    """

    def __init__(self, client: Asker, every_s: float) -> None:
        self._client = client
        self._every_s = every_s
        self._history = History()
        self._soon = threading.Event()
        self._ended = False
        self.sections: Mapping[str, Any] = {}
        self.failed: EmqError | None = None

    def look(self) -> None:
        """Ask the broker once; raises as ``look`` of the overviews."""
        everything = "failures" not in self.sections
        self.sections = {**self.sections, **look(self._client, self._history, everything=everything)}

    def begin(self) -> None:
        """Look again and again, until the end."""
        threading.Thread(target=self._run, name="top", daemon=True).start()

    def look_soon(self) -> None:
        """Look at once."""
        self._soon.set()

    def end(self) -> None:
        """Look no more."""
        self._ended = True
        self._soon.set()

    def _run(self) -> None:
        while not self._ended and self.failed is None:
            self._soon.clear()
            try:
                self.look()
            except JournalUnwritable as exc:
                self.sections = {**self.sections, **away(str(exc))}
            except BrokerRefused as exc:
                self.failed = exc
            except EmqError as exc:
                self.sections = {**self.sections, **away(str(exc))}
            except Exception as exc:
                logger.debug("the broker's answer was not understood", exc_info=True)
                self.sections = {**self.sections, **away(f"its answer was not understood: {exc!r}")}
            self._soon.wait(self._every_s)
