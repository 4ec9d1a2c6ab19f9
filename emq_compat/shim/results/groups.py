"""GroupResult: the results of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current
from emq_compat.shim.results.sets import ResultSet
from emq_compat.shim.results.tree import ResultBase

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.backend import Backend

__all__ = ["GroupResult"]


class GroupResult(ResultSet):
    """The results of a group's tasks, with the group's id, by which they can be found again."""

    def __init__(
        self,
        id: str | None = None,  # noqa: A002 - Celery's name
        results: Iterable[Any] | None = None,
        parent: ResultBase | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(results, **kwargs)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    def save(self, backend: Backend | None = None) -> Any:
        """Keep the ids of its members in the result store, for ``restore``; returns this."""
        assert self.id is not None, "a group without an id can't be found again"
        return (backend or self.backend).save_group(self.id, self)

    def delete(self, backend: Backend | None = None) -> None:
        """Drop what ``save`` kept; the members' results stay."""
        if self.id is not None:
            (backend or self.backend).delete_group(self.id)

    @classmethod
    def restore(
        cls,
        id: str,  # noqa: A002 - Celery's name
        backend: Backend | None = None,
        app: Celery | None = None,
    ) -> GroupResult | None:
        """Return the group that was saved under this id; None: there is none."""
        if backend is None:
            backend = (app or current.get_app()).backend
        return backend.restore_group(id)

    def as_tuple(self) -> Any:
        """Return ``((id, parent), members)``."""
        parent = self.parent.as_tuple() if self.parent is not None else None
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            same: Sequence[tuple[object, object]] = (
                (self.id, other.id),
                (self.results, other.results),
                (self.parent, other.parent),
            )
            return all(a == b for a, b in same)
        return self.id == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(str(r) for r in self.results)}]>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.results, self.parent)
