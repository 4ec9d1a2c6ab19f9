"""A worker's logging: Celery's loggers, what is printed, and app.log."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim import loggers, signals
from emq_compat.shim.log import Logging, TaskFormatter
from emq_compat.shim.loggers import (
    ColorFormatter,
    LoggingProxy,
    Redirect,
    get_logger,
    get_task_logger,
    mlevel,
)

NAMES = ("", "celery", "celery.task", "celery.redirected")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loggers, what the set-up leaves in the environment, and the standard files are put back."""
    monkeypatch.setattr(Logging, "_setup", False)
    for name in ("LEVEL", "FILE", "REDIRECT", "REDIRECT_LEVEL"):
        monkeypatch.setenv(f"CELERY_LOG_{name}", "")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    kept = [
        (each, list(each.handlers), each.level, each.propagate) for each in map(logging.getLogger, NAMES)
    ]
    logging.getLogger().handlers = []  # pytest's
    yield
    logging.captureWarnings(False)
    for each, handlers, level, propagate in kept:
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_loggers_and_their_parents() -> None:
    """A task's logger is below celery.task, another below celery; the names of these two are reserved."""
    task, other = get_task_logger("proj.one"), get_logger("proj.two")
    assert loggers.task_logger is task.parent
    assert loggers.base_logger is loggers.worker_logger.parent is loggers.task_logger.parent
    assert logging.root is other.parent
    assert loggers.base_logger is get_logger("proj.one.more").parent.parent.parent  # type: ignore[union-attr]
    for name in ("celery", "celery.task"):
        with pytest.raises(RuntimeError, match="reserved"):
            get_task_logger(name)


def test_levels() -> None:
    """A level is known by its name in small or capital letters, or by its number."""
    assert [10, 30, 40, None, 0] == [mlevel(level) for level in ("debug", "WARN", 40, None, 0)]
    assert ("INFO", 20) == (loggers.LOG_LEVELS[20], loggers.LOG_LEVELS["INFO"])
    with pytest.raises(KeyError):
        mlevel("loud")


