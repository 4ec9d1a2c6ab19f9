"""Celery's loggers and what goes with them (``celery.utils.log``).

``celery`` is above them all; ``celery.task`` is above those of ``get_task_logger``, whose lines name the task
that runs; ``celery.worker`` is the worker's.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, ClassVar

from emq_compat.shim.current import frame_var

__all__ = [
    "HELD",
    "LOG_LEVELS",
    "ColorFormatter",
    "LoggingProxy",
    "Redirect",
    "base_logger",
    "current_process_index",
    "flush_held",
    "get_logger",
    "get_multiprocessing_logger",
    "get_task_logger",
    "in_sighandler",
    "mlevel",
    "reset_multiprocessing_logger",
    "set_in_sighandler",
    "task_logger",
    "worker_logger",
]

#: Name → number, and number → name.
LOG_LEVELS: dict[Any, Any] = {}
for _number in (0, 10, 20, 30, 40, 50):
    LOG_LEVELS[logging.getLevelName(_number)] = _number
    LOG_LEVELS[_number] = logging.getLevelName(_number)
LOG_LEVELS.update(WARN=logging.WARNING, FATAL=logging.FATAL)

_in_sighandler = False


def mlevel(level: int | str | None) -> Any:
    """Return a level's number; a number, 0 and None stay what they are; raises KeyError for another name."""
    return LOG_LEVELS[level.upper()] if isinstance(level, str) and level else level


def set_in_sighandler(value: bool) -> None:
    """Say whether a signal handler runs: what is printed meanwhile goes straight to standard error."""
    global _in_sighandler
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """Say so for a block."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


def _quiet(name: str) -> logging.Logger:
    logger = logging.getLogger(name)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def _below(parent: logging.Logger, logger: logging.Logger) -> logging.Logger:
    above: logging.Logger | None = logger
    while above is not None:
        if above is parent:
            return logger
        above = above.parent
    logger.parent = parent
    return logger


#: Above all loggers of Celery.
base_logger = logger = _quiet("celery")


def get_logger(name: str) -> logging.Logger:
    """Return the logger of this name; where it isn't right below the root, it is put below ``celery``."""
    found = _quiet(name)
    if found is base_logger or logging.root in (found, found.parent):
        return found
    return _below(base_logger, found)


#: Above the loggers of tasks; a worker gives it a handler of its own (worker_task_log_format).
task_logger = get_logger("celery.task")
worker_logger = get_logger("celery.worker")


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger whose lines tell the task that runs; usually ``get_task_logger(__name__)``.

    Raises:
        RuntimeError: the name is one of Celery's own.
    """
    if name in ("celery", "celery.task"):
        raise RuntimeError(f"the logger name {name!r} is reserved")
    return _below(task_logger, get_logger(name))


def get_multiprocessing_logger() -> logging.Logger:
    """Return multiprocessing's logger."""
    from multiprocessing import util  # noqa: PLC0415 - heavy, and hardly ever asked for

    return util.get_logger()


