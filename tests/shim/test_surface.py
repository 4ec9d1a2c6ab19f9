"""Celery's helper modules: the functions that projects import from ``celery.utils`` and its neighbours."""

from __future__ import annotations

import os
import pickle
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from emq_compat.shim.control import flatten_reply
from emq_compat.shim.exceptions import DuplicateNodenameWarning
from emq_compat.shim.surface import collections, defaults, functional, imports, names, platforms, text, times
from emq_compat.shim.surface.local import PromiseProxy, Proxy, maybe_evaluate, try_import
from emq_compat.shim.surface.saferepr import saferepr
from emq_compat.shim.surface.serialization import (
    UnpickleableExceptionWrapper,
    get_pickleable_exception,
    get_pickled_exception,
    strtobool,
)
from emq_compat.shim.surface.threads import Local, LocalStack

pytestmark = pytest.mark.unit


def test_a_proxy_stands_for_what_is_there_now() -> None:
    """Each use of a Proxy asks anew; a PromiseProxy asks once, at the first."""
    box = [[1, 2]]
    proxy = Proxy(lambda: box[0])
    assert 2 == len(proxy)
    assert [1, 2, 3] == proxy + [3]  # noqa: RUF005
    assert isinstance(proxy, list)
    box[0] = [7]
    assert [7] == proxy
    assert 7 == proxy[0]
    calls: list[int] = []
    promise = PromiseProxy(lambda: calls.append(1) or {"a": 1})  # type: ignore[func-returns-value]
    assert not calls
    assert 1 == promise["a"]
    assert {"a": 1} == maybe_evaluate(promise)
    assert [1] == calls
    assert 5 == maybe_evaluate(5)


def test_try_import() -> None:
    """A module, or the default where there is none."""
    assert os is try_import("os")
    assert try_import("no_such_module_at_all") is None


@pytest.mark.parametrize(
    ("written", "per_second"),
    [("10/m", 10 / 60), ("100/s", 100), ("36/h", 0.01), (5, 5), (None, 0), ("3", 3)],
)
def test_rate(written: str | float | None, per_second: float) -> None:
    """A rate is so many per second, minute or hour."""
    assert per_second == pytest.approx(times.rate(written))


def test_times() -> None:
    """Naive times become aware, text becomes a time, seconds become words."""
    naive = datetime(2026, 1, 2, 3, 4)  # noqa: DTZ001
    aware = times.maybe_make_aware(naive)
    assert datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc) == aware
    assert (True, False) == (times.is_naive(naive), times.is_naive(aware))
    assert aware == times.maybe_iso8601("2026-01-02T03:04:00Z")
    assert times.maybe_iso8601(None) is None
    assert timedelta(seconds=5) == times.maybe_timedelta(5)
    assert ("2.00 minutes", "1.00 hour", "3 seconds", "now") == tuple(
        times.humanize_seconds(s) for s in (120, 3600, 3, 0)
    )
    assert timedelta(seconds=30) == times.remaining(
        aware, timedelta(minutes=1), aware + timedelta(seconds=30)
    )
    assert [1, 2, 4, 5] == [times.get_exponential_backoff_interval(1, n, 5) for n in range(4)]
    assert 0 <= times.get_exponential_backoff_interval(1, 3, 600, full_jitter=True) <= 8
    assert datetime(2026, 3, 1, tzinfo=timezone.utc) == datetime(
        2026, 2, 1, tzinfo=timezone.utc
    ) + times.ffwd(month=3)


def test_node_names() -> None:
    """A node name is name@host, and formats take its parts."""
    assert ("w", "a.b.c") == names.nodesplit("w@a.b.c")
    assert (None, "w") == names.nodesplit("w")
    assert names.default_nodename("w@h") == "w@h"
    assert f"celery@{names.gethostname()}" == names.default_nodename(None)
    assert "w-a.b-b-w@a.b-%" == names.node_format("%n-%h-%d-%p-%%", "w@a.b")
    assert "w@a.dq2" == names.worker_direct("w@a").name  # type: ignore[attr-defined]


