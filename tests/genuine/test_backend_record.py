"""Celery's meta of a result as the broker's reply JSON, and back."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from celery import states
from kombu.exceptions import EncodeError

from emq_compat.genuine.backend_record import Carrier, meta_of, reply_of
from emq_compat.stored import StoredResult

PICKLE = "application/x-python-serialize"
JSON = "application/json"


def carrier(serializer: str = "json", compression: str | None = None, *accept: str) -> Carrier:
    return Carrier(
        serializer, compression, accept or (JSON, PICKLE, "application/x-yaml", "application/x-msgpack")
    )


def meta(result: Any, status: str = states.SUCCESS, **more: Any) -> dict[str, Any]:
    return {"status": status, "result": result, "traceback": None, "children": [], "date_done": None, **more}


def back(reply: dict[str, Any], reader: Carrier) -> dict[str, Any]:
    """Return the meta that is read of a reply which has been on the wire."""
    wire = json.loads(json.dumps(reply))
    return meta_of("id", StoredResult(reply["state"], reply=wire), reader)


@pytest.mark.parametrize("value", [None, True, 7, 1.5, "ä", [1, [2]], {"a": {"b": None}}])
@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml"])
def test_plain_values_stand_there_as_they_are(serializer: str, value: Any) -> None:
    """What JSON gives back exactly is read by everyone, whatever result_serializer is."""
    reply = reply_of(meta(value), carrier(serializer))
    assert value == reply["value"]
    assert value == back(reply, carrier(serializer))["result"]


def test_json_values_have_kombus_envelopes() -> None:
    """Dates, decimals and UUIDs come back as themselves, by kombu's JSON."""
    value = {"at": datetime(2026, 1, 2, tzinfo=timezone.utc), "sum": Decimal("1.10"), "id": uuid.UUID(int=5)}
    assert value == back(reply_of(meta(value), carrier()), carrier())["result"]


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {"a": {2, 3}}, float("inf")])
def test_pickle_keeps_what_json_would_change(value: Any) -> None:
    """A tuple, numbers as keys, sets and infinities come back unchanged with result_serializer pickle."""
    reply = reply_of(meta(value), carrier("pickle"))
    assert value == back(reply, carrier("pickle"))["result"]


def test_a_pickle_is_read_only_where_it_is_accepted() -> None:
    """result_accept_content decides whether a pickled value is loaded."""
    reply = reply_of(meta({1, 2}), carrier("pickle"))
    with pytest.raises(Exception, match="not among accept_content"):
        back(reply, carrier("json", None, JSON))


def test_large_values_are_compressed_and_read_without_the_setting() -> None:
    """result_compression makes what is kept small; a reader needs no setting for it."""
    value = ["x" * 100] * 100
    reply = reply_of(meta(value), carrier("json", "gzip"))
    assert len(json.dumps(reply)) < 1000
    assert value == back(reply, carrier())["result"]


def test_what_the_serializer_cannot_carry_is_an_encode_error() -> None:
    """A result that JSON lacks fails as in Celery: the tracer makes a failure of it."""
    with pytest.raises(EncodeError):
        reply_of(meta(object()), carrier())


def test_an_exception_is_kept_for_both_worlds() -> None:
    """An exception's record is the reply's error, with its text for those who don't have its class."""
    record = {"exc_type": "KeyError", "exc_message": ["k"], "exc_module": "builtins", "exc_text": "'k'"}
    reply = reply_of(meta(record, states.FAILURE, traceback="tb"), carrier())
    assert {"type": "KeyError", "module": "builtins", "args": ["k"], "message": "'k'"} == reply["error"]
    assert "'k'" == reply["value"]
    read = back(reply, carrier())
    assert ("KeyError", ["k"], "builtins", "tb") == (
        read["result"]["exc_type"],
        read["result"]["exc_message"],
        read["result"]["exc_module"],
        read["traceback"],
    )


def test_a_pickled_exception_comes_back_itself() -> None:
    """With pickle an exception keeps what its arguments don't tell; without it its record is read."""
    exc = ValueError("a")
    exc.extra = 5  # type: ignore[attr-defined]
    record = {"exc_type": "ValueError", "exc_message": ["a"], "exc_module": "builtins"}
    reply = reply_of(meta(record, states.FAILURE), carrier("pickle"), exc)
    assert 5 == back(reply, carrier("pickle"))["result"].extra
    assert "ValueError" == back(reply, carrier("json", None, JSON))["result"]["exc_type"]


def test_an_end_without_an_exception_is_told_by_one() -> None:
    """A revoke that only has a text becomes TaskRevokedError."""
    read = meta_of("id", StoredResult("REVOKED", reply={"value": "terminated"}), carrier())
    assert ("TaskRevokedError", ["terminated"]) == (
        read["result"]["exc_type"],
        read["result"]["exc_message"],
    )


def test_what_extended_results_tell_comes_back() -> None:
    """result_extended's members and stamps are the same on the way back."""
    told = {
        "name": "t", "args": [1], "kwargs": {"at": datetime(2026, 1, 1, tzinfo=timezone.utc)},
        "worker": "w", "retries": 2, "queue": "q",
        "group_id": "g", "parent_id": "p", "stamped_headers": ["who"], "who": ["me"],
        "children": [(("c", None), None)],
    }  # fmt: skip
    read = back(reply_of(meta(1, **told), carrier()), carrier())
    assert {**told, "children": [[["c", None], None]]} == {name: read[name] for name in told}


def test_nothing_stored_is_pending() -> None:
    """An unknown task is PENDING."""
    assert {"status": "PENDING", "result": None} == meta_of("id", None, carrier())
