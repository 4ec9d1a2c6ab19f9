"""How an app gets at its results, wherever they are kept."""

from __future__ import annotations

import builtins
import logging
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from emq_compat.backends.base import ResultStore
from emq_compat.backends.record import record_of
from emq_compat.errors import ConfigurationError
from emq_compat.shim import exceptions as errors
from emq_compat.shim import states
from emq_compat.shim.current import told_here
from emq_compat.shim.exceptions import ImproperlyConfigured, OperationalError
from emq_compat.shim.patience import Patience, patience_of
from emq_compat.shim.pipeline import pipeline_of
from emq_compat.shim.results.arrivals import AsyncArrivals, late
from emq_compat.shim.results.content import value_of
from emq_compat.shim.results.tree import result_from_tuple
from emq_compat.stored import StoredResult
from emq_compat.words import amount

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.results.single import AsyncResult

__all__ = ["StoreAccess"]

T = TypeVar("T")

logger = logging.getLogger("emq_compat.task")


class StoreAccess:
    """What results ask of their store.

    All methods may raise OperationalError (the store doesn't answer), ImproperlyConfigured (there is none)
    and what their own docstrings say.
    """

    def __init__(self, app: Celery, store: ResultStore) -> None:
        self.app = app
        self.store = store

    @property
    def kept_by_broker(self) -> bool:
        """Whether the broker stores what workers reply, so that nobody else has to."""
        return self.store.kept_by_broker

    @property
    def supports_native_join(self) -> bool:
        """Whether many results are waited for at once."""
        return True

    @property
    def supports_autoexpire(self) -> bool:
        """Whether the store deletes old results by itself."""
        return self.store.expires

    @property
    def is_async(self) -> bool:
        """Whether results are pushed."""
        return self.store.pushes

    def stored(self, ids: Sequence[str]) -> Mapping[str, StoredResult | None]:
        """Return what is stored of each task now; None: nothing.

        Raises:
            BackendGetMetaError: the store was tried as often as result_backend_max_retries says.
        """
        here = told_here.get()
        if here and (known := {task_id: here[task_id] for task_id in ids if task_id in here}):
            others = [task_id for task_id in ids if task_id not in known]
            return {**known, **(self.stored(others) if others else {})}
        try:
            return self._insisted(lambda: self.store.read(ids))
        except OperationalError as exc:
            if self._patience is None:
                raise
            raise errors.BackendGetMetaError(f"results can't be read: {exc}", task_id=ids[0]) from exc

    def arrivals(
        self,
        ids: Sequence[str],
        timeout: float | None,
        interval: float = 0.5,
        on_interval: Callable[[], object] | None = None,
        *,
        before: Collection[str] = (),
    ) -> Iterator[tuple[str, StoredResult]]:
        """Yield (task id, result) as results become final, within ``timeout`` seconds (None: for ever).

        ``on_interval`` is called every ``interval`` seconds. ``before``: further ids, where there is one of
        ``ids``, whose ends matter only until that one is there, and where they are no SUCCESS.

        Raises:
            TimeoutError: Celery's; some aren't final in time.
            RuntimeError: one of the tasks isn't published yet, since its pipeline is open.
        """
        self._refuse_unpublished([*ids, *before])
        pending = dict.fromkeys([*ids, *before])
        for task_id, known in told_here.get().items():
            if task_id in pending:
                del pending[task_id]
                yield task_id, known
        deadline = None if timeout is None else time.monotonic() + timeout
        if timeout is not None and timeout <= 0:
            for task_id, stored in self.stored(list(pending)).items():
                if stored is not None and stored.state in states.READY_STATES:
                    del pending[task_id]
                    yield task_id, stored
            if pending:
                raise errors.TimeoutError(late(list(pending), timeout))
            return
        interval = max(interval or 0.5, 0.01)
        patience = self._patience
        pauses = None if patience is None else patience.pauses()
        while any(task_id in pending for task_id in ids):
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            slice_s = left_s
            if on_interval is not None:
                slice_s = interval if left_s is None else min(interval, left_s)
            try:
                yield from self._arriving(pending, slice_s, interval, before)
            except OperationalError as exc:
                if pauses is None or (pause_s := next(pauses, None)) is None:
                    raise
                logger.warning("still waiting for %s: %s", amount(len(pending), "result"), exc)
                time.sleep(pause_s if left_s is None else min(pause_s, left_s))
            except builtins.TimeoutError as exc:
                if deadline is not None and time.monotonic() >= deadline:
                    raise errors.TimeoutError(late(list(pending), timeout)) from exc
                if on_interval is not None:
                    on_interval()

    def _arriving(
        self, pending: dict[str, None], timeout_s: float | None, interval: float, before: Collection[str]
    ) -> Iterator[tuple[str, StoredResult]]:
        """Yield what arrives within a time, taking it out of ``pending``; raises the builtin TimeoutError."""
        if before:
            last, *others = pending
            arriving = self._told(lambda: self.store.wait_behind(last, others, timeout_s, interval))
        else:
            arriving = self._told(lambda: self.store.wait(list(pending), timeout_s, interval))
        while pending:
            one = self._told(lambda: next(arriving, None))
            if one is None:
                return
            pending.pop(one[0], None)
            yield one

    def arrivals_async(self, ids: Sequence[str], timeout: float | None) -> AsyncArrivals:
        """Return the same for the running event loop; see AsyncArrivals."""
        self._refuse_unpublished(ids)
        return AsyncArrivals(self._told(lambda: self.store.watcher), ids, timeout)

    def tell_when_final(self, result: AsyncResult[Any], *, weak: bool = False) -> None:
        """Have a result settled, and its callbacks called, as soon as it is final, from a thread of ours."""
        if weak:
            reference = weakref.ref(result)

            def told(task_id: str, stored: StoredResult) -> None:
                living = reference()
                if living is not None:
                    living._settle(stored)
        else:

            def told(task_id: str, stored: StoredResult) -> None:
                result._settle(stored)

        self._told(lambda: self.store.watcher).add([result.id], told)

    def revoke(
        self,
        ids: Sequence[str],
        terminate: bool = False,
        signal: str | None = None,
        timeout: float | None = None,
    ) -> dict[str, str]:
        """Have the broker, whichever store there is, revoke tasks; returns what became of each id.

        Over a broker of kombu's the workers are told, and nothing is returned.

        Raises:
            ValueError: there is no such signal.
        """
        from emq_compat.control_shapes import signal_name  # noqa: PLC0415 - declaring tasks needs none

        if self.app.over_kombu:
            self.app.control.revoke(list(ids), terminate=terminate, signal=signal)
            return {}
        client = self.app.client
        if client.stock:
            raise ImproperlyConfigured("a stock eventmq router revokes nothing: use an emq:// broker")
        named = signal_name(signal)
        answer = self._told(
            lambda: client.ask("revoke", timeout, ids=list(ids), terminate=terminate, signal=named)
        )
        return answer if isinstance(answer, dict) else {}

    def write(self, task_id: str, reply: Mapping[str, Any], reply_to: str = "") -> None:
        """Store a reply's JSON object as it is.

        ``reply_to`` is what the task's message named; where results go there and it named nothing, nobody
        is told.

        Raises:
            BackendStoreError: the store was tried as often as result_backend_max_retries says.
        """
        try:
            if not self.store.addressed:
                self._insisted(lambda: self.store.write(task_id, reply))
            elif reply_to:
                self._insisted(lambda: self.store.write_to(reply_to, task_id, reply))
        except OperationalError as exc:
            if self._patience is None:
                raise
            state = str(reply.get("state"))
            raise errors.BackendStoreError(
                f"the result of {task_id} can't be stored: {exc}", task_id=task_id, state=state
            ) from exc

    def record_of(self, task_id: str, stored: StoredResult) -> dict[str, Any]:
        """Return a result as Celery's record, with its value (or exception) and its children as objects."""
        record = record_of(task_id, {**stored.reply, "state": stored.state})
        record["result"] = value_of(stored, self.app)
        if record["children"]:
            record["children"] = [result_from_tuple(child, self.app) for child in record["children"]]
        return record

    def meta_of(self, task_id: str, stored: StoredResult | None) -> dict[str, Any]:
        """Return the same, also where nothing is stored."""
        if stored is None:
            return {"status": states.PENDING, "result": None, "task_id": task_id}
        return self.record_of(task_id, stored)

    def _refuse_unpublished(self, ids: Sequence[str]) -> None:
        pipeline = pipeline_of(self.app.client)
        if pipeline is None:
            return
        for message in pipeline.messages:
            if message.headers.task_id in ids:
                raise RuntimeError(
                    f"task {message.headers.task_id} is published when its pipeline's block ends, not before"
                )

    @property
    def _patience(self) -> Patience | None:
        """How long the store is tried again; None: our broker, whose client has its own rules, or not set."""
        return None if self.kept_by_broker else patience_of(self.app.conf)

    def _insisted(self, ask: Callable[[], T]) -> T:
        """Ask the store, and again while it can't be reached, as long as the settings say."""
        patience = self._patience
        for pause_s in () if patience is None else patience.pauses():
            try:
                return self._told(ask)
            except OperationalError as exc:
                logger.warning("the result store is tried again in %.2f s: %s", pause_s, exc)
                time.sleep(pause_s)
        return self._told(ask)

    @staticmethod
    def _told(ask: Callable[[], T]) -> T:
        """Ask the store; what it raises is then Celery's and kombu's, too."""
        try:
            return ask()
        except OperationalError:
            errors.join_kombu()
            raise
        except ConfigurationError as exc:
            raise ImproperlyConfigured(str(exc)) from exc