def record(text: str, *args: Any, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("x", level, __file__, 1, text, args, None)


def test_colours_and_what_cannot_be_formatted() -> None:
    """A line has its level's colour where wanted; one that can't be formatted is told, not lost."""
    assert "\033[1;31mgone\033[0m" == ColorFormatter("%(message)s").format(record("gone"))
    assert "gone" == ColorFormatter("%(message)s", use_color=False).format(record("gone"))

    class Bad:
        def __str__(self) -> str:
            raise ValueError("no text")

    line = ColorFormatter("%(message)s", use_color=False).format(record("it is %s", Bad()))
    assert "'it is %s' <can't be formatted: ValueError('no text')>" == line


def test_the_running_task_is_named(app: Celery) -> None:
    """%(task_name)s and %(task_id)s are those of the running task, outside of one ???."""
    formatter = TaskFormatter("%(task_name)s[%(task_id)s] %(message)s", use_color=False)

    @app.task(name="proj.say")
    def say() -> str:
        return formatter.format(record("hi"))

    assert "proj.say[i1] hi" == say.apply(task_id="i1").get()
    assert "???[???] hi" == formatter.format(record("hi"))


def proxied(out: io.StringIO, kind: type[LoggingProxy] = LoggingProxy) -> tuple[LoggingProxy, logging.Logger]:
    logger = logging.getLogger("proxied")
    logger.propagate = False
    logger.setLevel(logging.NOTSET)
    logger.handlers = []
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return kind(logger, "WARNING"), logger


def test_a_proxy_logs_each_write(out: io.StringIO) -> None:
    """Each write is a line at the proxy's level, text or bytes; after close nothing is."""
    proxy, _ = proxied(out)
    assert 5 == proxy.write("a %s\n")
    proxy.write(b"\xc3\xbc")
    proxy.write("\n")
    proxy.writelines(["x", "y"])
    proxy.close()
    proxy.write("late")
    assert ["WARNING a %s", "WARNING ü", "WARNING x", "WARNING y"] == out.getvalue().splitlines()
    assert not proxy.isatty()


def test_a_handler_that_prints_does_not_loop(
    out: io.StringIO, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written while a line is logged, and in a signal handler, goes to the real standard error."""
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)
    proxy, logger = proxied(out)

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            proxy.write("inside")

    logger.addHandler(Printing())
    proxy.write("outside")
    with loggers.in_sighandler():
        proxy.write("in a signal")
    assert "insidein a signal" == real.getvalue()
    assert "WARNING outside\n" == out.getvalue()


def test_a_print_is_one_line(out: io.StringIO) -> None:
    """What one print writes is one line; a part without end waits for the rest, or for flush."""
    proxy, logger = proxied(out, Redirect)
    print("a", 1, "b", file=proxy)  # type: ignore[call-overload]
    print("part", end=" ", file=proxy)  # type: ignore[call-overload]
    assert ["WARNING a 1 b"] == out.getvalue().splitlines()
    print("rest", file=proxy)  # type: ignore[call-overload]
    print("tail", end="", flush=True, file=proxy)  # type: ignore[call-overload]
    assert ["WARNING part rest", "WARNING tail"] == out.getvalue().splitlines()[1:]
    logger.setLevel(logging.ERROR)
    print("below the level", file=proxy)  # type: ignore[call-overload]
    assert 3 == len(out.getvalue().splitlines())
    assert not loggers.HELD


def test_a_task_that_prints(app: Celery, out: io.StringIO) -> None:
    """What a task prints is logged in the task logger's form, and nothing of it waits for the next task."""
    app.conf.worker_task_log_format = "%(name)s %(task_name)s: %(message)s"
    app.conf.worker_log_format = "%(name)s: %(message)s"
    app.log.setup("INFO", out, redirect_stdouts=True)

    @app.task(name="proj.say")
    def say(text: str) -> None:
        print(text, end="")

    print("before")
    say.apply(("one",))
    say.apply(("two",))
    assert [
        "celery.redirected: before",
        "celery.redirected proj.say: one",
        "celery.redirected proj.say: two",
    ] == out.getvalue().splitlines()


def test_hijacking(app: Celery, out: io.StringIO) -> None:
    """The root's handlers are replaced, a task's lines name it, each is written once."""
    seen: list[tuple[str, Any]] = []

    def heard(signal: Any, logger: logging.Logger, **named: Any) -> None:
        seen.append((signal.name, logger.name, named["loglevel"], named["logfile"]))

    logging.getLogger().addHandler(logging.StreamHandler(io.StringIO()))
    signals.after_setup_logger.connect(heard)
    signals.after_setup_task_logger.connect(heard)
    assert not app.log.setup("INFO", out)
    assert app.log.already_setup

    get_task_logger("proj.a").info("task line")
    logging.getLogger("lib").warning("other line")
    logging.getLogger("lib").debug("too low")

    task, other = out.getvalue().splitlines()
    assert task.endswith("???[???]: task line")
    assert other.endswith("MainProcess] other line")
    assert [
        ("after_setup_logger", "root", 20, out),
        ("after_setup_task_logger", "celery.task", 20, out),
    ] == seen
    assert app.log.setup_logging_subsystem("DEBUG") is None
    assert logging.INFO == logging.getLogger().level


def test_a_receiver_of_setup_logging_decides(app: Celery, out: io.StringIO) -> None:
    """With one nothing else is changed, and what is printed stays what it is."""
    asked: list[dict[str, Any]] = []
    own = logging.StreamHandler(out)
    logging.getLogger().handlers = [own]

    @signals.setup_logging.connect
    def decide(**named: Any) -> None:
        asked.append(named)

    try:
        assert app.log.setup("INFO", None, redirect_stdouts=True)
    finally:
        signals.setup_logging.disconnect(decide)
    assert [own] == logging.getLogger().handlers
    assert not isinstance(sys.stdout, LoggingProxy)
    assert [20] == [named["loglevel"] for named in asked]


def test_without_hijacking(app: Celery, out: io.StringIO) -> None:
    """Where the root has handlers none is added, no level is changed, and a line is written once."""
    own = logging.StreamHandler(out)
    root = logging.getLogger()
    root.handlers = [own]
    root.setLevel(logging.WARNING)
    app.conf.worker_hijack_root_logger = False
    app.log.setup("DEBUG")
    get_task_logger("proj.b").warning("line")
    assert ([own], logging.WARNING) == (root.handlers, root.level)
    assert ["line"] == out.getvalue().splitlines()


def test_a_file_that_is_moved_away(app: Celery, tmp_path: Path) -> None:
    """A log file is UTF-8, escapes what that can't hold, and is opened anew after it was renamed."""
    path = tmp_path / "w.log"
    app.log.setup("INFO", str(path))
    logging.getLogger("lib").warning("ü \ud800")
    path.rename(tmp_path / "w.log.1")
    logging.getLogger("lib").warning("new")
    first, second = (file.read_text(encoding="utf-8") for file in (tmp_path / "w.log.1", path))
    assert first.endswith("ü \\ud800\n")
    assert second.endswith("new\n")
    for each in (logging.getLogger(), loggers.task_logger):
        for handler in each.handlers:
            handler.close()


def test_a_format_that_names_what_is_not_there(app: Celery, out: io.StringIO) -> None:
    """Each record is one line all the same, with its message and the reason."""
    app.conf.worker_log_format = "%(nosuch)s %(message)s"
    app.log.setup("INFO", out)
    logging.getLogger("lib").warning("one %d", 1)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("WARNING: one 1 <can't be formatted: ")
    assert "'nosuch'" in line


def test_colour_only_on_a_terminal(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines have colours on a terminal unless setting, caller or NO_COLOR say no; never in a file."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "__stderr__", Terminal())
    assert [True, False, False] == [
        app.log.supports_color(),
        app.log.supports_color(False),
        app.log.supports_color(True, "file"),
    ]
    monkeypatch.setenv("NO_COLOR", "0")
    assert not app.log.supports_color(True)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr(sys, "__stderr__", io.StringIO())
    assert not app.log.supports_color(True)
