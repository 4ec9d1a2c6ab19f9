"""A transaction of an SQL database, tried again where the database was busy or another was first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from emq_compat.errors import OperationalError

__all__ = ["in_transaction"]

T = TypeVar("T")


def in_transaction(
    begin: Callable[[], AbstractContextManager[Any]],
    do: Callable[[Any], T],
    *,
    errors: type[Exception],
    where: str,
    again: Callable[[Exception], object] = lambda exc: None,
) -> T:
    """Return what ``do`` returns of a connection in a transaction; it is tried three times.

    Args:
        begin: opens a transaction; what it raises counts, too.
        errors: SQLAlchemy's, after which it is tried again.
        where: names the database in an error.
        again: called with the error before the next try.

    Raises:
        OperationalError: the third try failed, too.
    """
    for last in (False, False, True):
        try:
            with begin() as connection:
                return do(connection)
        except errors as exc:
            if last:
                raise OperationalError(f"{where}: {exc}") from exc
            again(exc)
    raise AssertionError("unreachable")
