"""The ledger in an SQL database: a counter that is moved on by compare-and-set, and a row for each entry."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from emq_compat.backends.base import without_password
from emq_compat.backends.transactions import in_transaction
from emq_compat.leading.base import Held, LastRun, Ledger

__all__ = ["DatabaseLedger"]

T = TypeVar("T")

_SHOWN = 155


class DatabaseLedger(Ledger):
    """Implements Ledger over SQLAlchemy, in the tables ``emq_beat_leader`` and ``emq_beat_runs``.

    The leader's row has a counter that each word of his moves on. Another beat takes the lock when it has
    seen the same count for ``life_s`` seconds by its own monotonic clock: no clocks are compared. So it takes
    up to that much longer than in Redis where the beat that takes over has only just been started.

    Args:
        url: SQLAlchemy's.
        engine_options: of its engine.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        schedule: str,
        owner: str,
        life_s: float,
        *,
        url: str,
        engine_options: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(schedule, owner, life_s)
        import sqlalchemy as sql  # noqa: PLC0415 - an optional extra

        self.where = f"the database {without_password(url)}"
        self._sql = sql
        self._key = _key(schedule)
        self._clock = clock
        options = {
            name: value
            for name, value in (engine_options or {}).items()
            if not name.startswith("pool") and name not in ("max_overflow", "echo_pool")
        }
        self._engine = sql.create_engine(url, poolclass=sql.pool.NullPool, **options)
        self._metadata = sql.MetaData()
        self._leader = sql.Table(
            "emq_beat_leader",
            self._metadata,
            sql.Column("schedule", sql.String(40), primary_key=True),
            sql.Column("owner", sql.String(155), nullable=False),
            sql.Column("count", sql.BigInteger, nullable=False),
            sql.Column("shown", sql.String(_SHOWN), nullable=False),
        )
        self._runs = sql.Table(
            "emq_beat_runs",
            self._metadata,
            sql.Column("schedule", sql.String(40), primary_key=True),
            sql.Column("entry", sql.String(40), primary_key=True),
            sql.Column("shown", sql.String(_SHOWN), nullable=False),
            sql.Column("last_run_at", sql.Float(53), nullable=False),
            sql.Column("total", sql.BigInteger, nullable=False),
            sql.Column("noted_at", sql.Float(53), nullable=False),
        )
        self._has_tables = False
        #: The other one's count that was seen last, and since when.
        self._seen: tuple[str, int] | None = None
        self._since = 0.0

    def lead(self) -> Held:
        return self._in_transaction(self._lead)

    def _lead(self, connection: Any) -> Held:
        table = self._leader
        if self._still_mine(connection):
            return Held.KEPT
        row = connection.execute(
            self._sql.select(table.c.owner, table.c.count).where(table.c.schedule == self._key)
        ).first()
        if row is None:
            try:
                with connection.begin_nested():
                    connection.execute(
                        table.insert().values(
                            schedule=self._key,
                            owner=self.owner,
                            count=1,
                            shown=self.schedule[:_SHOWN],
                        )
                    )
            except self._sql.exc.IntegrityError:
                return Held.NO
            return Held.TAKEN
        seen = (row[0], row[1])
        if seen[0]:
            if seen != self._seen:
                self._seen, self._since = seen, self._clock()
                return Held.NO
            if self._clock() - self._since < self.life_s:
                return Held.NO
        took = connection.execute(
            table.update()
            .where(table.c.schedule == self._key, table.c.owner == seen[0], table.c.count == seen[1])
            .values(owner=self.owner, count=seen[1] + 1)
        )
        self._seen = None
        return Held.TAKEN if took.rowcount == 1 else Held.NO

    def _still_mine(self, connection: Any) -> bool:
        table = self._leader
        moved = connection.execute(
            table.update()
            .where(table.c.schedule == self._key, table.c.owner == self.owner)
            .values(count=table.c.count + 1)
        )
        return bool(moved.rowcount == 1)

    def resign(self) -> None:
        table = self._leader
        mine = table.update().where(table.c.schedule == self._key, table.c.owner == self.owner)
        self._in_transaction(lambda c: c.execute(mine.values(owner="", count=table.c.count + 1)))

    def runs(self, names: Collection[str]) -> dict[str, LastRun]:
        wanted = {_key(name): name for name in names}
        now = time.time()
        return {
            wanted[key]: LastRun(at=at, total=total, age_s=max(0.0, now - noted_at))
            for key, at, total, noted_at in self._in_transaction(self._rows)
            if key in wanted
        }

    def _rows(self, connection: Any) -> list[tuple[str, float, int, float]]:
        table = self._runs
        columns = (table.c.entry, table.c.last_run_at, table.c.total, table.c.noted_at)
        query = self._sql.select(*columns).where(table.c.schedule == self._key)
        return [(row[0], row[1], row[2], row[3]) for row in connection.execute(query)]

    def begin(self, entries: Mapping[str, LastRun], *, only: bool) -> None:
        table = self._runs
        named = {_key(name): (name, run) for name, run in entries.items()}

        def do(connection: Any) -> None:
            known = {row[0] for row in self._rows(connection)}
            for key in known - named.keys() if only else ():
                own = (table.c.schedule == self._key, table.c.entry == key)
                connection.execute(table.delete().where(*own))
            for key, (name, run) in named.items():
                if key not in known:
                    row = self._row(name, run, noted_at=min(run.at, time.time()))
                    connection.execute(table.insert().values(**row))

        self._in_transaction(do)

    def note(self, name: str, run: LastRun) -> bool:
        table = self._runs

        def do(connection: Any) -> bool:
            if not self._still_mine(connection):
                return False
            row = self._row(name, run, noted_at=time.time())
            own = (table.c.schedule == self._key, table.c.entry == row["entry"])
            if connection.execute(table.update().where(*own).values(**row)).rowcount == 0:
                connection.execute(table.insert().values(**row))
            return True

        return self._in_transaction(do)

    def _row(self, name: str, run: LastRun, noted_at: float) -> dict[str, Any]:
        return {
            "schedule": self._key,
            "entry": _key(name),
            "shown": name[:_SHOWN],
            "last_run_at": run.at,
            "total": run.total,
            "noted_at": noted_at,
        }

    def close(self) -> None:
        self._engine.dispose()

    def _in_transaction(self, do: Callable[[Any], T]) -> T:
        return in_transaction(self._begin, do, errors=self._sql.exc.SQLAlchemyError, where=self.where)

    def _begin(self) -> AbstractContextManager[Any]:
        if not self._has_tables:
            self._metadata.create_all(self._engine)
            self._has_tables = True
        return self._engine.begin()  # type: ignore[no-any-return]


def _key(name: str) -> str:
    """Return what stands for a name of any length and spelling in a key column, whatever its collation."""
    return hashlib.sha1(name.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()
