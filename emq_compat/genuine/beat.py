"""A genuine app's beat: Celery's own Service and scheduler, of which several may run, and one leads.

Celery's classes are subclassed at run time, so that a scheduler of any class stays what it is, and asks
whether its beat still leads before each send.
"""

from __future__ import annotations

import logging
import os
import shelve
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import cached_property, partial, wraps
from pathlib import PurePath
from types import FrameType
from typing import Any

from celery.apps.beat import Beat
from celery.beat import PersistentScheduler, Scheduler, Service
from celery.utils.imports import load_extension_class_names, symbol_by_name

from emq_compat.errors import ConfigurationError
from emq_compat.genuine.ledgers import ledger_of
from emq_compat.genuine.log import in_json
from emq_compat.leading.base import LastRun, Ledger
from emq_compat.leading.leader import Deposed, Leader
from emq_compat.shim.beat.watch import BeatWatch

__all__ = ["LedBeat", "LedScheduler", "LedService"]

logger = logging.getLogger("celery.beat")

#: How long a beat that stands by sleeps at most between two looks, in seconds.
_LOOK_S = 1.0
#: The default of beat_schedule_filename: it names no schedule of its own.
_DEFAULT_NAME = "celerybeat-schedule"


class LedScheduler:
    """What Celery's Service has for its scheduler: the real one, for as long as this beat leads.

    Each term has a scheduler of its own, made when it begins, so that it reads its entries from where they
    are kept. One whose term is over writes nothing any more.

    Args:
        make: makes a scheduler; with True one that is only looked at.
        cls: its class.
        last_runs: gives those that a beat without a ledger has left, by entry.
        watch: is told what this one does.

    Attributes:
        leader: knows whether this beat leads.
        ticks: whether it does so now.
    """

    def __init__(
        self,
        make: Callable[[type, bool], Any],
        cls: type,
        leader: Leader,
        last_runs: Callable[[], Mapping[str, LastRun]],
        watch: BeatWatch,
    ) -> None:
        self._make = make
        self._cls = cls
        self.leader = leader
        self._watch = watch
        self._last_runs = last_runs
        self._term = 0
        self._real: Any = None
        self._looked_at: Any = None
        self.ticks = False

    def tick(self) -> float:
        """Have the scheduler send what is due, if this beat leads; returns how many seconds to wait."""
        self.ticks = True
        try:
            wait_s = self._ticked()
        finally:
            self.ticks = False
        self._watch.ticked(self._real, max(0.0, wait_s or 0.0))
        return wait_s

    def _ticked(self) -> float:
        term = self.leader.term
        if term != self._term:
            self._drop()
            if term:
                self._begin(term)
        if self._real is None:
            self.leader.wait(_LOOK_S)
            return 0.0
        try:
            wait_s: float = self._real.tick()
        except Deposed:
            self._drop()
            return 0.0
        return wait_s

    def _begin(self, term: int) -> None:
        leader, cls, watch = self.leader, self._cls, self._watch

        class Led(cls):  # type: ignore[misc, valid-type]
            """A scheduler that sends as long as its term lasts."""

            def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kw: Any) -> Any:
                leader.confirm(term)
                at = entry.default_now().timestamp()
                total = (entry.total_run_count or 0) + 1
                with _counted(watch, entry):
                    sent = super().apply_async(entry, producer=producer, advance=advance, **kw)
                leader.note(term, str(entry.name), LastRun(at=at, total=total))
                return sent

        Led.__name__, Led.__qualname__, Led.__module__ = cls.__name__, cls.__qualname__, cls.__module__
        self._real = self._make(Led, False)
        self._term = term
        try:
            self._go_on(term)
        except Deposed:
            self._drop()

    def _go_on(self, term: int) -> None:
        """Have each entry go on from the last run that any beat has noted."""
        entries = {str(entry.name): entry for entry in self._real.schedule.values()}
        self.leader.ledger.shown = {
            name: (str(entry.task), str(entry.schedule)) for name, entry in entries.items()
        }
        known = self.leader.runs(term, entries)
        if self._cls is Scheduler:  # its entries are nowhere else
            before = {} if known else self._last_runs()
            first = {
                name: before.get(name)
                or LastRun(at=entry.last_run_at.timestamp(), total=entry.total_run_count or 0)
                for name, entry in entries.items()
            }
            self.leader.begin(term, first, only=True)
            known = {**before, **known}
        for name, run in known.items():
            entry = entries.get(name)
            if entry is None:
                continue
            last = entry.last_run_at
            if last is None or last.timestamp() < run.at or self._cls is Scheduler:
                entry.last_run_at = datetime.fromtimestamp(run.at, last.tzinfo if last else timezone.utc)
                entry.total_run_count = max(entry.total_run_count or 0, run.total)

    def _drop(self) -> None:
        """Let go of a scheduler whose term is over; what it knows is out of date, and is not written."""
        real, self._real, self._term = self._real, None, 0
        if real is None:
            return
        real.sync = lambda: None
        try:
            real.close()
        except Exception:
            logger.exception("beat: the scheduler of a term that is over can't be closed")

    def should_sync(self) -> bool:
        """Return whether it is time for the scheduler to write what has changed."""
        return self._leads() and bool(self._real.should_sync())

    def _do_sync(self) -> None:
        if self._leads():
            self._real._do_sync()

    def _leads(self) -> bool:
        return self._real is not None and self.leader.term == self._term

    def close(self) -> None:
        """Have the scheduler write what has changed, if its term isn't over, and free the lock."""
        if self._leads():
            self._real.close()
            self._real, self._term = None, 0
        else:
            self._drop()
        self.leader.stop()

    def __getattr__(self, name: str) -> Any:
        if self._real is not None:
            return getattr(self._real, name)
        if self._looked_at is None:
            self._looked_at = self._make(self._cls, True)
        return getattr(self._looked_at, name)


