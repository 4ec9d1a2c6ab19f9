"""Celery: the application: its settings, its tasks, its connection to the broker.

It stands at the end of a line of halves: Configured (settings), Connections, Sender (publishing), Declarer
(tasks). Here is what makes one of them, and what hangs on it: results, signatures, the log, programs.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim import current, declare, later
from emq_compat.shim.declarer import Declarer
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.exceptions import CeleryWarning
from emq_compat.shim.pickling import AppPickler, unpickle_app, unpickle_attribute
from emq_compat.shim.settings_source import NEW_NAMES
from emq_compat.shim.settings_table import SETTINGS
from emq_compat.shim.symbols import symbol_by_name

if TYPE_CHECKING:
    from types import TracebackType

    from emq_compat.shim.backend import Backend
    from emq_compat.shim.beat.program import Beat as BeatProgram
    from emq_compat.shim.control import Control
    from emq_compat.shim.events.clock import Clock
    from emq_compat.shim.events.system import Events
    from emq_compat.shim.log import Logging
    from emq_compat.shim.programs import Worker as WorkerProgram
    from emq_compat.shim.results.groups import GroupResult as ResultOfGroup
    from emq_compat.shim.results.sets import ResultSet as SetOfResults
    from emq_compat.shim.results.single import AsyncResult as Result

__all__ = ["Celery"]

#: Arguments of Celery's Celery that choose parts for which there is one way here.
_PARTS = frozenset({"broker_connection_retry"})


class Celery(Declarer):
    """An application.

    Args:
        main: its name; it is the module's name, too, for tasks declared in ``__main__``.
        broker, backend: URLs; the settings broker_url and result_backend. They win over what is read.
        include: modules with tasks that a worker imports.
        changes: settings that win over what is read.
        config_source, config_source_silent, namespace: as for config_from_object.
        task_cls: the base class of its tasks, or its dotted path.
        set_as_current: make it ``current_app``.
        tasks: a registry to use, or tasks by name, or a registry's class.
        amqp, events, loader, log, control: classes to use instead of AMQP, Events, AppLoader, Logging and
            Control, or their dotted paths.
        fixups: functions, or dotted paths to them, that adapt the app to a framework: called with it.
        autofinalize: false: using its tasks before ``finalize()`` is a RuntimeError.
        strict_typing: whether calls' arguments are checked, where a task doesn't say so.
        kwargs: settings. A name that is none of these is warned about.

    Attributes:
        on_after_fork: sent in each process that is forked from one with this app.
        steps: what a project adds to a worker: ``steps["worker"].add(…)`` of a class of celery.bootsteps.
        user_options: command → options that the app adds to it (cli/user_options.py).
        clock: the number by which events are ordered.
        hostname: the node name that its tasks see in ``request.hostname``; a worker sets its own.
    """

    SYSTEM = os.uname().sysname
    IS_WINDOWS = SYSTEM == "Windows"
    IS_macOS = SYSTEM == "Darwin"
    Pickler = AppPickler
    builtin_fixups: Collection[Any] = frozenset({"emq_compat.shim.django:fixup"})
    log_cls: Any = "emq_compat.shim.log:Logging"
    control_cls: Any = "emq_compat.shim.control:Control"
    events_cls: Any = "emq_compat.shim.events.system:Events"

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | Sequence[str] | None = None,
        backend: Any = None,
        include: Sequence[str] | str | None = None,
        changes: Mapping[str, Any] | None = None,
        config_source: Any = None,
        config_source_silent: bool = False,
        namespace: str | None = None,
        task_cls: Any = None,
        set_as_current: bool = True,
        tasks: Any = None,
        amqp: Any = None,
        loader: Any = None,
        log: Any = None,
        control: Any = None,
        events: Any = None,
        fixups: Collection[Any] | None = None,
        autofinalize: bool = True,
        strict_typing: bool = True,
        **kwargs: Any,
    ) -> None:
        self._warn_of_unknown(kwargs)
        self._backend: Backend | None = None
        self._backend_is_given = False
        self._log: Logging | None = None
        self._control: Any = None
        self._events: Any = None
        self._clock: Clock | None = None
        given = {"broker_url": broker, "result_backend": backend, "include": include}
        given |= {name: value for name, value in kwargs.items() if name not in _PARTS}
        super().__init__(
            {**(changes or {}), **{name: value for name, value in given.items() if value is not None}},
            config_source,
            namespace,
            silent=config_source_silent,
            tasks=tasks,
            autofinalize=autofinalize,
        )
        self.main = main
        parts = {"amqp": amqp, "loader": loader, "log": log, "control": control, "task": task_cls}
        for name, part in {**parts, "events": events}.items():
            if part is not None and part != "app":
                setattr(self, f"{name}_cls", part)
        self._own_task_cls = task_cls is not None or "task_cls" in _overridden(type(self))
        self.strict_typing = strict_typing
        self.set_as_current = set_as_current
        self.steps: defaultdict[str, set[Any]] = defaultdict(set)
        self.user_options: defaultdict[str, set[Any]] = defaultdict(set)
        self.on_after_fork = Signal(name="app.on_after_fork")
        self.hostname = f"celery@{os.uname().nodename}"
        self._of_thread = threading.local()
        declare.share_with(self)
        self.fixups = set(self.builtin_fixups if fixups is None else fixups)
        self._fix_up()
        if set_as_current:
            self.set_current()
        self.on_init()

    def on_init(self) -> None:
        """Called at the end of making an app; for subclasses."""

    def _fix_up(self) -> None:
        if not self.fixups <= {"emq_compat.shim.django:fixup"} or "DJANGO_SETTINGS_MODULE" in os.environ:
            made = (symbol_by_name(fixup)(self) for fixup in self.fixups)
            self.fixup_objects += [fixup for fixup in made if fixup is not None]
        for fixup in self.fixup_objects:
            if not self._own_task_cls and hasattr(fixup, "task_cls"):
                self.task_cls = fixup.task_cls

    def AsyncResult(self, id: str, **kwargs: Any) -> Result[Any]:  # noqa: A002, N802 - Celery's names
        """Return the result of a task by its id."""
        return later.AsyncResult(id, app=self, **kwargs)

    @property
    def GroupResult(self) -> _Groups:  # noqa: N802 - Celery's name
        """Makes the result of a group, ``(id, results)``; its ``restore(id)`` gives one that was saved."""
        return _Groups(self)

    def ResultSet(self, results: Iterable[Any] | None = None, **kwargs: Any) -> SetOfResults:  # noqa: N802
        """Return results as one."""
        return later.ResultSet(results, app=self, **kwargs)

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """Return a signature that this app sends; arguments are those of canvas.signature."""
        return later.signature(*args, app=self, **kwargs)

    subtask = signature

    def add_periodic_task(
        self,
        schedule: Any,
        sig: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **opts: Any,
    ) -> str:
        """Add an entry to beat_schedule, now or once the settings are read; returns its name.

        Args:
            schedule: seconds, a timedelta, or a schedule.
            sig: a signature, or a task; ``args`` and ``kwargs`` are added to those it has.
            name: of the entry; otherwise the signature's repr.
            opts: options of apply_async.
        """
        if isinstance(sig, Mapping):
            call: Any = sig.clone(args, kwargs or {}) if hasattr(sig, "clone") else sig
        else:
            call = self.signature(sig.name, args, kwargs or {})
        key = name or repr(call)
        entry = {
            "schedule": schedule,
            "task": call["task"],
            "args": call["args"],
            "kwargs": call["kwargs"],
            "options": {**call["options"], **opts},
        }
        if self.configured:
            self.conf["beat_schedule"] = {**self.conf.beat_schedule, key: entry}
        else:
            self._pending_entries[key] = entry
        return key

    @property
    def annotations(self) -> tuple[Any, ...]:
        """What task_annotations names, each a mapping or an object with annotate()."""
        own = self.conf.own_changes()  # what code has set wins over what is read, and needs no reading
        if "task_annotations" in own:
            return tuple(later.sources_of(own["task_annotations"]))
        return tuple(later.sources_of(self.conf.task_annotations))

    def problems(self) -> list[str]:
        """Return a line for each setting and route that won't do what its author thinks."""
        lines = [*self.conf.problems(), *self.amqp.router.routes.problems()]
        for fixup in self.fixup_objects:
            lines += getattr(fixup, "problems", ())
        return lines

    @staticmethod
    def _warn_of_unknown(given: Collection[str]) -> None:
        for name in given:
            if name not in _PARTS and name not in SETTINGS and name not in NEW_NAMES:
                warnings.warn(CeleryWarning(f"Celery() has no argument {name!r}"), stacklevel=3)

    def set_current(self) -> None:
        """Make this the current app of this thread."""
        current.set_app(self)

    def set_default(self) -> None:
        """Make this the current app of every thread that has none of its own."""
        current.set_default_app(self)

    @property
    def log(self) -> Logging:
        """Sets up the logging of this process."""
        if self._log is None:
            self._log = symbol_by_name(self.log_cls)(self)
        return self._log

    @property
    def control(self) -> Control:
        """Remote control of the workers."""
        if self._control is None:
            self._control = symbol_by_name(self.control_cls)(self)
        made: Control = self._control
        return made

    @property
    def events(self) -> Events:
        """Sends and receives events."""
        if self._events is None:
            self._events = symbol_by_name(self.events_cls)(self)
        made: Events = self._events
        return made

    @events.setter
    def events(self, events: Any) -> None:
        self._events = events

    @property
    def clock(self) -> Clock:
        """The number by which events are ordered."""
        if self._clock is None:
            self._clock = later.Clock()
        return self._clock

    @property
    def oid(self) -> str:
        """An id of this app in this process."""
        return _oid(f"{os.uname().nodename}-{os.getpid()}-{id(self)}")

    @property
    def thread_oid(self) -> str:
        """An id of this app in this thread."""
        return _oid(f"{self.oid}-{threading.get_ident()}")

    def bugreport(self) -> str:
        """Return versions and settings as text, with secrets masked."""
        return later.bug_report(self)

    def subclass_with_self(
        self,
        Class: Any,  # noqa: N803 - Celery's name
        name: str | None = None,
        attribute: str = "app",
        reverse: str | None = None,
        keep_reduce: bool = False,
        **kw: Any,
    ) -> type:
        """Return a subclass of a class (or of what a dotted path names) that has this app as an attribute.

        Its instances are pickled as a call of ``reverse``, a path from the app, with ``__reduce_args__()``;
        with ``keep_reduce`` as the class has it.
        """
        base = symbol_by_name(Class)
        path = reverse or base.__name__
        members = {attribute: self, "__module__": base.__module__, "__doc__": base.__doc__, **kw}
        if not keep_reduce:
            members["__reduce__"] = lambda instance: (
                unpickle_attribute,
                (path, instance.__reduce_args__()),
            )
        return type(name or base.__name__, (base,), members)

    @property
    def Worker(self) -> type[WorkerProgram]:  # noqa: N802 - Celery's name
        """The worker as a class: ``app.Worker(concurrency=2, loglevel="INFO").start()``."""
        return self.subclass_with_self(later.Worker)

    WorkController = Worker

    @property
    def Beat(self) -> type[BeatProgram]:  # noqa: N802 - Celery's name
        """The beat as a class: ``app.Beat(loglevel="INFO").run()``."""
        return self.subclass_with_self(later.Beat)

    def worker_main(self, argv: Sequence[str] | None = None) -> None:
        """Run a worker of this app, as the command line ``argv`` says: ``["worker", "-c", "2"]``.

        Raises:
            ValueError: the command in it isn't ``worker``.
            SystemExit: it has ended.
        """
        later.run_command(self, argv, only="worker")

    def start(self, argv: Sequence[str] | None = None) -> None:
        """Run a command of ``emq-compat`` for this app; raises SystemExit when it has ended."""
        later.run_command(self, argv)

    def setup_security(self, *args: Any, **kwargs: Any) -> None:
        """Refused: messages aren't signed here; keys protect the connection (docs/security.md).

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("messages are not signed here: CURVE keys protect the connection (?keys=)")

    setup_security.__unsupported__ = True  # type: ignore[attr-defined]

    def _after_fork(self) -> None:
        if self.on_after_fork.receivers:
            self.on_after_fork.send(sender=self)

    def close(self) -> None:
        """Close the connection to the broker; a later call opens a new one."""
        close = getattr(self._client, "close", None)
        if close is not None:
            close()
        if self._kombu_pools is not None:
            self._kombu_pools.close()

    def __enter__(self) -> Celery:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_app, (type(self), self.Pickler, self.__reduce_keys__())

    def __reduce_keys__(self) -> dict[str, Any]:
        """Return the arguments by which it is made again."""
        made_with = {
            "amqp": self.amqp_cls,
            "events": self.events_cls,
            "loader": self.loader_cls,
            "log": self.log_cls,
        }
        return {
            "main": self.main,
            "changes": self._conf.own_changes(),
            "config_source": self._source,
            "namespace": self.namespace,
            "task_cls": self.task_cls if self._own_task_cls else None,
            **{name: part for name, part in made_with.items() if part is not getattr(Celery, f"{name}_cls")},
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'} at {id(self):#x}>"


def _oid(text: str) -> str:
    """Return the UUID of a text."""
    import uuid  # noqa: PLC0415 - start-up doesn't need it

    return str(uuid.uuid3(uuid.NAMESPACE_OID, text))


class _Groups:
    """``app.GroupResult``."""

    __slots__ = ("_app",)

    def __init__(self, app: Celery) -> None:
        self._app = app

    def __call__(
        self, id: str | None = None, *args: Any, **kwargs: Any  # noqa: A002 - Celery's name
    ) -> ResultOfGroup:
        """Return the result of a group: its id, and those of its members."""
        return later.GroupResult(id, *args, app=self._app, **kwargs)

    def restore(
        self, id: str, backend: Any = None, app: Celery | None = None  # noqa: A002 - Celery's name
    ) -> ResultOfGroup | None:
        """Return the group that was saved under this id; None: there is none."""
        return later.GroupResult.restore(id, backend=backend, app=app or self._app)


def _overridden(cls: type) -> set[str]:
    """Return what subclasses of Celery define."""
    return {name for base in cls.__mro__[: cls.__mro__.index(Celery)] for name in vars(base)}


def _tell_of_fork() -> None:
    for app in list(current.apps):
        app._after_fork()


os.register_at_fork(after_in_child=_tell_of_fork)


current.set_fallback(
    lambda: Celery("default", set_as_current=False, config_source="celeryconfig", config_source_silent=True)
)
