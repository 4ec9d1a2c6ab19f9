"""The ``run`` subcommand: path, callable, class_args → a call → an Outcome.

Nothing here knows a socket, a process or Celery. An object that wants more than a plain call (a shim task, a
genuine Celery task) has a method ``__emq_run__(job, delivery, report) -> Outcome``; everything else is called
with the job's arguments, and what it returns is the value.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from emq_compat.coroutines.settle import settle
from emq_compat.errors import ConfigurationError, MessageError, NotAllowed, NotResolved
from emq_compat.message import (
    FAILURE,
    IGNORED,
    RETRY,
    SUCCESS,
    Delivery,
    Failure,
    Job,
    Outcome,
    Publish,
    Reply,
)

__all__ = [
    "TEXT_LIMIT",
    "AllowedPaths",
    "Onlooker",
    "PathProgram",
    "Program",
    "Report",
    "Runnable",
    "TaskPolicy",
    "callable_from_name",
    "cut",
    "failed",
    "failure_of",
    "reply_of",
]

logger = logging.getLogger(__name__)

#: No text of a Failure (message, one argument, all arguments together) is longer, in characters; the
#: traceback may have twice as many. What is longer is cut in its middle.
TEXT_LIMIT = 32_768


class Report(Protocol):
    """Tells a state that isn't final of the running job."""

    def __call__(self, state: str, body: bytes) -> None: ...


@runtime_checkable
class Runnable(Protocol):
    """An object that turns a job into an Outcome by itself."""

    def __emq_run__(self, job: Job, delivery: Delivery, report: Report) -> Outcome: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPolicy:
    """What a job manager must know of a task without running it (Celery's task attributes of these names).

    Limits are in seconds; None: no limit. ``interval_s`` is the time between two runs on one worker (its
    rate limit).
    """

    acks_late: bool = False
    reject_on_worker_lost: bool = False
    limit_s: float | None = None
    soft_limit_s: float | None = None
    interval_s: float | None = None
    acks_on_timeout: bool = True


class Onlooker:
    """Is told, in the job manager's process and from its loop, what happens to it; does nothing by itself.

    A method must return soon, because nothing else happens meanwhile, and must not raise.

    Attributes:
        received_log: where each job that is taken in is noted.
    """

    received_log = logging.getLogger("emq_compat.jobmanager")

    def before_child(self) -> None:
        """Called before each child process; the first time nothing has been forked yet."""

    def ready(self) -> None:
        """Called once: a broker has taken this worker in, and it accepts work."""

    def heartbeat_sent(self) -> None:
        """Called after each heartbeat to a broker."""

    def received(self, delivery: Delivery) -> None:
        """Called for each job that is taken in."""

    def unattended(self, delivery: Delivery, reply: Reply, *, signum: int | None = None) -> None:
        """Called when a job ends, or goes back, without a word of its task: lost, over its limit, revoked.

        ``signum`` is the signal by which it was terminated.
        """

    def asked(self, manager: Any, verb: str, arguments: Mapping[str, Any]) -> Any:
        """Called for a question of remote control that the job manager doesn't know; returns the answer.

        Raises:
            LookupError: this doesn't know it either.
            Exception: the error that is answered.
        """
        raise LookupError(f"the verb {verb!r} is unknown")

    def shutting_down(self, cause: str, how: str, exit_code: int) -> None:
        """Called when the end begins (``Warm``), and when it is hurried (``Cold``).

        ``cause`` is the name of the signal that asked for it; empty: something else did.
        """

    def shut_down(self) -> None:
        """Called last: all children are gone, and all replies have left."""


