"""Signal: connecting, disconnecting and sending."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from emq_compat.shim import dispatch, signals
from emq_compat.shim.app import Celery
from emq_compat.shim.dispatch import Signal


def _recorder(seen: list[Any], what: Any = "called") -> Callable[..., Any]:
    def receiver(**kwargs: Any) -> Any:
        seen.append(what)
        return what

    return receiver


def test_decorator_call_and_options() -> None:
    """connect is a decorator with and without options, and a call; receivers run in their order."""
    signal, seen = Signal(name="x"), []

    @signal.connect
    def first(sender: Any, signal: Signal, **kwargs: Any) -> str:
        seen.append(("first", sender, signal.name, kwargs))
        return "1"

    @signal.connect(sender="me")
    def second(**kwargs: Any) -> str:
        seen.append("second")
        return "2"

    third = _recorder(seen, "third")
    assert signal.connect(third, "other") is third
    assert signal.send("me", n=1) == [(first, "1"), (second, "2")]
    assert seen == [("first", "me", "x", {"n": 1}), "second"]
    assert signal.send_robust(sender="other") == [(first, "1"), (third, "third")]
    assert len(signal.receivers) == 3


def test_sender_is_an_object_or_an_equal_text() -> None:
    """Objects are told apart by identity, texts by value, and a proxy is what it stands for."""
    app = Celery("senders")
    from emq_compat.celery_shim import current_app

    signal, seen = Signal(), []
    keep = _recorder(seen)
    signal.connect(keep, sender=app)
    assert signal.has_listeners(app)
    assert signal.has_listeners(current_app)
    assert not signal.has_listeners(Celery("another", set_as_current=False))
    assert not signal.has_listeners()
    text = _recorder(seen)
    signal.connect(text, sender="".join(["a", "b"]))
    assert signal.has_listeners("ab")


def test_weak_by_default() -> None:
    """A receiver that nobody holds is forgotten, one connected with weak=False stays."""
    signal, seen = Signal(), []
    signal.connect(_recorder(seen, "weak"))
    signal.connect(_recorder(seen, "strong"), weak=False)
    gc.collect()
    signal.send(None)
    assert seen == ["strong"]
    assert signal.has_listeners()


def test_bound_methods_of_two_objects() -> None:
    """Methods of two objects are two receivers; each goes with its object, and can be disconnected."""

    class Counter:
        count = 0

        def on(self, **kwargs: Any) -> None:
            self.count += 1

    signal, one, two = Signal(), Counter(), Counter()
    signal.connect(one.on)
    signal.connect(two.on)
    signal.connect(two.on)
    signal.send(None)
    assert (one.count, two.count) == (1, 1)
    assert signal.disconnect(one.on) is True
    signal.send(None)
    assert (one.count, two.count) == (1, 2)
    del two
    gc.collect()
    assert not signal.has_listeners()


def test_dispatch_uid_and_disconnect() -> None:
    """One dispatch_uid is one receiver; disconnect finds it by uid, or by receiver and sender."""
    signal, seen = Signal(), []
    a, b = _recorder(seen, "a"), _recorder(seen, "b")
    signal.connect(a, dispatch_uid="uid")
    signal.connect(b, dispatch_uid="uid")
    signal.send(None)
    assert seen == ["a"]
    assert signal.disconnect(dispatch_uid="uid") is True
    assert signal.disconnect(dispatch_uid="uid") is False
    signal.connect(b, sender="s")
    assert signal.disconnect(b) is False
    assert signal.disconnect(b, sender="s") is True
    with pytest.warns(DeprecationWarning, match="weak"):
        signal.disconnect(b, weak=True)


def test_one_that_raises_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    """What a receiver raises is logged with its name and the signal's, and returned in its place."""
    signal, seen = Signal(name="task_prerun"), []
    error = ValueError("boo")

    @signal.connect
    def broken(**kwargs: Any) -> None:
        raise error

    keep = _recorder(seen)
    signal.connect(keep)
    assert signal.send(None) == [(broken, error), (keep, "called")]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "broken" in record.getMessage()
    assert "task_prerun" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_retry_calls_again_until_it_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With retry=True a receiver is held, called again with growing pauses, and found by disconnect."""
    pauses: list[float] = []
    monkeypatch.setattr(dispatch.time, "sleep", pauses.append)
    signal, calls = Signal(name="x"), []

    def unsure(**kwargs: Any) -> str:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("not yet")
        return "done"

    assert signal.connect(unsure, retry=True) is unsure
    assert [answer for _, answer in signal.send(None)] == ["done"]
    assert pauses == [2.0, 4.0]
    assert "unsure" in caplog.text
    assert signal.disconnect(unsure) is True


def test_refuses_what_cannot_be_called_with_keywords() -> None:
    """A receiver without **kwargs, or that isn't callable, is refused when it is connected."""
    with pytest.raises(ValueError, match="keyword arguments"):
        Signal().connect(lambda sender: None)
    with pytest.raises(TypeError, match="callable"):
        Signal().connect(sender="x")("text")


def test_connecting_from_threads_loses_none() -> None:
    """Receivers connected by many threads while others send are all there."""
    signal, seen = Signal(), []
    kept = [_recorder(seen, n) for n in range(200)]

    def connect(part: int) -> None:
        for receiver in kept[part::4]:
            signal.connect(receiver)
            signal.send(None)

    threads = [threading.Thread(target=connect, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.clear()
    signal.send(None)
    assert sorted(seen) == list(range(200))


def test_every_signal_has_its_name() -> None:
    """A signal is called what the module calls it."""
    assert {name: getattr(signals, name).name for name in signals.__all__} == {n: n for n in signals.__all__}
    assert len(signals.__all__) == 34
