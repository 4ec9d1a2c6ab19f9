"""A schedule whose beats have a leader: over a broker that arbitrates nothing, with the ledger beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from emq_compat.address import is_kombu
from emq_compat.leading.base import LastRun, Ledger, life_from, new_owner
from emq_compat.leading.leader import Leader
from emq_compat.shim.beat.kept import Run, Seen
from emq_compat.shim.surface.times import maybe_make_aware

if TYPE_CHECKING:
    from emq_compat.backends.database import DatabaseStore
    from emq_compat.backends.redis import RedisStore
    from emq_compat.shim.app import Celery

__all__ = ["LedKept", "ledger_of", "needs_leader"]


class LedKept:
    """The entries of one schedule, with the methods of Kept; each holds within the leader's term.

    Attributes:
        term: the term in which this beat leads; 0: it doesn't.
    """

    by = "leader"

    def __init__(self, app: Celery, leader: Leader) -> None:
        self._app = app
        self._leader = leader
        self.name = leader.ledger.schedule
        self.term = 0

    def begin(self, entries: Iterable[Any], *, only: bool) -> dict[str, Seen]:
        """Add entries that are new there; returns what is known of them. ``only``: others are forgotten.

        Raises:
            Deposed: this beat leads no more.
        """
        entries = list(entries)
        shown = {str(entry.name): (str(entry.task), str(entry.schedule)) for entry in entries}
        self._leader.ledger.shown.update(shown)
        first = {
            str(entry.name): LastRun(
                at=maybe_make_aware(entry.last_run_at).timestamp(), total=entry.total_run_count
            )
            for entry in entries
        }
        self._leader.begin(self.term, first, only=only)
        return self.look(list(first))

    def look(self, names: Sequence[str]) -> dict[str, Seen]:
        """Return what is known of these entries. Raises as ``begin``."""
        return {name: _seen(run) for name, run in self._leader.runs(self.term, names).items()}

    def send(self, name: str, run: Run) -> tuple[bool, Seen | None]:
        """Publish a run and note it; returns True and the entry as it is then.

        Between the two a killed beat has sent a run that nobody knows of: the next one sends it again.

        Raises:
            Deposed: this beat leads no more; where it was deposed after the publish, the run was sent.
            OperationalError: it wasn't published, or not for certain.
        """
        self._leader.confirm(self.term)
        for message in run.messages:
            self._app.publish(message, self._app.retry_policy)
        noted = LastRun(at=maybe_make_aware(run.at).timestamp(), total=int(run.was or 0) + 1)
        self._leader.note(self.term, name, noted)
        return True, _seen(noted)


def _seen(run: LastRun) -> Seen:
    return Seen(last_run_at=run.at, total=run.total, token=str(run.total), age_s=run.age_s)


def needs_leader(app: Celery) -> bool:
    """Return whether an app's broker arbitrates nothing between beats."""
    return is_kombu(app.broker_url)


def ledger_of(app: Celery, schedule: str) -> Ledger | None:
    """Return the ledger of an app's schedule; None: nothing that it has can keep one.

    It is in the result backend, if that is Redis, SQL or our broker; else in the broker, if that is Redis.

    Raises:
        ConfigurationError: EMQ_BEAT_LEASE, or a URL, can't be used.
    """
    from emq_compat.shim.backend_kinds import EmqBackend  # noqa: PLC0415 - beats need it alone
    from emq_compat.shim.backend_stores import DatabaseBackend, RedisBackend  # noqa: PLC0415 - likewise

    owner, life_s = new_owner(), life_from(os.environ)
    backend, conf = app.backend, app.conf
    if isinstance(backend, RedisBackend):
        from emq_compat.leading.redis import RedisLedger  # noqa: PLC0415 - an optional extra

        results = cast("RedisStore", backend.store)
        prefix = str((conf.result_backend_transport_options or {}).get("global_keyprefix") or "")
        return RedisLedger(results.client, schedule, owner, life_s, url=results.url, prefix=prefix)
    if isinstance(backend, DatabaseBackend):
        from emq_compat.leading.database import DatabaseLedger  # noqa: PLC0415 - an optional extra

        tables = cast("DatabaseStore", backend.store)
        options = conf.database_engine_options
        return DatabaseLedger(schedule, owner, life_s, url=tables.url, engine_options=options)
    said = str(conf.result_backend or "")
    if isinstance(backend, EmqBackend) and said.startswith(("emq://", "emq+ipc://")):
        from emq_compat.client import client_for  # noqa: PLC0415 - it brings ZeroMQ
        from emq_compat.leading.broker import BrokerLedger  # noqa: PLC0415 - likewise

        return BrokerLedger(client_for(said), schedule, owner, life_s, url=said)
    url = app.broker_url
    if url.partition("://")[0] in ("redis", "rediss"):
        from emq_compat.leading.redis import RedisLedger  # noqa: PLC0415 - an optional extra

        prefix = str((conf.broker_transport_options or {}).get("global_keyprefix") or "")
        tls = conf.broker_use_ssl if isinstance(conf.broker_use_ssl, dict) else {}
        return RedisLedger.at(url, schedule, owner, life_s, prefix=prefix, **tls)
    return None
