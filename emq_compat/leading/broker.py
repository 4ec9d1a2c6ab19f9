"""The ledger in our broker, for those who don't publish by it in one transaction: genuine Celery's beat.

The broker has no lock of that kind, but entries whose last run is moved on by compare-and-set
(docs/protocol.md, the entries of beats). The lock is the last run of an entry of its own: its token names who
has it, and its age is how long ago he said so, by the broker's clock.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from emq_compat.backends.base import without_password
from emq_compat.beat_lock import NAME, SHOWN, TASK, lock_of
from emq_compat.ids import new_id
from emq_compat.leading.base import Held, LastRun, Ledger

__all__ = ["BrokerLedger"]

_FREE = "nobody"


class Asks(Protocol):
    """What answers questions to a broker."""

    def ask(self, verb: str, /, timeout_s: float | None = None, **arguments: Any) -> Any:
        """Return the answer; raises OperationalError."""


class BrokerLedger(Ledger):
    """Implements Ledger by the verbs ``periodic_…``.

    Args:
        client: of the broker; threads share it.
        url: the broker's, to be told.
    """

    def __init__(
        self,
        client: Asks,
        schedule: str,
        owner: str,
        life_s: float,
        *,
        url: str,
    ) -> None:
        super().__init__(schedule, owner, life_s)
        self.where = f"the broker {without_password(url)}"
        self._client = client
        self._lock = lock_of(schedule)
        #: Entry → the token of its last run that was seen.
        self._tokens: dict[str, str] = {}

    def lead(self) -> Held:
        row = self._leader()
        has = row["token"].rpartition(" ")[0]
        if has == self.owner:
            return Held.KEPT if self._take(row["token"], self.owner) else Held.NO
        if has and has != _FREE and row["age_s"] < self.life_s:
            return Held.NO
        return Held.TAKEN if self._take(row["token"], self.owner) else Held.NO

    def _leader(self) -> dict[str, Any]:
        row = {"name": NAME, "task": TASK, "shown": SHOWN, "last_run_at": time.time(), "total": 0}
        rows = self._client.ask("periodic_begin", schedule=self._lock, entries=[row], only=True)
        found: dict[str, Any] = rows[NAME]
        return found

    def _take(self, was: str, owner: str) -> bool:
        answer = self._client.ask(
            "periodic_send",
            schedule=self._lock,
            name=NAME,
            was=was,
            token=f"{owner} {new_id()}",
            last_run_at=time.time(),
            messages=[],
        )
        return bool(answer["sent"])

    def resign(self) -> None:
        row = self._leader()
        if row["token"].rpartition(" ")[0] == self.owner:
            self._take(row["token"], _FREE)

    def runs(self, names: Collection[str]) -> dict[str, LastRun]:
        rows = self._client.ask("periodic_look", schedule=self.schedule, names=list(names))
        self._tokens.update({name: row["token"] for name, row in rows.items()})
        return {
            name: LastRun(at=row["last_run_at"], total=row["total"], age_s=row["age_s"])
            for name, row in rows.items()
        }

    def begin(self, entries: Mapping[str, LastRun], *, only: bool) -> None:
        rows = []
        for name, run in entries.items():
            task, shown = self.shown.get(name, ("?", "?"))
            rows.append(
                {
                    "name": name,
                    "task": task,
                    "shown": shown[:200],
                    "last_run_at": run.at,
                    "total": run.total,
                }
            )
        found = self._client.ask("periodic_begin", schedule=self.schedule, entries=rows, only=only)
        self._tokens.update({name: row["token"] for name, row in found.items()})

    def note(self, name: str, run: LastRun) -> bool:
        if self.lead() is Held.NO:
            return False
        if name not in self._tokens:
            self.begin({name: LastRun(at=run.at, total=max(0, run.total - 1))}, only=False)
        token = new_id()
        answer = self._client.ask(
            "periodic_send",
            schedule=self.schedule,
            name=name,
            was=self._tokens[name],
            token=token,
            last_run_at=run.at,
            messages=[],
        )
        if answer["sent"]:
            self._tokens[name] = token
        return bool(answer["sent"])

    def close(self) -> None:
        pass  # the client is its owner's