def reset_multiprocessing_logger() -> None:
    """Have multiprocessing set its logger up anew."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._logger = None


def current_process_index(base: int = 1) -> int | None:
    """Return the number of this pool child, counted from ``base``; None: this process isn't one.

    A child that takes another one's place has a new number.
    """
    process: Any = sys.modules.get("multiprocessing.process")
    head, _, number = ("" if process is None else process.current_process().name).rpartition("-")
    return int(number) - 1 + base if head == "emq-child" and number.isdigit() else None


def _painted(code: int) -> Callable[[str], str]:
    return lambda text: f"\033[1;{code}m{text}\033[0m"


class ColorFormatter(logging.Formatter):
    """Writes a line in its level's colour; what can't be formatted is told in its place."""

    COLORS: ClassVar[Mapping[str, Callable[[str], str]]] = {
        name: _painted(code)
        for name, code in (
            ("black", 30), ("red", 31), ("green", 32), ("yellow", 33), ("blue", 34), ("magenta", 35),
            ("cyan", 36), ("white", 37),
        )
    }  # fmt: skip
    #: Level → what paints it.
    colors: ClassVar[Mapping[str, Callable[[str], str]]] = {
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(
        self, fmt: str | None = None, use_color: bool | None = True, datefmt: str | None = None
    ) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        try:
            line = super().format(record)
        except Exception as exc:  # noqa: BLE001 - the arguments' own methods: a log line must not be lost
            why = f"<can't be formatted: {exc!r}>"
            try:
                message = record.getMessage()
            except Exception:  # noqa: BLE001 - as above
                message = f"{record.msg!r} {why}"
                record.msg, record.args = message, ()
            try:
                line = super().format(record)
            except Exception:  # noqa: BLE001 - the format itself: it names what a record doesn't have
                line = f"{record.levelname}: {message} {why}"
        paint = self.colors.get(record.levelname) if self.use_color else None
        return line if paint is None else paint(line)


class LoggingProxy:
    """A file to write to, each write of which is a log line.

    Args:
        logger: where they go.
        loglevel: of the lines; None: the logger's own level, else ERROR.
    """

    mode = "w"
    name: str | None = None
    closed = False
    encoding = "utf-8"
    errors = "backslashreplace"
    loglevel: int = logging.ERROR

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or logger.level or self.loglevel)
        self._writing = threading.local()
        for handler in logger.handlers:
            _fail_to_stderr(handler)

    def write(self, data: str | bytes) -> int:
        """Log a text without the line ends around it; returns its length."""
        text = data.decode("utf-8", "backslashreplace") if isinstance(data, bytes) else data
        if _in_sighandler or getattr(self._writing, "now", False):
            # A handler, or what it calls, writes here: nowhere else to tell of it.
            _to_stderr(text)
        elif not self.closed:
            self._writing.now = True
            try:
                self._take(text)
            finally:
                self._writing.now = False
        return len(text)

    def _take(self, text: str) -> None:
        text = text.rstrip("\n")
        if text:
            self.logger.log(self.loglevel, "%s", text)

    def writelines(self, sequence: Iterable[str]) -> None:
        """Write each."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """From now on nothing is logged."""
        self.closed = True

    def isatty(self) -> bool:
        """It is no terminal."""
        return False

    def writable(self) -> bool:
        """It is to be written to."""
        return True

    def fileno(self) -> int:
        """Return that of the process's standard error, for what is executed with it."""
        stream: IO[str] | None = sys.__stderr__
        if stream is None:
            raise OSError("this process has no standard error")
        return stream.fileno()


#: Thread → the part of a line that it has printed so far, and where.
HELD: dict[int, tuple[Redirect, str]] = {}
#: A longer part is not held back, in characters.
_HELD_MOST = 8192


class Redirect(LoggingProxy):
    """Standard output and error as a log: what one print() writes is one line, not one for each argument.

    What a task prints is logged as the task's: with its name and id, in the form of the task logger.
    """

    def _take(self, text: str) -> None:
        thread = threading.get_ident()
        if thread in HELD:
            text = HELD.pop(thread)[1] + text
        whole, _, part = text.rpartition("\n")
        if len(part) > _HELD_MOST:
            whole, part = text, ""
        if part:
            HELD[thread] = (self, part)
        if whole.strip("\r\n"):
            self._log(whole.strip("\r\n"))

    def flush(self) -> None:
        """Log the part of a line that this thread has printed."""
        if HELD.get(threading.get_ident(), (None,))[0] is self:
            self.write("\n")

    def _log(self, text: str) -> None:
        own = self.logger
        if not own.isEnabledFor(self.loglevel):
            return
        printed = sys._getframe(3)  # below _take and write
        code, line = printed.f_code, printed.f_lineno
        record = own.makeRecord(
            own.name, self.loglevel, code.co_filename, line, text, (), None, func=code.co_name
        )
        frame = frame_var.get()
        in_task = frame is not None and frame.request.id is not None
        has_handlers = any(not isinstance(each, logging.NullHandler) for each in task_logger.handlers)
        (task_logger if in_task and has_handlers else own).handle(record)


def flush_held() -> None:
    """Log what this thread has printed without a line end: the task that did is over."""
    held = HELD.get(threading.get_ident())
    if held is not None:
        held[0].flush()


def _to_stderr(text: str) -> None:
    if sys.__stderr__ is not None:
        try:
            sys.__stderr__.write(text)
        except (OSError, ValueError):
            pass  # closed, or the disk behind it is full


def _fail_to_stderr(handler: logging.Handler) -> None:
    """Have a handler's own errors told on the process's standard error, not on what became a log."""

    def handle_error(record: logging.LogRecord) -> None:
        if logging.raiseExceptions:
            _to_stderr(traceback.format_exc())

    handler.handleError = handle_error  # type: ignore[method-assign]
