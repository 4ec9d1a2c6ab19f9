"""``celery.contrib.testing.manager`` and ``.mocks``."""

from __future__ import annotations

import io
import json
import threading
from datetime import datetime, timezone

import pytest

from emq_compat.celery_shim import Celery
from emq_compat.shim.exceptions import TimeoutError as CeleryTimeoutError
from emq_compat.testing.manager import Manager, Sentinel
from emq_compat.testing.mocks import ContextMock, TaskMessage, TaskMessage1, task_message_from_sig
from emq_compat.testing.worker import start_worker

pytestmark = pytest.mark.integration


def test_waiting_for_tasks(app: Celery) -> None:
    """A manager waits until tasks have begun, tells which workers have them, and joins their results."""
    begun, end = threading.Event(), threading.Event()

    @app.task(track_started=True)
    def hold() -> str:
        begun.set()
        end.wait(10)
        return "held"

    manager = Manager(app, stdout=io.StringIO())
    with start_worker(app, pool="threads"):
        result = hold.delay()
        assert begun.wait(10)
        assert manager.assert_result_tasks_in_progress_or_completed([result], interval_start=0.01)
        assert manager.assert_accepted([result.id])
        assert manager.assert_received([result.id])
        assert {"active": {result.id}} == manager.query_task_states([result.id])
        assert [result.id] == manager.missing_results([result])
        with pytest.raises(AssertionError, match=result.id):
            manager.join(result, timeout=0.02, max_retries=2)
        with pytest.raises(CeleryTimeoutError, match=result.id):
            manager.wait_until_idle(timeout=0.02)
        end.set()
        assert ["held"] == manager.join(result, timeout=10)
        manager.wait_until_idle()
        assert not manager.is_accepted([result.id])
    assert 2 == manager.stdout.getvalue().count("Still waiting for 1/1")


def test_waiting_for_anything() -> None:
    """wait_for calls until the exception stops, as often as it may; its opposite wants it to stay."""
    manager = Manager(Celery("x", set_as_current=False), stderr=io.StringIO())
    tries: list[int] = []

    def third_time() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise KeyError("not yet")
        return "there"

    pauses = {"interval_start": 0.001, "interval_step": 0.001}
    told = manager.wait_for(third_time, KeyError, desc="the key", emit_warning=True, **pauses)
    assert ("there", 3) == (told, len(tries))
    assert "Still waiting for the key, again in 0.001 s: KeyError('not yet')" in manager.stderr.getvalue()
    with pytest.raises(Sentinel):
        manager.wait_for(lambda: manager.true_or_raise(lambda: False), (Sentinel,), max_retries=2, **pauses)
    manager.ensure_not_for_a_while(
        lambda: manager.true_or_raise(lambda: 0), Sentinel, max_retries=2, **pauses
    )
    with pytest.raises(AssertionError, match="the worst"):
        manager.ensure_not_for_a_while(lambda: 1, (Sentinel,), desc="the worst")


def test_messages_of_both_protocols() -> None:
    """A mock of a message has Celery's headers, body and payload of its protocol."""
    two = TaskMessage("t", id="i", args=(1,), kwargs={"a": 2}, eta="later")
    one = TaskMessage1("t", id="i", args=(1,), kwargs={"a": 2}, retries=3)
    embed = {"callbacks": None, "errbacks": None, "chain": None}
    assert ({"id": "i", "task": "t", "shadow": None, "eta": "later"}, [[1], {"a": 2}, embed]) == (
        two.headers, json.loads(two.body),
    )  # fmt: skip
    assert ({}, "t", 3, "application/json") == (
        one.headers, json.loads(one.body)["task"], one.payload["retries"], one.content_type,
    )  # fmt: skip


def test_a_message_of_a_signature(app: Celery) -> None:
    """A signature's message has its id, arguments, callbacks, and dates as text."""
    at = datetime(2031, 1, 2, tzinfo=timezone.utc)
    signature = app.signature("t", (1,), eta=at, expires=10, queue="q").on_error(app.signature("e"))
    message = task_message_from_sig(app, signature)
    assert ("t", signature.id, at.isoformat(), "q") == (
        message.headers["task"], message.headers["id"], message.headers["eta"], message.headers["queue"],
    )  # fmt: skip
    assert "e" == message.payload[2]["errbacks"][0]["task"]
    assert datetime.fromisoformat(message.headers["expires"]) > app.now()


def test_a_mock_for_with() -> None:
    """A ContextMock is what its ``with`` gives, and lets exceptions out."""
    mock = ContextMock(name="m")
    with mock as given:
        assert given is mock
    assert mock.__exit__(KeyError, KeyError(), None) is None
