"""``celery.platforms``: exit codes, signals by name, pid files, and processes in the background."""

from __future__ import annotations

import atexit
import errno
import os
import signal as signal_module
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

__all__ = [
    "EX_CANTCREAT",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "DaemonContext",
    "IS_macOS",
    "LockFailed",
    "Pidfile",
    "Signals",
    "create_pidlock",
    "detached",
    "get_errno_name",
    "ignore_errno",
    "isatty",
    "pyimplementation",
    "set_process_title",
    "signal_name",
    "signals",
    "strargv",
]

EX_OK = 0
EX_FAILURE = 1
EX_USAGE = getattr(os, "EX_USAGE", 64)
EX_UNAVAILABLE = getattr(os, "EX_UNAVAILABLE", 69)
EX_CANTCREAT = getattr(os, "EX_CANTCREAT", 73)
IS_macOS = sys.platform == "darwin"
IS_WINDOWS = sys.platform == "win32"


class LockFailed(Exception):
    """A pid file is held by another process."""


class Pidfile:
    """A file that holds this process's id, and by which another is kept from starting."""

    path: str

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)

    def acquire(self) -> Pidfile:
        """Write the file; raises LockFailed where it is there."""
        try:
            self.write_pid()
        except FileExistsError as exc:
            raise LockFailed(str(exc)) from exc
        return self

    __enter__ = acquire

    def is_locked(self) -> bool:
        """Return whether the file is there."""
        return os.path.exists(self.path)

    def release(self, *args: Any) -> None:
        """Remove the file."""
        self.remove()

    __exit__ = release

    def read_pid(self) -> int | None:
        """Return the id in the file; None: there is no file.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            with open(self.path) as file:
                line = file.readline().strip()
        except FileNotFoundError:
            return None
        try:
            return int(line)
        except ValueError:
            raise ValueError(f"pidfile {self.path} contents invalid.") from None

    def remove(self) -> None:
        """Remove the file if it is there."""
        try:
            os.unlink(self.path)
        except (FileNotFoundError, PermissionError):
            return

    def remove_if_stale(self) -> bool:
        """Remove the file if no process of its id is alive; returns whether there is none now."""
        try:
            pid = self.read_pid()
        except ValueError:
            pid = None
        from emq_compat.shim.surface.processes import is_alive  # noqa: PLC0415 - psutil is seldom needed

        if pid is not None and pid != os.getpid() and is_alive(pid):
            return False
        self.remove()
        return True

    def write_pid(self) -> None:
        """Write the file; raises FileExistsError where it is there."""
        fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        with os.fdopen(fd, "w") as file:
            file.write(f"{os.getpid()}\n")
            file.flush()
            os.fsync(file.fileno())


def create_pidlock(pidfile: str) -> Pidfile:
    """Write a pid file, in the place of one that a dead process left; it is removed when this one ends.

    Raises:
        SystemExit: a process that is alive holds it.
    """
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        sys.stderr.write(f"ERROR: Pidfile ({pidfile}) already exists.\n")
        raise SystemExit(EX_CANTCREAT)
    lock.acquire()
    holder = os.getpid()
    atexit.register(lambda: lock.release() if os.getpid() == holder else None)
    return lock


class DaemonContext:
    """Puts this process into the background: ``with DaemonContext():``.

    Args:
        workdir: the folder to change to.
        umask: the mask for new files; None: as it is.
        fake: stay in the foreground.
        after_chdir: is called there.
    """

    def __init__(
        self,
        pidfile: str | None = None,
        workdir: str | None = None,
        umask: int | str | None = None,
        fake: bool = False,
        after_chdir: Callable[[], object] | None = None,
        **kwargs: Any,
    ) -> None:
        self.workdir = workdir or os.sep
        self.umask = int(umask, 8) if isinstance(umask, str) else umask
        self.fake = fake
        self.after_chdir = after_chdir
        self._is_open = False

    def open(self) -> None:
        """Go to the background; the parent exits."""
        if self._is_open:
            return
        if not self.fake:
            for first in (True, False):
                if os.fork():
                    os._exit(0)
                if first:
                    os.setsid()
        os.chdir(self.workdir)
        if self.umask is not None:
            os.umask(self.umask)
        if self.after_chdir is not None:
            self.after_chdir()
        if not self.fake:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            os.close(null)
        self._is_open = True

    def close(self, *args: Any) -> None:
        """Note that it is over."""
        self._is_open = False

    def __enter__(self) -> DaemonContext:
        self.open()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def detached(
    logfile: str | None = None,
    pidfile: str | None = None,
    uid: int | None = None,
    gid: int | None = None,
    umask: int = 0,
    workdir: str | None = None,
    fake: bool = False,
    **opts: Any,
) -> DaemonContext:
    """Return a context in which this process is in the background, with its pid file and log file writable.

    Raises:
        SystemExit: a process that is alive holds the pid file.
        OSError: the log file can't be written.
    """
    if gid is not None:
        os.setgid(int(gid))
    if uid is not None:
        os.setuid(int(uid))

    def check() -> None:
        if logfile:
            with open(logfile, "a"):
                pass
        if pidfile:
            create_pidlock(pidfile).release()

    return DaemonContext(umask=umask, workdir=workdir, fake=fake, after_chdir=check)


class Signals:
    """Signals by name: ``signals["TERM"] = handler``, ``signals.ignore("PIPE")``, ``signals.reset(…)``."""

    ignored = signal_module.SIG_IGN
    default = signal_module.SIG_DFL

    def signum(self, name: str | int) -> int:
        """Return a signal's number by its name, with or without SIG.

        Raises:
            TypeError: it isn't text.
            AttributeError: there is none.
        """
        if isinstance(name, int):
            return name
        if not name.isupper():
            raise TypeError("signal name must be uppercase string.")
        return int(getattr(signal_module, name if name.startswith("SIG") else f"SIG{name}"))

    def supported(self, name: str) -> bool:
        """Return whether this system has a signal."""
        try:
            self.signum(name)
        except AttributeError:
            return False
        return True

    def arm_alarm(self, seconds: float) -> None:
        """Have an ALRM sent after some seconds."""
        signal_module.setitimer(signal_module.ITIMER_REAL, seconds)

    def reset_alarm(self) -> int:
        """Cancel it."""
        return signal_module.alarm(0)

    def reset(self, *names: str) -> None:
        """Give signals their default actions."""
        self.update((name, self.default) for name in names)

    def ignore(self, *names: str) -> None:
        """Ignore signals."""
        self.update((name, self.ignored) for name in names)

    def update(self, _d_: Any = None, **sigmap: Any) -> None:
        """Set several handlers."""
        for name, handler in {**dict(_d_ or {}), **sigmap}.items():
            self[name] = handler

    def __getitem__(self, name: str) -> Any:
        return signal_module.getsignal(self.signum(name))

    def __setitem__(self, name: str, handler: Any) -> None:
        try:
            signal_module.signal(self.signum(name), handler)
        except (AttributeError, ValueError):
            return  # no such signal here, or not the main thread


signals = Signals()


def signal_name(signum: int) -> str:
    """Return a signal's name without SIG."""
    return signal_module.Signals(signum).name[3:]