def test_functional() -> None:
    """Lists of one, first matches, chunks, bounded dicts, iterators that can be iterated again."""
    assert [1] == functional.maybe_list(1)
    assert ["a"] == functional.maybe_list("a")
    assert (1, 2) == functional.maybe_list((1, 2))
    assert 2 == functional.first(lambda n: n > 1, [1, 2, 3])
    assert [[0, 1], [2, 3], [4]] == list(functional.chunks(iter(range(5)), 2))
    assert [1, 2, None] == list(functional.padlist([1, 2], 3))
    assert [(1, 2), (2, None)] == list(functional.lookahead([1, 2]))
    again = functional.regen(n for n in range(3))
    assert [0, 1, 2] == list(again) == list(again)
    cache: functional.LRUCache[str, int] = functional.LRUCache(limit=2)
    cache["a"], cache["b"] = 1, 2
    _ = cache["a"]
    cache["c"] = 3
    assert ["a", "c"] == sorted(cache)
    assert ["a", "c"] == sorted(pickle.loads(pickle.dumps(cache)))
    made: list[int] = []
    once = functional.mlazy(lambda: made.append(1) or 5)  # type: ignore[func-returns-value]
    assert (5, 5, [1]) == (once(), once(), made)


def test_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Objects by their names, with the current directory on the path."""
    assert os.path.join is imports.symbol_by_name("os.path:join") is imports.symbol_by_name("os.path.join")
    assert 3 == imports.symbol_by_name("no.such:thing", default=3)
    with pytest.raises(ImportError):
        imports.symbol_by_name("no_such_module:thing")
    assert "builtins.dict" == imports.qualname({})
    assert {} == imports.instantiate("builtins:dict")
    (tmp_path / "found_in_cwd.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    assert 1 == imports.import_from_cwd("found_in_cwd").x


def test_collections() -> None:
    """Attribute access to a dict, objects as mappings, sets that forget."""
    d = collections.AttributeDict(a=1)
    d.b = 2
    assert {"a": 1, "b": 2} == d
    with pytest.raises(AttributeError):
        _ = d.c
    kept = collections.LimitedSet(maxlen=2, expires=10)
    for at, item in enumerate("abc"):
        kept.add(item, now=at)
    assert ["b", "c"] == list(kept)
    kept.purge(now=11.5)
    assert ["c"] == list(kept)


def test_texts() -> None:
    """Cut after a word, cut to a length, formats by letter."""
    assert "one two..." == text.truncate("one two three four", 12)
    assert "abcd..." == text.abbr("abcdefghij", 7)
    assert "a-1 %" == text.simple_format("a-%n %%", {"n": 1})
    assert "tasks" == text.pluralize(2, "task")


def test_saferepr_is_bounded() -> None:
    """A long list is cut, and an object whose repr fails is named by its class."""

    class Bad:
        def __repr__(self) -> str:
            raise ValueError

    assert "[1, 'a', {'b': None}]" == saferepr([1, "a", {"b": None}])
    assert 50 >= len(saferepr(list(range(10_000)), maxlen=50))
    assert "Bad" in saferepr([Bad()])
    shown = [(1,), {1}, frozenset(), {"a": {"b": [1]}}]
    assert "[(1,), {1}, frozenset(), {'a': {'b': [...]}}]" == saferepr(shown)
    around: list[object] = []
    around.append(around)
    assert "[[...]]" == saferepr(around)


@pytest.mark.parametrize(
    "value",
    [
        (), (1,), [1, "a"], {"a": None, 2: b"x"}, "plain", 1.5, True, None, {n: [n] for n in range(12)},
        dict.fromkeys(range(7), "x" * 90), {n: n for n in range(9)}, (2**70, -1), ["x" * 101], [[1, (2,)]],
    ],
)  # fmt: skip
def test_saferepr_is_repr_of_what_is_small(value: object) -> None:
    """What fits is shown as Python shows it."""
    assert repr(value) == saferepr(value)
    assert 20 >= len(saferepr(value, maxlen=20))


def test_saferepr_of_what_python_refuses_to_show() -> None:
    """A number with too many digits is named by its class."""
    assert saferepr((10**5000,)).startswith("(<int instance at ")


def test_saferepr_costs_no_more_than_it_shows() -> None:
    """What is cut off isn't looked at."""
    looked = []

    class Item:
        def __repr__(self) -> str:
            looked.append(self)
            return "item"

    assert 60 >= len(saferepr([[Item()] * 100] * 100, 60))
    assert 20 >= len(looked)


def test_exceptions_that_cannot_be_pickled() -> None:
    """An exception that pickle can't carry is wrapped, and comes back as a class of its name."""

    class Local(Exception):
        pass

    wrapped = get_pickleable_exception(Local("x"))
    assert isinstance(wrapped, UnpickleableExceptionWrapper)
    back = get_pickled_exception(pickle.loads(pickle.dumps(wrapped)))
    assert ("Local", ("x",)) == (type(back).__name__, back.args)
    fine = KeyError(1)
    assert fine is get_pickleable_exception(fine)


def test_strtobool() -> None:
    """Words of yes and no."""
    assert (True, False, 5) == (strtobool("Yes"), strtobool("off"), strtobool(5))
    with pytest.raises(TypeError):
        strtobool("maybe")