@contextmanager
def _counted(watch: BeatWatch, entry: Any) -> Iterator[None]:
    """Count what the block sends, or that it can't."""
    try:
        yield
    except Exception:
        watch.note(entry.name, sent=False)
        raise
    watch.note(entry.name, sent=True)


def watched(scheduler: Any, watch: BeatWatch) -> Any:
    """Return a scheduler of Celery's kind that tells what it does."""
    tick, apply_async = scheduler.tick, scheduler.apply_async

    @wraps(tick)
    def ticking(*args: Any, **kwargs: Any) -> Any:
        wait_s = tick(*args, **kwargs)
        watch.ticked(scheduler, max(0.0, wait_s or 0.0))
        return wait_s

    @wraps(apply_async)
    def sending(entry: Any, *args: Any, **kwargs: Any) -> Any:
        with _counted(watch, entry):
            return apply_async(entry, *args, **kwargs)

    scheduler.tick, scheduler.apply_async = ticking, sending
    return scheduler


class LedService(Service):
    """Celery's Service, whose scheduler sends as long as this beat leads.

    Args:
        embedded, ready, watch: as of LedBeat.
    """

    def __init__(
        self,
        *,
        embedded: bool = False,
        ready: Callable[[], object] = bool,
        watch: BeatWatch | None = None,
        **celery: Any,
    ) -> None:
        super().__init__(**celery)
        self._embedded, self._ready = embedded, ready
        self._watch = watch or BeatWatch()

    def start(self, embedded_process: bool = False) -> None:
        """Run until TERM, INT or ``stop``."""
        scheduler = self.scheduler  # what is wrong with it is told before anybody is told of the start
        age_s = getattr(self.app.conf, "beat_remote_control_max_tick_age", None)  # Celery 5.7 has it
        self._watch.begin(scheduler.leader if isinstance(scheduler, LedScheduler) else None, age_s)
        self._ready()
        super().start(embedded_process=embedded_process or self._embedded)

    @cached_property
    def ledger(self) -> Ledger | None:
        """Where its lock is; None: nowhere."""
        return ledger_of(self.app, schedule_name(self.app, self.schedule_filename))

    def get_scheduler(self, lazy: bool = False, extension_namespace: str = "celery.beat_schedulers") -> Any:
        """Return Celery's scheduler to be looked at, or what stands for it."""
        aliases = dict(load_extension_class_names(extension_namespace))
        try:
            cls = symbol_by_name(self.scheduler_cls, aliases=aliases)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ConfigurationError(
                f"the scheduler {self.scheduler_cls!r} can't be imported: {exc}"
            ) from exc

        def make(cls: type, lazy: bool) -> Any:
            return cls(
                app=self.app,
                schedule_filename=self.schedule_filename,
                max_interval=self.max_interval,
                lazy=lazy,
            )

        if _elects(cls):
            return make(cls, True) if lazy else watched(make(cls, False), self._watch)
        ledger = self.ledger
        if lazy:
            return make(cls if ledger is None else _shown(cls, ledger.where), True)
        if ledger is None:
            logger.warning(
                "beat: run one only: a lock for a leader can be kept by emq://, redis:// and db+… (broker or "
                "result backend), and there is none of them here"
            )
            return watched(make(cls, False), self._watch)
        leader = Leader(ledger)
        leader.start()
        return LedScheduler(
            make, _led(cls), leader, lambda: last_runs(self.schedule_filename), self._watch
        )

    def stopped_by(self, signum: int, frame: FrameType | None) -> None:
        """Handle TERM and INT: end at once where it sleeps, after the send where it sends something.

        A send that is cut off would be repeated by the beat that takes over. A second signal ends it at once.
        """
        again = self._is_shutdown.is_set()
        self._is_shutdown.set()
        scheduler = vars(self).get("scheduler")
        if again or not (isinstance(scheduler, LedScheduler) and scheduler.ticks):
            raise SystemExit