def strargv(argv: list[str]) -> str:
    """Return a command line's arguments as text, without the program."""
    return " ".join(argv[2:] if len(argv) > 2 and argv[1] == "-m" else argv[1:])


def set_process_title(progname: str, info: str | None = None) -> str:
    """Name this process, as ``[progname] info``, where setproctitle is installed; returns the name."""
    title = f"[{progname}]" + (f" {info}" if info else "")
    try:
        import setproctitle  # noqa: PLC0415 - optional
    except ImportError:
        return title
    setproctitle.setproctitle(title)
    return title


def isatty(fh: Any) -> bool:
    """Return whether a file is a terminal."""
    try:
        return bool(fh.isatty())
    except AttributeError:
        return False


def pyimplementation() -> str:
    """Return the name of this Python."""
    return sys.implementation.name.replace("cpython", "CPython")


def get_errno_name(n: int | str) -> int:
    """Return the number of an errno by its name; a number as it is."""
    return int(getattr(errno, n)) if isinstance(n, str) else n


@contextmanager
def ignore_errno(*errnos: int | str, **kwargs: Any) -> Iterator[None]:
    """Pass over an OSError with one of these numbers or names in the block; ``types``: over these, too."""
    types: tuple[type[BaseException], ...] = kwargs.get("types") or (Exception,)
    numbers = [get_errno_name(number) for number in errnos]
    try:
        yield
    except types as exc:
        if getattr(exc, "errno", None) not in numbers:
            raise