class Program(Protocol):
    """What a job manager runs: a Celery-style app, or the importable paths that a site allows.

    Attributes:
        name: for the banner and logs.
        policies: task name → policy, of every registered task; None: any allowed path (a plain job manager).
        default_policy: for a delivery whose task name is not in ``policies``.
        default_queue: the queue listened on when the command line names none.
        soft_limit_exceeded: the exception raised inside a task at its soft limit.
        rebuild: an importable ``module:callable`` and its string arguments that make this program again in a
            new process (spawn); None: it can't be.
        onlooker: what wants to know of the job manager's life.
    """

    @property
    def name(self) -> str: ...
    @property
    def policies(self) -> Mapping[str, TaskPolicy] | None: ...
    @property
    def default_policy(self) -> TaskPolicy: ...
    @property
    def default_queue(self) -> str: ...
    @property
    def soft_limit_exceeded(self) -> type[BaseException]: ...
    @property
    def rebuild(self) -> tuple[str, tuple[str, ...]] | None: ...
    @property
    def onlooker(self) -> Onlooker: ...

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Run one delivery and log how it ended.

        Never raises: a bad payload, a refused path, a failing task are Replies. A delivery whose headers say
        ``concludes`` is no job but the end of one (Headers.epilogue).
        """
        ...

    def worker_init(self) -> None:
        """Called once in the parent, before anything is forked."""
        ...

    def child_init(self) -> None:
        """Called in each process that runs tasks, at its start."""
        ...

    def child_exit(self) -> None:
        """Called in each process that runs tasks, at its orderly end."""
        ...


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return ``text`` safe for UTF-8 and for stores that refuse NUL, and at most ``limit`` characters long.

    Both ends are kept, with a note of what was left out between them. A lone surrogate and a NUL become
    their Python escapes (``\\udc80``, ``\\x00``).
    """
    if len(text) > limit:
        half = max(limit // 2 - 32, 0)
        tail = text[len(text) - half :]
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{tail}"
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\x00", "\\x00") if "\x00" in text else text


def failure_of(exc: BaseException, *, jsonable: Callable[[Any], Any] | None = None) -> Failure:
    """Return ``exc`` as data. Survives whatever the exception's own methods do.

    ``jsonable`` turns a value into JSON values or raises (the shim's: dates, UUIDs …); without it only what
    JSON holds by itself is kept as it is. Frames of emq_compat at the top of the traceback are left out.
    """
    cls = type(exc)
    args: list[Any] = []
    left = TEXT_LIMIT
    raw = _attempt(lambda: tuple(BaseException.args.__get__(exc)), ())  # type: ignore[attr-defined]
    for arg in raw[:100]:
        value, size = _argument(arg, max(left, 256), jsonable)
        left -= size
        args.append(value)
    message = _attempt(lambda: str(exc), None)
    if not isinstance(message, str):
        message = ", ".join(str(arg) for arg in args) or f"<{cls.__name__} whose text can't be had>"
    return Failure(
        type=cut(_attempt(lambda: str(cls.__qualname__), "Exception"), 512),
        module=cut(_attempt(lambda: str(cls.__module__), ""), 512),
        args=args,
        message=cut(message),
        traceback=cut(_attempt(lambda: _traceback(exc), ""), 2 * TEXT_LIMIT),
    )


def _attempt(read: Callable[[], Any], default: Any) -> Any:
    """Return what ``read`` returns, or ``default``: user code such as ``__str__`` may do anything."""
    try:
        return read()
    except BaseException:  # noqa: BLE001 - a hostile __str__ must not take the failure's report with it
        return default


_UNSAFE = re.compile(r"\\u0000|\\ud[89a-f]")


def _argument(arg: Any, limit: int, jsonable: Callable[[Any], Any] | None) -> tuple[Any, int]:
    """Return an exception's argument as a JSON value within ``limit`` characters, and its size."""
    if type(arg) is str:
        text = cut(arg, limit)
        return text, len(text)
    try:
        value = jsonable(arg) if jsonable is not None else arg
        document = json.dumps(value)
        if len(document) <= limit:
            plain = json.loads(document)
            return _clean(plain) if _UNSAFE.search(document) else plain, len(document)
    except BaseException:  # noqa: BLE001, S110 - not JSON, or its conversion fails: the repr will do
        pass
    text = _attempt(lambda: repr(arg), None)
    if not isinstance(text, str):
        text = f"<{type(arg).__name__} whose repr() failed>"
    text = cut(text, limit)
    return text, len(text)


def _clean(value: Any) -> Any:
    """Return a JSON value with every string in it made safe as ``cut`` does."""
    if isinstance(value, str):
        return cut(value, len(value))
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {cut(key, len(key)): _clean(item) for key, item in value.items()}
    return value


def _traceback(exc: BaseException) -> str:
    """Return the formatted traceback, beginning with the first frame that isn't ours."""
    start: TracebackType | None = exc.__traceback__
    while start is not None and str(start.tb_frame.f_globals.get("__name__", "")).startswith("emq_compat."):
        start = start.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, start or exc.__traceback__))
    except Exception:  # noqa: BLE001 - the text of the exception, or of one it is chained to, can't be had
        return "".join(traceback.format_tb(start or exc.__traceback__)) + f"{type(exc).__name__}\n"


def failed(exc: BaseException) -> Reply:
    """Return the Reply of a job that ended with ``exc`` outside of what a task can attend to itself.

    It is ``unattended``: where the message asks for an epilogue, what follows from it is done by that.
    """
    return replace(reply_of(Outcome(state=FAILURE, failure=failure_of(exc))), unattended=True)


def reply_of(outcome: Outcome) -> Reply:
    """Encode an Outcome; a value that JSON can't hold makes it a FAILURE that says so, unattended."""
    try:
        return outcome.encode()
    except MessageError as exc:
        return replace(Outcome(state=FAILURE, failure=failure_of(exc)).encode(), unattended=True)


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
        self.rebuild = ("emq_compat.run:path_program", (json.dumps(document),))
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
        logger.warning("%s.%s failed, %d tries left: %r", job.path, job.callable, headers.retry_count, exc)
        left = headers.retry_count - 1
        again = replace(headers, retry_count=left, retries=headers.retries + 1, attempt=0, redelivered=False)
        follow_up = Publish(queue=delivery.queue, headers=again, payload=delivery.payload)
        return reply_of(Outcome(state=RETRY, failure=failure_of(exc), follow_ups=(follow_up,)))


def path_program(document: str) -> PathProgram:
    """Make a PathProgram again in a new process, from what its ``rebuild`` holds."""
    return PathProgram(**json.loads(document))
