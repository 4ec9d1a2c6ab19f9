"""``celery.contrib.testing.manager``: waiting for what tasks and workers do."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from emq_compat.errors import OperationalError
from emq_compat.shim import states
from emq_compat.shim.exceptions import TimeoutError  # noqa: A004 - Celery's
from emq_compat.shim.results.sets import ResultSet

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.control import Inspect

__all__ = ["Manager", "ManagerMixin", "Sentinel"]

T = TypeVar("T")


class Sentinel(Exception):
    """What is waited for isn't there yet."""


class ManagerMixin:
    """Waits with a limit for what a test expects; ``_init_manager`` is to be called first.

    Attributes:
        app: whose tasks and workers they are.
        no_join: ``join`` returns at once.
        connerrors: exceptions of a lost connection.
    """

    app: Celery

    def _init_manager(
        self,
        block_timeout: float = 1800.0,
        no_join: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.stdout = stdout if stdout is not None else sys.stdout
        self.stderr = stderr if stderr is not None else sys.stderr
        self.connerrors: tuple[type[BaseException], ...] = (OperationalError,)
        self.block_timeout = block_timeout
        self.no_join = no_join

    def remark(self, s: str, sep: str = "-") -> None:
        """Print a line that begins with ``sep``."""
        print(f"{sep}{s}", file=self.stdout)

    def warn(self, s: str) -> None:
        """Print a line to the standard error output."""
        print(s, file=self.stderr)

    def missing_results(self, r: Iterable[Any]) -> list[str]:
        """Return the ids of the results that are not final."""
        return [result.id for result in r if not result.ready()]

    # Waiting.

    def retry_over_time(
        self,
        fun: Callable[..., T],
        catch: type[BaseException] | tuple[type[BaseException], ...],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        errback: Callable[[BaseException, Iterator[float], int], float] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
        timeout: float | None = None,
        **_: Any,
    ) -> T:
        """Call ``fun`` until it raises none of ``catch``; returns what it returns.

        Args:
            errback: called with the exception, the intervals, and how often it was tried; returns the pause.
            max_retries: further calls; None or 0: without end.
            interval_start, interval_step, interval_max: pauses between two calls, in seconds.
            timeout: seconds for all of it.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pauses = _pauses(interval_start, interval_step, interval_max)
        for tries in count():
            try:
                return fun(*args, **(kwargs or {}))
            except catch as exc:
                if max_retries and tries >= max_retries:
                    raise
                if until is not None and time.monotonic() >= until:
                    raise
                pause_s = next(pauses) if errback is None else errback(exc, pauses, tries)
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def wait_for(
        self,
        fun: Callable[..., T],
        catch: Any,
        desc: str = "thing",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        errback: Callable[[BaseException, float, int], object] | None = None,
        max_retries: int | None = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> T:
        """Call ``fun`` until it doesn't raise ``catch`` (one exception or several) any more.

        Args:
            desc: what is waited for; it is told before each further call with ``emit_warning``.
            errback: called before each with the exception, the pause in seconds, and the number of tries.
            max_retries: further calls; after them the exception is raised.
            interval_start, interval_step, interval_max: pauses between two calls, in seconds.
            options: ``timeout``, in seconds, for all of it.
        """

        def on_error(exc: BaseException, pauses: Iterator[float], tries: int) -> float:
            pause_s = next(pauses)
            if emit_warning:
                self.warn(f"Still waiting for {desc}, again in {pause_s:g} s: {exc!r}")
            if errback is not None:
                errback(exc, pause_s, tries)
            return pause_s

        return self.retry_over_time(
            fun,
            _several(catch),
            args=args,
            kwargs=kwargs,
            errback=on_error,
            max_retries=max_retries,
            interval_start=interval_start,
            interval_step=interval_step,
            interval_max=interval_max,
            **options,
        )

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., object],
        catch: Any,
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """Call ``fun`` again and again; raises AssertionError once it doesn't raise ``catch``."""
        expected = _several(catch)
        try:
            self.wait_for(
                fun,
                expected,
                desc=desc,
                max_retries=max_retries,
                interval_start=interval_start,
                interval_step=interval_step,
                interval_max=interval_max,
                emit_warning=emit_warning,
                **options,
            )
        except expected:
            return
        raise AssertionError(f"Should not have happened: {desc}")

    def join(self, r: Any, propagate: bool = False, max_retries: int | None = 10, **kwargs: Any) -> Any:
        """Return the values of a set of results, or of one, in a list.

        Args:
            propagate: raise the exception of one that has failed, instead of returning it.
            max_retries: how often ``timeout`` may pass (``kwargs`` are those of ResultSet.get).

        Raises:
            AssertionError: it was not final by then.
        """
        if self.no_join:
            return None
        if not isinstance(r, ResultSet):
            r = self.app.ResultSet([r])
        for _ in range(max_retries) if max_retries else count():
            try:
                return r.get(propagate=propagate, **kwargs)
            except TimeoutError as exc:
                missing = self.missing_results(r)
                waiting = ", ".join(missing)[:200]
                self.remark(f"Still waiting for {len(missing)}/{len(r)}: [{waiting}]: {exc!r}", "!")
            except self.connerrors as exc:
                self.remark(f"join: connection lost: {exc!r}", "!")
        raise AssertionError(f"no result of {', '.join(self.missing_results(r))}")

    # Workers, asked.

    def inspect(self, timeout: float = 3.0) -> Inspect:
        """Return what asks the workers."""
        asked: Inspect = self.app.control.inspect(timeout=timeout)
        return asked

    def query_tasks(self, ids: Iterable[str], timeout: float = 0.5) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (node, id → (state, info)) of each worker that has some of these tasks."""
        yield from (self.inspect(timeout).query_task(*ids) or {}).items()

    def query_task_states(self, ids: Iterable[str], timeout: float = 0.5) -> dict[str, set[str]]:
        """Return state → ids of these tasks, of those that workers have."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for _, reply in self.query_tasks(ids, timeout=timeout):
            for task_id, (state, _info) in reply.items():
                found[state].add(task_id)
        return found

    def is_received(self, ids: Iterable[str], timeout: float = 0.5) -> bool:
        """Return whether workers have all of these tasks."""
        return self._have_states(ids, ("reserved", "active", "ready"), timeout)

    def is_accepted(self, ids: Iterable[str], timeout: float = 0.5) -> bool:
        """Return whether all of these tasks are running."""
        return self._have_states(ids, ("active", "ready"), timeout)

    def _have_states(self, ids: Iterable[str], wanted: Sequence[str], timeout: float) -> bool:
        ids = list(ids)
        found = self.query_task_states(ids, timeout=timeout)
        return set(ids) <= set().union(*(found.get(state, set()) for state in wanted))

    @staticmethod
    def is_result_task_in_progress(results: Iterable[Any], **kwargs: Any) -> bool:
        """Return whether all of these results are STARTED or SUCCESS."""
        return all(result.state in (states.STARTED, states.SUCCESS) for result in results)

    def true_or_raise(self, fun: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what ``fun`` returns; raises Sentinel if that is false."""
        returned = fun(*args, **kwargs)
        if not returned:
            raise Sentinel
        return returned

    def assert_accepted(
        self, ids: Iterable[str], interval: float = 0.5, desc: str = "tasks to be accepted", **policy: Any
    ) -> bool:
        """Wait until all of these tasks are running; raises Sentinel. ``policy``: as for wait_for."""
        return self.assert_task_worker_state(self.is_accepted, ids, interval=interval, desc=desc, **policy)

    def assert_received(
        self, ids: Iterable[str], interval: float = 0.5, desc: str = "tasks to be received", **policy: Any
    ) -> bool:
        """Wait until workers have all of these tasks; raises Sentinel."""
        return self.assert_task_worker_state(self.is_received, ids, interval=interval, desc=desc, **policy)

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Iterable[Any],
        interval: float = 0.5,
        desc: str = "tasks to be started or completed",
        **policy: Any,
    ) -> bool:
        """Wait until all of these results are STARTED or SUCCESS; raises Sentinel."""
        return self.assert_task_state_from_result(
            self.is_result_task_in_progress, async_results, interval=interval, desc=desc, **policy
        )

    def assert_task_state_from_result(
        self, fun: Callable[..., bool], results: Iterable[Any], interval: float = 0.5, **policy: Any
    ) -> bool:
        """Wait until ``fun(results, timeout=interval)`` is true; raises Sentinel."""
        results = list(results)
        return self.wait_for(lambda: self.true_or_raise(fun, results, timeout=interval), Sentinel, **policy)

    def assert_task_worker_state(
        self, fun: Callable[..., bool], ids: Iterable[str], interval: float = 0.5, **policy: Any
    ) -> bool:
        """Wait until ``fun(ids, timeout=interval)`` is true; raises Sentinel."""
        ids = list(ids)
        return self.wait_for(lambda: self.true_or_raise(fun, ids, timeout=interval), Sentinel, **policy)

    def wait_until_idle(self, timeout: float = 60.0) -> None:
        """Drop what waits in the app's queues, and wait until no worker runs anything.

        Raises:
            TimeoutError: something still ran after so many seconds; it is named.
        """
        deadline = time.monotonic() + timeout
        while self.app.control.purge():
            pass
        inspect = self.inspect()
        while running := [task for tasks in (inspect.active() or {}).values() for task in tasks]:
            if time.monotonic() > deadline:
                named = ", ".join(f"{task['name']}[{task['id']}]" for task in running)
                raise TimeoutError(f"after {timeout:g} s there still runs {named}")
            time.sleep(0.01)


class Manager(ManagerMixin):
    """A ManagerMixin of an app; ``kwargs`` are those of ``_init_manager``."""

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)


def _several(exceptions: Any) -> tuple[type[BaseException], ...]:
    return (exceptions,) if isinstance(exceptions, type) else tuple(exceptions)


def _pauses(start: float, step: float, longest: float) -> Iterator[float]:
    pause_s = start
    while True:
        yield min(pause_s, longest)
        pause_s += step
