"""Plain importable paths: which of them a site allows, and the Program that runs them.

An object that wants more than a plain call (a shim task, a genuine Celery task) has a method
``__emq_run__(job, delivery, report) -> Outcome`` (run.Runnable); everything else is called with the job's
arguments, and what it returns is the value.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from emq_compat.coroutines.settle import settle
from emq_compat.errors import ConfigurationError, NotAllowed, NotResolved
from emq_compat.failures import failed, failure_of, reply_of
from emq_compat.message import IGNORED, RETRY, SUCCESS, Delivery, Job, Outcome, Publish, Reply
from emq_compat.run import Onlooker, Report, TaskPolicy
from emq_compat.words import amount

__all__ = ["AllowedPaths", "PathProgram", "callable_from_name", "path_program"]

logger = logging.getLogger(__name__)


_NAME = re.compile(r"(?!__.*__$)[^\W\d]\w*")


class AllowedPaths:
    """Turns a job's path and callable into what is to be called, if the site allows it.

    ``patterns`` are dotted names with shell wildcards (``pkg.*``, ``pkg.tasks.add``); a job is named
    ``module.callable`` or ``module.Class.callable``. A wildcard must match that name *and* where the callable
    really comes from (its own ``__module__``): what an allowed module has only imported (``os.system`` as
    ``pkg.system``) doesn't run. A pattern without wildcards allows just the name it spells, whatever it is.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self.patterns = tuple(patterns)
        self._exact = frozenset(p for p in patterns if not _wild(p))
        self._wild = tuple(p for p in patterns if _wild(p))
        self._found: dict[tuple[str, str], Any] = {}

    def resolve(self, job: Job) -> Callable[..., Any]:
        """Return the callable; for ``module:Class`` this makes the instance (class_args, class_kwargs).

        Raises:
            NotAllowed: no pattern allows it.
            NotResolved: the module has no such class, or callable.
            Exception: whatever importing the module, or making the instance, raises.
        """
        key = (job.path, job.callable)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._look_up(job)
        if ":" not in job.path:
            return found  # type: ignore[no-any-return]
        return getattr(found(*job.class_args, **job.class_kwargs), job.callable)  # type: ignore[no-any-return]

    def _look_up(self, job: Job) -> Any:
        """Return the function, or the class, after all checks."""
        module_name, colon, class_name = job.path.partition(":")
        names = [*module_name.split("."), *([class_name] if colon else []), job.callable]
        if not all(_NAME.fullmatch(name) for name in names):
            raise NotAllowed(f"{job.path!r} and {job.callable!r} don't name a callable in a module")
        full = ".".join(names)
        exact = full in self._exact
        if not exact and not self._matches(full):
            known = ", ".join(self.patterns) or "nothing"
            hint = next((p for p in self._exact if full.startswith(p + ".")), None)
            raise NotAllowed(
                f"{full} is not allowed; allowed: {known}" + (f" (is {hint}.* meant?)" if hint else "")
            )
        module = importlib.import_module(module_name)
        holder: Any = module
        if colon:
            holder = _member(module, class_name, module_name)
            if not isinstance(holder, type):
                raise NotResolved(f"{module_name}.{class_name} is not a class")
            if not exact:
                self._check_home(holder, full)
        target = _member(holder, job.callable, ".".join(names[:-1]))
        if not callable(target):
            raise NotResolved(f"{full} can't be called")
        if not exact:
            self._check_home(target, full)
        return holder if colon else target

    def _matches(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._wild)

    def _check_home(self, target: Any, full: str) -> None:
        """Refuse a callable whose own module no pattern allows."""
        while isinstance(target, functools.partial):
            target = target.func
        module = getattr(target, "__module__", None)
        if not isinstance(module, str):
            module = type(getattr(target, "__self__", target)).__module__
        name = getattr(target, "__qualname__", None) or type(target).__qualname__
        if not self._matches(f"{module}.{name}"):
            raise NotAllowed(f"{full} is {module}.{name}, which is not allowed")