def test_a_stack_of_each_thread() -> None:
    """push, top and pop; attributes of a Local are gone after its release."""
    stack = LocalStack()
    stack.push(1)
    assert [1, 2] == stack.push(2)
    assert (2, 1, None) == (stack.pop(), stack.pop(), stack.pop())
    local = Local()
    local.x = 1
    assert 1 == local.x
    local.__release_local__()
    assert not hasattr(local, "x")


def test_a_pid_file(tmp_path: Path) -> None:
    """It keeps a second process out, and is taken over from a dead one."""
    path = tmp_path / "w.pid"
    with platforms.Pidfile(str(path)) as pid_file:
        assert os.getpid() == pid_file.read_pid()
        with pytest.raises(platforms.LockFailed):
            platforms.Pidfile(str(path)).acquire()
    assert not path.exists()
    path.write_text("4194305\n")  # above any pid
    assert platforms.Pidfile(str(path)).remove_if_stale()
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match="invalid"):
        platforms.Pidfile(str(path)).read_pid()


def test_signals_by_name() -> None:
    """With or without SIG; a name that isn't upper case is a TypeError."""
    assert signal.SIGTERM == platforms.signals.signum("TERM") == platforms.signals.signum("SIGTERM")
    assert not platforms.signals.supported("NOSUCH")
    with pytest.raises(TypeError):
        platforms.signals.signum("term")
    assert "TERM" == platforms.signal_name(signal.SIGTERM)


def test_settings_as_a_tree() -> None:
    """Celery's tree of options: defaults, and a setting by any of its names."""
    assert "celery" == defaults.DEFAULTS["task_default_queue"]
    assert ("task", "acks_late") == defaults.find("CELERY_ACKS_LATE")[:2]
    assert "bool" == defaults.find("task_acks_late").option.type
    assert "broker_url" in dict(defaults.flatten(defaults.NAMESPACES))
    with pytest.raises(KeyError):
        defaults.find("no_such_setting")


def test_two_nodes_of_one_name_are_warned_about() -> None:
    """Replies are told by node, so that one of two of the same name can't be seen."""
    assert {"a@x": 1, "b@x": 2} == flatten_reply([{"a@x": 1}, {"b@x": 2}])
    with pytest.warns(DuplicateNodenameWarning, match="a@x"):
        assert {"a@x": 2} == flatten_reply([{"a@x": 1}, {"a@x": 2}])


@pytest.mark.parametrize(
    ("zone", "interval", "start", "end"),
    [
        ("Europe/Berlin", timedelta(days=1), (2026, 10, 25, 0, 30), (2026, 10, 26)),
        ("Europe/Berlin", timedelta(days=1), (2026, 3, 28, 22, 15), (2026, 3, 29)),
        ("Europe/Berlin", timedelta(days=2), (2026, 3, 28, 22, 15), (2026, 3, 30)),
        ("Europe/Berlin", timedelta(hours=1), (2026, 10, 25, 2, 20), (2026, 10, 25, 2, 0, "again")),
        ("Europe/Berlin", timedelta(hours=1), (2026, 3, 29, 1, 20), (2026, 3, 29, 3)),
        ("Europe/Berlin", timedelta(minutes=5), (2026, 10, 25, 2, 58, "again"), (2026, 10, 25, 3, 3)),
        ("America/Sao_Paulo", timedelta(days=1), (2018, 11, 3, 22, 0), (2018, 11, 4, 1)),
        ("Australia/Lord_Howe", timedelta(hours=1), (2027, 4, 4, 1, 10), (2027, 4, 4, 2)),
        ("Australia/Lord_Howe", timedelta(hours=1), (2026, 10, 4, 1, 45), (2026, 10, 4, 3)),
        ("America/St_Johns", timedelta(days=1), (2006, 10, 28, 23, 30, "again"), (2006, 10, 29, 0, "again")),
        ("UTC", timedelta(days=1), (2026, 1, 1, 12, 30), (2026, 1, 2)),
    ],
)
def test_relative_intervals_where_clocks_change(
    zone: str, interval: timedelta, start: tuple[Any, ...], end: tuple[Any, ...]
) -> None:
    """A relative interval ends at a whole day, hour or minute of the zone's clock, when that is put, too."""

    def at(face: tuple[Any, ...]) -> datetime:
        fold = int(face[-1] == "again")
        return datetime(*face[: len(face) - fold], tzinfo=ZoneInfo(zone), fold=fold)

    begin = at(start)
    left = times.remaining(begin, interval, begin, relative=True)
    assert at(end).astimezone(timezone.utc) == begin.astimezone(timezone.utc) + left
