"""Tables fit a terminal of any width, whatever stands in them."""

from __future__ import annotations

import os
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emq_compat.table import UNCUT, Column, cut, fitted, ids, names, room, table, whole

pytestmark = pytest.mark.unit

texts = st.text(max_size=30)
columns = st.lists(
    st.builds(
        Column, st.sampled_from(("q", "task", "")), st.sampled_from(("end", "middle")), st.integers(0, 2)
    ),
    min_size=1,
    max_size=6,
)


def cells(text: str) -> int:
    """How many cells a terminal gives a text, by the rule that wide characters take two and marks none."""
    narrow = sum(unicodedata.category(c) not in ("Mn", "Me", "Cf") and not "ᅠ" <= c <= "ᇿ" for c in text)
    return narrow + sum(
        unicodedata.east_asian_width(c) in "WF" and not "ᅠ" <= c <= "ᇿ" for c in text
    )


@given(columns, st.data())
def test_no_line_is_wider_than_asked(kinds: list[Column], data: st.DataObject) -> None:
    """Whatever stands in it: as many lines as rows and a head, none too wide, no control character."""
    row = st.tuples(*[texts] * len(kinds))
    rows = data.draw(st.lists(row, max_size=5))
    width = data.draw(st.integers(1, 120))
    lines = fitted(kinds, rows, width)
    assert len(rows) + 1 == len(lines)
    assert all(cells(line) <= width for line in lines)
    assert all(unicodedata.category(c) not in ("Cc", "Cf") for line in lines for c in line)


def test_columns_stand_below_each_other() -> None:
    """Wide characters take two cells, accents and vowel signs none, and Korean letters go together."""
    rows = [("漢字", 1), ("é", 22), ("हिन्दी", 3), ("\u1112\u1161\u11ab", 4), ("👍", 5), ("plain", 6)]
    lines = table(("queue", "waiting"), rows).split("\n")
    assert {14} == {cells(line) for line in lines}
    assert "漢字         1" == lines[1]
    assert "plain        6" == lines[-1]


def test_names_lose_their_middle_and_ids_little() -> None:
    """The last part of a name says most; an id is to be copied; texts lose their end; numbers stay."""
    heads = (names("task"), ids("id"), "why", "n")
    row = ("proj.orders.tasks.send_confirmation", "0f" * 18, "the worker was lost two times", "12")
    line = fitted(heads, [row], 76, right=(3,))[1]
    assert f"proj…onfirmation  {'0f' * 18}  the worker was …  12" == line
    narrow = fitted(heads, [row], 40, right=(3,))[1]
    assert "p…mation  0f0f0f0f0f0f0f0…  the wor…  12" == narrow


def test_times_are_whole_for_longest() -> None:
    """A time without its end says nothing: names and ids give all that they have before it."""
    heads = (whole("since"), names("task"), ids("id"))
    row = ("2026-11-26 09:03:47+00:00", "proj.orders.tasks.send_confirmation", "0f" * 18)
    assert "2026-11-26 09:03:47+00:00  proj…onfirmation  0f0f0f0f0f0f0f0…" == fitted(heads, [row], 61)[1]
    assert "2026-11-26 09:03:47+00:00  p…mation  0f0f0f0…" == fitted(heads, [row], 45)[1]
    assert "2026-11-26 09:03:…  p…mation  0f0f0f0…" == fitted(heads, [row], 38)[1]


def test_two_long_columns_share_the_room() -> None:
    """The widest gives first, down to the next; short ones keep what they have."""
    line = fitted(("a", "b", "c"), [("x" * 50, "y" * 30, "z")], 45)[1]
    assert f"{'x' * 19}…  {'y' * 19}…  z" == line


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("漢字", 3, "漢…"), ("漢字", 2, "…"), ("a", 0, "")],
)
def test_texts_are_cut(text: str, width: int, expected: str) -> None:
    """A character that doesn't fit whole is left out; the … says so."""
    assert expected == cut(text, width)


def test_numbers_stand_to_the_right() -> None:
    """A column of nothing but numbers does, unless it is said which ones do."""
    lines = table(("q", "n", "of"), [("a", "1,000", "3 of 4"), ("b", 7, "12 of 40")]).split("\n")
    assert ["q      n  of", "a  1,000  3 of 4", "b      7  12 of 40"] == lines
    assert "1   x" == table(("nn", "t"), [(1, "x")], right=()).split("\n")[1]
    assert ["q  n"] == table(("q", "n"), []).split("\n")


def test_the_room_is_the_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal its width counts, or COLUMNS; into a file or a pipe lines are as long as they are."""
    ours, terminal = os.openpty()
    monkeypatch.setenv("COLUMNS", "47")
    with os.fdopen(terminal, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert 47 == room()
        assert {47} >= {len(line) for line in table(("a",), [("x" * 100,)]).split("\n")[1:]}
    with open(os.devnull, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert UNCUT == room()
        assert "x" * 100 == table(("a",), [("x" * 100,)]).split("\n")[1]
    os.close(ours)