def _wild(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _member(holder: Any, name: str, label: str) -> Any:
    try:
        return getattr(holder, name)
    except AttributeError:
        raise NotResolved(f"{label} has no {name!r}") from None


def callable_from_name(name: str) -> Callable[..., Any]:
    """Import ``pkg.module.callable`` (or ``pkg.module:callable``) that the site's own settings name.

    Raises:
        ConfigurationError: there is none; the message says which part is missing.
    """
    module_name, _, attribute = name.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigurationError(f"{name!r} can't be imported: {exc}") from exc
    if not callable(found):
        raise ConfigurationError(f"{name!r} can't be called")
    return found  # type: ignore[no-any-return]


class PathProgram:
    """Implements Program for a plain job manager: the paths that the site allows.

    ``job_entry`` and ``job_exit`` name functions called without arguments before and after each job,
    ``setup`` one called at the start of each process (eventmq's JOB_ENTRY_FUNC, JOB_EXIT_FUNC and
    SUBPROCESS_SETUP_FUNC). A setup that raises is logged, as in eventmq; an entry function that raises fails
    its job.

    ``retry-count:N``: a job that raises is published again, N times at most. A stock router takes no
    follow-up from a worker: there the job is run again at once, in place.
    """

    policies: Mapping[str, TaskPolicy] | None = None

    def __init__(
        self,
        allowed: Sequence[str],
        *,
        name: str = "jobmanager",
        default_queue: str = "default",
        setup: str = "",
        job_entry: str = "",
        job_exit: str = "",
        limit_s: float | None = 300.0,
    ) -> None:
        self.name = name
        self.paths = AllowedPaths(allowed)
        self.default_queue = default_queue
        self.default_policy = TaskPolicy(limit_s=limit_s)
        self.soft_limit_exceeded: type[BaseException] = TimeoutError
        document = {
            "allowed": list(allowed), "name": name, "default_queue": default_queue, "setup": setup,
            "job_entry": job_entry, "job_exit": job_exit, "limit_s": limit_s,
        }  # fmt: skip
        self.onlooker = Onlooker()
        self.rebuild = ("emq_compat.paths:path_program", (json.dumps(document),))
        self._setup = setup
        self._names = (job_entry, job_exit)
        self._entry: Callable[[], Any] | None = None
        self._exit: Callable[[], Any] | None = None

    def worker_init(self) -> None:
        """Look for the entry and exit functions; raises ConfigurationError if one is missing."""
        for name in filter(None, self._names):
            callable_from_name(name)

    def child_init(self) -> None:
        """Find entry and exit functions, run the setup; raises ConfigurationError if one is missing."""
        entry, leave = self._names
        self._entry = callable_from_name(entry) if entry else None
        self._exit = callable_from_name(leave) if leave else None
        if self._setup:
            try:
                callable_from_name(self._setup)()
            except Exception:
                logger.exception("the setup function %s failed", self._setup)

    def child_exit(self) -> None:
        """Nothing."""

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Run one delivery (Program.work)."""
        if delivery.headers.concludes:
            return Outcome(state=IGNORED).encode()  # nothing follows from the end of a plain job
        try:
            return self._work(delivery, report)
        except BaseException as exc:  # noqa: BLE001 - what escapes a job, SystemExit included, is its failure
            return failed(exc)

    def _work(self, delivery: Delivery, report: Report) -> Reply:
        job = Job.decode(delivery.payload)
        tries = 1 if delivery.attempt else 1 + delivery.headers.retry_count
        for last in (n == tries - 1 for n in range(tries)):
            began = time.monotonic()
            try:
                reply = reply_of(self._run(job, delivery, report))
            except (NotAllowed, NotResolved) as exc:
                logger.error("refused: %s", exc)
                return failed(exc)
            except Exception as exc:  # noqa: BLE001 - the edge around user code; logged below
                if not last:
                    logger.warning("%s.%s failed, tries again: %r", job.path, job.callable, exc)
                    continue
                return self._failed(job, delivery, exc)
            took_s = time.monotonic() - began
            logger.info("%s.%s[%s] succeeded in %.6fs", job.path, job.callable, delivery.msgid, took_s)
            return reply
        raise AssertionError("unreachable")

    def _run(self, job: Job, delivery: Delivery, report: Report) -> Outcome:
        if self._entry is not None:
            self._entry()
        try:
            target = self.paths.resolve(job)
            own = getattr(target, "__emq_run__", None)
            if own is not None:
                return own(job, delivery, report)  # type: ignore[no-any-return]
            return Outcome(state=SUCCESS, value=settle(target(*job.args, **job.kwargs)))
        finally:
            if self._exit is not None:
                try:
                    self._exit()
                except Exception:
                    logger.exception("the job exit function %s failed", self._names[1])

    def _failed(self, job: Job, delivery: Delivery, exc: Exception) -> Reply:
        headers = delivery.headers
        if not headers.retry_count or not delivery.attempt:
            logger.error("%s.%s failed", job.path, job.callable, exc_info=exc)
            return failed(exc)
        tries = amount(headers.retry_count, "try", "tries")
        logger.warning("%s.%s failed, %s left: %r", job.path, job.callable, tries, exc)
        left = headers.retry_count - 1
        again = replace(headers, retry_count=left, retries=headers.retries + 1, attempt=0, redelivered=False)
        follow_up = Publish(queue=delivery.queue, headers=again, payload=delivery.payload)
        return reply_of(Outcome(state=RETRY, failure=failure_of(exc), follow_ups=(follow_up,)))


def path_program(document: str) -> PathProgram:
    """Make a PathProgram again in a new process, from what its ``rebuild`` holds."""
    return PathProgram(**json.loads(document))
