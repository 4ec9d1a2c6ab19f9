"""What `emq-compat top` draws, and what it asks."""

from __future__ import annotations

from typing import Any

import pytest

from emq_compat.cli.top_lines import KEYS, Line, screen
from emq_compat.cli.top_looks import Looks
from emq_compat.errors import BrokerRefused, JournalUnwritable, OperationalError
from emq_compat.monitor.overview.history import History, away
from emq_compat.table import cut, fitted
from tests.monitor.dashboard.fake import FakeBroker
from tests.monitor.overview.test_history import failure, overview, queue, worker

pytestmark = pytest.mark.unit

URL = "emq://127.0.0.1"


def running(task: str, for_s: float) -> dict[str, Any]:
    return {"task": task, "task_id": "i", "queue": "q", "for_s": for_s, "attempt": 1}


def busy(queues: int = 2, workers: int = 2, failures: int = 2) -> dict[str, Any]:
    """Return the sections of a broker with this many of everything."""
    history = History()
    told: dict[str, Any] = {
        "waiting": 1200,
        "in_flight": 3,
        "dead": 1,
        "queues": [
            queue(f"queue{n}", waiting=n, oldest_s=5.0, handed_out=10, workers=n % 2) for n in range(queues)
        ],
        "workers": [
            worker(f"w{n}", slots=8, busy=6, finished=1500, running=[running("proj.add", 75)])
            for n in range(workers)
        ],
        "failures": [failure(n + 1, kind=f"Error{n}", at=1060.0) for n in range(failures)],
        "failed_by_task": {"t": failures},
        "counters": {"published": 0, "finished": 0, "failed": failures},
    }
    history.note(overview(99.0, **told))
    told["queues"] = [{**one, "handed_out": 60} for one in told["queues"]]
    told["failures"] = []
    told["counters"] = {"published": 5, "finished": 250, "failed": failures}
    return history.note(overview(100.0, **told))


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def row(lines: list[Line], start: str) -> list[str]:
    return next(line.text for line in lines if line.text.startswith(start)).split()


def test_what_is_shown() -> None:
    """The verdict, totals and rates, queues, workers with what they run, failures; the keys come last."""
    lines = screen(busy(), URL, 79, 24)
    shown = "\n".join(texts(lines))
    assert lines[0].text.startswith("emq-compat top   emq://127.0.0.1   up 100 s")
    assert Line("Worth a look", "warn") == lines[1]
    assert "  2 tasks failed in the last 5 minutes" in shown
    assert "1,200 waiting   3 handed out   12 of 16 slots busy   in 5.0/s   done 250/s" in shown
    assert ["queue1", "1", "5", "s", "0", "50.0", "50.0", "1"] == row(lines, "queue1")
    assert ["w0", "6", "of", "8", "1,500", "proj.add", "75", "s,", "and", "5", "more"] == row(lines, "w0")
    assert ["1", "40", "s", "ago", "t", "Error1:", "no", "2"] == next(
        line.text.split() for line in lines if "Error1" in line.text
    )
    assert Line(KEYS, "head") == lines[-1]


@pytest.mark.parametrize("size", [(79, 24), (39, 24), (200, 60), (12, 5), (79, 1), (1, 3)])
@pytest.mark.parametrize("count", [0, 3, 400])
def test_any_size(size: tuple[int, int], count: int) -> None:
    """No line is longer than the screen is wide, and there are as many as it has, the keys last."""
    width, height = size
    lines = screen(busy(count, count, min(count, 30)), URL, width, height)
    assert height == len(lines)
    assert [] == [line.text for line in lines if len(line.text) > width]
    assert cut(KEYS, width) == lines[-1].text


def test_what_has_no_room_is_counted() -> None:
    """Queues, workers and failures share the height; none is cut for one that needs more than its share."""
    lines = screen(busy(400, 400, 2), URL, 79, 30)
    shown = texts(lines)
    assert [1, 1, 1] == [
        sum(line.startswith(head) for line in shown) for head in ("queue ", "worker ", "failed ")
    ]
    assert 2 == sum(line.startswith("and ") and line.endswith(" more") for line in shown)
    assert 2 == sum("Error" in line for line in shown)
    names = [line.split()[0] for line in shown if line.startswith("queue") and line[5].isdigit()]
    assert "queue399" == names[0]
    assert f"and {400 - len(names)} more" in shown
    whole = texts(screen(busy(400, 400, 2), URL, 1 << 20))
    assert 800 == sum(line.startswith(("queue", "w")) and line.split()[0][-1].isdigit() for line in whole)
    assert KEYS not in whole


