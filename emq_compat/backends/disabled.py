"""No results are kept: ``disabled://``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from emq_compat.backends.base import ResultStore, Tree
from emq_compat.errors import ConfigurationError
from emq_compat.stored import StoredResult

__all__ = ["DisabledStore"]


class DisabledStore(ResultStore):
    """Takes everything, keeps nothing, and refuses to tell anything."""

    readable: ClassVar[bool] = False
    url = "disabled://"

    def read(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        self._refuse()

    def write(self, task_id: str, reply: Mapping[str, Any]) -> None:
        """Nothing."""

    def forget(self, ids: Sequence[str]) -> None:
        """Nothing."""

    def save_group(self, group_id: str, tree: Tree) -> None:
        self._refuse()

    def load_group(self, group_id: str) -> Tree | None:
        self._refuse()

    def delete_group(self, group_id: str) -> None:
        """Nothing."""

    def wait(
        self, ids: Iterable[str], timeout_s: float | None, interval_s: float = 0.5
    ) -> Iterator[tuple[str, StoredResult]]:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise ConfigurationError("no results are kept: result_backend is 'disabled'")