class LedBeat(Beat):
    """Celery's program around that Service.

    Args:
        embedded: it runs beside a worker: beat_embedded_init is sent, too.
        ready: called when all is set up.
        watch: is told what it does.
    """

    def __init__(
        self,
        *,
        embedded: bool = False,
        ready: Callable[[], object] = bool,
        watch: BeatWatch | None = None,
        **celery: Any,
    ) -> None:
        super().__init__(**celery)
        self._service = partial(LedService, embedded=embedded, ready=ready, watch=watch)

    def Service(self, **celery: Any) -> LedService:  # noqa: N802 - Celery's name
        """Return the service."""
        return self._service(**celery)

    def setup_logging(self, colorize: bool | None = None) -> None:
        """Set the log up as Celery's beat does."""
        super().setup_logging(colorize)
        in_json()

    def install_sync_handler(self, service: LedService) -> None:
        """Have TERM and INT end the service."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, service.stopped_by)


def _elects(cls: type) -> bool:
    """Return whether beats with such a scheduler choose a leader themselves: redbeat's do."""
    return any(base.__module__.partition(".")[0] == "redbeat" for base in cls.__mro__)


def _led(cls: type) -> type:
    """Return the class whose entries a led beat has: those of Celery's file are kept with the lock."""
    return Scheduler if cls is PersistentScheduler else cls


def _shown(cls: type, where: str) -> type:
    """Return a class for the banner, which says where the lock is."""
    led = _led(cls)

    @property  # type: ignore[misc]
    def info(self: Any) -> str:
        own = str(getattr(super(shown, self), "info", ""))
        return "\n".join(line for line in (own, f"    . leader -> by a lock in {where}") if line)

    shown = type(led.__name__, (led,), {"info": info, "__module__": led.__module__})
    return shown


def schedule_name(app: Any, filename: str | None) -> str:
    """Return the name of an app's schedule: the app's, and what ``-s`` says, if anything.

    Of a file's path its last part counts: one schedule may be a file in another folder on each machine.
    """
    own = str(app.main or app.conf.task_default_queue)
    name = PurePath(filename or "").name
    return own if name in ("", _DEFAULT_NAME) else f"{own}:{name}"


def last_runs(filename: str) -> dict[str, LastRun]:
    """Return what Celery's beat has left in its file; empty: there is none that can be read."""
    if not any(os.path.exists(filename + suffix) for suffix in PersistentScheduler.known_suffixes):
        return {}
    try:
        with shelve.open(filename, flag="r") as file:  # noqa: S301 - the project's own, as Celery reads it
            entries = dict(file["entries"])
            found = {
                str(name): LastRun(at=entry.last_run_at.timestamp(), total=entry.total_run_count or 0)
                for name, entry in entries.items()
                if entry.last_run_at is not None
            }
    except Exception as exc:  # noqa: BLE001 - dbm, pickle and what is pickled raise what they like
        logger.warning("beat: the file %s can't be read, and is left as it is: %r", filename, exc)
        return {}
    logger.info("beat: last runs taken over from the file %s", filename)
    return found
