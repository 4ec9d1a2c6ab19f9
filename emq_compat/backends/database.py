"""Results in an SQL database, in Celery's tables: ``db+sqlite:///results.db`` and what SQLAlchemy knows.

Up to Celery 5.6 a result is a pickle there, from 5.7 on what result_serializer makes of it; 5.7 reads both,
and so do we. Ours are pickles, which every Celery reads, of nothing but plain values; of pickles that others
wrote only plain values are read, whatever they ask for (``_Plain``). There is no column for children.
"""

from __future__ import annotations

import datetime as dates
import decimal
import io
import logging
import pickle
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar, TypeVar

from emq_compat.backends.base import ResultStore, Tree, without_password
from emq_compat.backends.keyvalue import RecordCodec
from emq_compat.backends.record import EXTENDED, record_of, result_of
from emq_compat.backends.transactions import in_transaction
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.extras import require
from emq_compat.message import SUCCESS
from emq_compat.stored import StoredResult

__all__ = ["DatabaseStore"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: What a record's pickle may be made of, beside builtin containers, numbers and text.
_PLAIN_TYPES: Mapping[tuple[str, str], Any] = {
    ("datetime", "datetime"): datetime,
    ("datetime", "date"): dates.date,
    ("datetime", "time"): dates.time,
    ("datetime", "timedelta"): timedelta,
    ("datetime", "timezone"): timezone,
    ("decimal", "Decimal"): decimal.Decimal,
    ("uuid", "UUID"): uuid.UUID,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
}
#: The call of Celery's that makes a group's result of plain data, in front of that data, as a pickle.
_GROUP_HEAD = b"\x80\x02ccelery.result\nresult_from_tuple\n"
_GROUP_TAIL = b"\x85R."
#: What every pickle of protocol 2 and later begins with.
_PICKLED = b"\x80"
_IDS_A_TIME = 500


class _Plain(pickle.Unpickler):
    """Reads a pickle that holds plain values and Celery's results, which become what ``as_tuple`` gives."""

    def find_class(self, module: str, name: str) -> Any:
        plain = _PLAIN_TYPES.get((module, name))
        if plain is not None:
            return plain
        if module == "celery.result" and name == "result_from_tuple":
            return lambda tree: tree
        if module == "celery.result" and name == "AsyncResult":
            return lambda task_id, backend=None, task_name=None, app=None, parent=None: (
                (task_id, parent),
                None,
            )
        if module == "celery.result" and name == "GroupResult":
            return lambda group_id, results: ((group_id, None), results)
        if module == "celery.backends.base" and name == "unpickle_backend":
            return lambda *args: None
        if module.startswith("celery.backends."):
            return None
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


class DatabaseStore(ResultStore):
    """Implements ResultStore over SQLAlchemy.

    Args:
        codec: how args and kwargs become bytes (result_serializer).
        url: SQLAlchemy's, without Celery's ``db+``.
        extended: with the columns of result_extended.
        expires_s: what ``cleanup`` takes for old, in seconds; 0: nothing.
        engine_options: of SQLAlchemy's engine (database_engine_options).
        table_names, schemas: of ``task`` and ``group`` (database_table_names, database_table_schemas).
        create_tables: make those that are missing (database_create_tables_at_setup), at the first use.
        on_engine: called with the engine (database_engine_callback).

    Raises:
        ConfigurationError: SQLAlchemy, or the database's driver, is missing, or the URL can't be used.
    """

    expires: ClassVar[bool] = False

    def __init__(
        self,
        codec: RecordCodec,
        *,
        url: str,
        extended: bool = False,
        expires_s: float = 0,
        engine_options: Mapping[str, Any] | None = None,
        table_names: Mapping[str, str] | None = None,
        schemas: Mapping[str, str] | None = None,
        create_tables: bool = True,
        on_engine: Callable[[Any], object] | None = None,
    ) -> None:
        require("db+…", ("sqlalchemy",), "emq-compat[sqlalchemy]")
        import sqlalchemy  # noqa: PLC0415 - an optional extra

        self.url = url
        self._sql = sqlalchemy
        self._codec = codec
        self._extended = extended
        self._expires_s = expires_s
        self._on_engine = on_engine
        self._has_tables = not create_tables
        self._made_engine: Any = None
        names, in_schema = table_names or {}, schemas or {}
        self._tables(names.get("task"), in_schema.get("task"), names.get("group"), in_schema.get("group"))
        try:
            sqlalchemy.engine.make_url(url).get_dialect().import_dbapi()
        except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError, ImportError) as exc:
            raise ConfigurationError(f"result_backend db+{without_password(url)}: {exc}") from exc
        except AttributeError:  # SQLAlchemy 1.4 calls it dbapi, and finds out at the first use
            pass
        # One connection for each use, as Celery has it outside of workers: nothing is shared over a fork.
        self._engine_options = {
            name: value
            for name, value in (engine_options or {}).items()
            if not name.startswith("pool") and name not in ("max_overflow", "echo_pool")
        }

    def _tables(
        self, task: str | None, task_schema: str | None, group: str | None, group_schema: str | None
    ) -> None:
        sql = self._sql
        number = sql.Integer().with_variant(sql.BigInteger(), "mssql")
        self._metadata = sql.MetaData()
        more = [
            sql.Column("name", sql.String(155)),
            sql.Column("args", sql.LargeBinary),
            sql.Column("kwargs", sql.LargeBinary),
            sql.Column("worker", sql.String(155)),
            sql.Column("retries", sql.Integer),
            sql.Column("queue", sql.String(155)),
        ]
        self._task = sql.Table(
            task or "celery_taskmeta",
            self._metadata,
            sql.Column("id", number, sql.Sequence("task_id_sequence", schema=task_schema), primary_key=True),
            sql.Column("task_id", sql.String(155), unique=True),
            sql.Column("status", sql.String(50)),
            sql.Column("result", sql.LargeBinary),
            sql.Column("date_done", sql.DateTime, index=True),
            sql.Column("traceback", sql.Text),
            *(more if self._extended else ()),
            schema=task_schema,
            sqlite_autoincrement=True,
        )
        self._group = sql.Table(
            group or "celery_tasksetmeta",
            self._metadata,
            sql.Column(
                "id", number, sql.Sequence("taskset_id_sequence", schema=group_schema), primary_key=True
            ),
            sql.Column("taskset_id", sql.String(155), unique=True),
            sql.Column("result", sql.LargeBinary),
            sql.Column("date_done", sql.DateTime, index=True),
            schema=group_schema,
            sqlite_autoincrement=True,
        )

    @property
    def _engine(self) -> Any:
        if self._made_engine is None:
            pool = self._sql.pool.NullPool
            engine = self._sql.create_engine(self.url, poolclass=pool, **self._engine_options)
            if self._on_engine is not None:
                self._on_engine(engine)
            self._made_engine = engine
        return self._made_engine

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        found: dict[str, StoredResult | None] = dict.fromkeys(ids)
        for i in range(0, len(ids), _IDS_A_TIME):
            some = list(ids[i : i + _IDS_A_TIME])
            for row in self._rows(self._sql.select(self._task).where(self._task.c.task_id.in_(some))):
                found[row["task_id"]] = self._result_in(row)
        return found

    def _rows(self, query: Any) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = self._in_transaction(lambda c: c.execute(query).mappings().all())
        return rows

    def _result_in(self, row: Mapping[str, Any]) -> StoredResult:
        record = {**row, "result": self._unpickled(row["result"])}
        for name in ("args", "kwargs"):
            if record.get(name) is not None:
                record[name] = self._codec.decode(record[name])
        done = record.get("date_done")
        if isinstance(done, datetime) and done.tzinfo is None:
            record["date_done"] = done.replace(tzinfo=timezone.utc)
        return result_of(record)

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        record = record_of(task_id, reply)
        columns: dict[str, Any] = {
            "status": record["status"],
            "result": pickle.dumps(record["result"], protocol=2),
            "traceback": record["traceback"],
            "date_done": _naive(record["date_done"]),
        }
        if self._extended:
            columns.update({name: record.get(name) for name in EXTENDED})
            for name in ("args", "kwargs"):
                if columns[name] is not None:
                    columns[name] = self._codec.encode(columns[name])
        table = self._task

        def do(connection: Any) -> None:
            own = table.c.task_id == task_id
            status = connection.execute(self._sql.select(table.c.status).where(own)).scalar()
            if status is None:
                connection.execute(table.insert().values(task_id=task_id, **columns))
            elif status != SUCCESS:
                connection.execute(table.update().where(own).values(**columns))

        self._in_transaction(do)

    def forget(self, ids: Sequence[str]) -> None:
        self._in_transaction(
            lambda c: c.execute(self._task.delete().where(self._task.c.task_id.in_(list(ids))))
        )

    def save_group(self, group_id: str, tree: Tree) -> None:
        # Protocol 2 has no frames: what stands between its head and its end is the value.
        value = _GROUP_HEAD + pickle.dumps(tree, protocol=2)[2:-1] + _GROUP_TAIL
        table = self._group

        def do(connection: Any) -> None:
            connection.execute(table.delete().where(table.c.taskset_id == group_id))
            connection.execute(table.insert().values(taskset_id=group_id, result=value, date_done=_now()))

        self._in_transaction(do)

    def load_group(self, group_id: str) -> Tree | None:
        query = self._sql.select(self._group.c.result).where(self._group.c.taskset_id == group_id)
        value = self._in_transaction(lambda c: c.execute(query).scalar())
        return None if value is None else self._unpickled(value)

    def delete_group(self, group_id: str) -> None:
        self._in_transaction(
            lambda c: c.execute(self._group.delete().where(self._group.c.taskset_id == group_id))
        )

    def cleanup(self) -> None:
        if not self._expires_s:
            return
        before = _now() - timedelta(seconds=self._expires_s)

        def do(connection: Any) -> None:
            for table in (self._task, self._group):
                connection.execute(table.delete().where(table.c.date_done < before))

        self._in_transaction(do)

    def close(self) -> None:
        if self._made_engine is not None:
            self._made_engine.dispose()
            self._made_engine = None

    def _in_transaction(self, do: Callable[[Any], T]) -> T:
        where = f"the database {without_password(self.url)}"

        def again(exc: Exception) -> None:
            logger.warning("%s is asked again: %s", where, exc)
            self.close()

        return in_transaction(
            self._begin, do, errors=self._sql.exc.SQLAlchemyError, where=where, again=again
        )

    def _begin(self) -> AbstractContextManager[Any]:
        if not self._has_tables:
            self._metadata.create_all(self._engine)
            self._has_tables = True
        return self._engine.begin()  # type: ignore[no-any-return]

    def _unpickled(self, value: bytes | None) -> Any:
        if value is None:
            return None
        try:
            if value[:1] != _PICKLED:
                return self._codec.decode(value)
            return _Plain(io.BytesIO(value)).load()
        except Exception as exc:  # whatever is in there
            where = without_password(self.url)
            raise OperationalError(f"a result in the database {where} can't be read: {exc}") from exc


def _now() -> datetime:
    """Return the time now in UTC, without saying so, as Celery's tables have it."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def _naive(date_done: str | None) -> datetime:
    """Return when a task ended, or the time now, in UTC."""
    if date_done is None:
        return _now()
    return datetime.fromisoformat(date_done).astimezone(timezone.utc).replace(tzinfo=None)