def test_what_is_marked() -> None:
    """A queue that nobody takes from, a paused one, and a worker that is away stand out."""
    told = overview(
        queues=[queue("alone", waiting=1, workers=0), queue("halted", paused=True), queue("well")],
        workers=[worker("gone", present=False), worker("ends", leaving=True)],
    )
    lines = screen(History().note(told), URL, 79, 40)
    shown = {line.text.split()[0]: line for line in lines if line.text and line.text[0] != " "}
    assert ("bad", "warn", "", "warn", "") == tuple(
        shown[name].shown for name in ("alone", "halted", "well", "gone", "ends")
    )
    assert shown["halted"].text.endswith("paused")
    assert shown["gone"].text.endswith("not connected")
    assert shown["ends"].text.endswith("shutting down")


def test_what_others_wrote_moves_no_cursor() -> None:
    """Names and messages with control characters are shown escaped, and one line each."""
    told = overview(
        queues=[queue("a\x1b[2J", waiting=1, workers=0)],
        failures=[failure(1, task="t\n\x07", kind="K\x1b]0;x")],
        failed_by_task={"t\n\x07": 1},
    )
    lines = screen(History().note(told), URL, 100, 24)
    assert all(line.text.isprintable() for line in lines)
    assert any("a\\x1b[2J" in line.text for line in lines)


def test_a_broker_that_is_away() -> None:
    """It is said, above what it told last; of one that never answered there is nothing more."""
    lines = screen({**busy(), **away("no answer from tcp://h:1 within 3 s")}, URL, 79, 24)
    assert [
        Line("The broker doesn't answer", "bad"),
        Line("  no answer from tcp://h:1 within 3 s", "bad"),
    ] == lines[1:3]
    assert "  what follows is what it told last" == lines[3].text
    assert any(line.text.startswith("queue1") for line in lines)
    assert 2 == sum(bool(line.text) for line in screen(away("x"), URL, 79, 24)[1:-1])


def test_looks() -> None:
    """Each look asks for the failures since the last one only; what is known of them stays."""
    broker = FakeBroker()
    looks = Looks(broker, 1.0)
    broker.answers["overview"] = overview(100.0, failures=[failure(7)], failed_by_task={"t": 1})
    looks.look()
    broker.answers["overview"] = overview(101.0, failed_by_task={"t": 1})
    looks.look()
    assert [0, 7] == [arguments["failures_after"] for _, arguments in broker.asked]
    assert ["t"] == [group["task"] for group in looks.sections["failures"]]
    broker.answers["overview"] = OperationalError("away")
    with pytest.raises(OperationalError, match="away"):
        looks.look()
    broker.answers["overview"] = JournalUnwritable("the disk is full")
    looks.begin()
    while "the disk is full" not in str(looks.sections["verdict"]):
        looks.look_soon()
    assert looks.failed is None
    broker.answers["overview"] = BrokerRefused("no")
    while looks.failed is None:
        looks.look_soon()
    assert "no" == str(looks.failed)


def test_columns_that_fit() -> None:
    """The widest columns of text give room; numbers stay whole; wide characters count twice."""
    heads, rows = ("name", "n", "text"), [("a" * 30, "1,000", "b" * 50), ("c", "2", "d")]
    assert ["a" * 30 + "  1,000  " + "b" * 50] == fitted(heads, rows, 100, right=(1,))[1:2]
    narrow = fitted(heads, rows, 49, right=(1,))
    assert "a" * 19 + "…  1,000  " + "b" * 19 + "…" == narrow[1]
    assert "c" + " " * 25 + "2  d" == narrow[2]
    assert "aaaaaaa…  1…" == fitted(heads, rows, 12, right=(1,))[1]
    assert ("日本…", "é", "", "ab") == (cut("日本語日本", 6), cut("é", 1), cut("abc", 0), cut("ab", 2))
