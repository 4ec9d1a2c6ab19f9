"""The JSON of arguments and results."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import uuid
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emq_compat.celery_shim import EncodeError
from emq_compat.shim.codec import dumps, jsonable, loads, plain_dumps, revive

pytestmark = pytest.mark.unit

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(timezone.utc))
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner, max_size=5),
    max_leaves=20,
)


@given(_VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    """loads and revive are both the inverse of dumps, types included."""
    text = dumps(value)

    for again in (loads(text), revive(json.loads(text))):
        assert value == again
        assert _types(value) == _types(again)


def _types(value: Any) -> Any:
    if isinstance(value, list):
        return [_types(item) for item in value]
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    return type(value)


def test_the_envelope_is_kombu_s() -> None:
    """A genuine Celery peer reads our JSON, and we its."""
    from kombu.utils import json as kombu_json

    values = [
        datetime(2024, 1, 2, 3, 4, 5, 6, timezone.utc),
        date(2024, 1, 2),
        time(3, 4),
        Decimal("1.50"),
        uuid.UUID(int=5),
        b"text",
        b"\xff\xfe",
    ]

    assert values == kombu_json.loads(dumps(values))
    assert values == loads(kombu_json.dumps(values))


def test_a_type_registered_with_kombu_counts() -> None:
    """kombu.utils.json.register_type works here, too, where kombu is loaded."""
    script = (
        "from kombu.utils.json import register_type\n"
        "from emq_compat.shim.codec import dumps, loads\n"
        "class P:\n    def __init__(self, x): self.x = x\n"
        "register_type(P, 'p', lambda p: p.x, P)\n"
        "print(loads(dumps([P(3)]))[0].x)\n"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert ("3", "") == (ran.stdout.strip(), ran.stderr)


def test_an_object_may_say_what_stands_for_it() -> None:
    """__json__ is asked, of instances only."""

    class Point:
        def __json__(self) -> list[int]:
            return [1, 2]

    assert [1, 2] == json.loads(dumps(Point()))
    with pytest.raises(TypeError):
        dumps(Point)


def test_what_json_lacks_is_encodeerror() -> None:
    """jsonable returns JSON values, or raises EncodeError naming the type; plain_dumps takes no envelope."""
    envelope = {"__type__": "date", "__value__": "2024-01-02"}
    assert {"a": [1, envelope]} == jsonable({"a": (1, date(2024, 1, 2))})
    endless: list[Any] = []
    endless.append(endless)
    for value in ({1}, object(), endless):
        with pytest.raises(EncodeError):
            jsonable(value)
    with pytest.raises(TypeError):
        plain_dumps(date(2024, 1, 2))


def test_a_type_that_isnt_known_is_an_error_and_lookalikes_are_not() -> None:
    """An envelope of an unknown type raises ValueError; a dict that only looks like one is a dict."""
    with pytest.raises(ValueError, match="unknown type 'no-such'"):
        loads('{"__type__": "no-such", "__value__": 1}')
    for lookalike in ({"__type__": "date"}, {"__type__": "date", "__value__": 1, "more": 2}):
        assert lookalike == loads(json.dumps(lookalike))


def test_nan_and_infinity_travel_as_in_python_s_json() -> None:
    """Not JSON, but what Celery's serializer does, too."""
    assert math.isnan(loads(dumps(math.nan)))
    assert math.inf == loads(dumps(math.inf))
