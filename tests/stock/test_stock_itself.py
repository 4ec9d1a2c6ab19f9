"""The peer itself: what stock eventmq does without us. A failure here says nothing about emq-compat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.stock.peers import Stock

pytestmark = [pytest.mark.interop]


def test_job_runs_end_to_end(stock: Stock, free_port: Callable[[], int], tmp_path: Path) -> None:
    """A stock client's job goes through a stock router to a stock job manager and runs there."""
    frontend, backend, admin = (f"tcp://127.0.0.1:{free_port()}" for _ in range(3))
    router = stock.router(frontend=frontend, backend=backend, admin=admin, HEARTBEAT_INTERVAL="1")
    stock.jobmanager(broker=backend, jobs=2)
    notes = tmp_path / "notes"
    # READY comes only after the router's first HEARTBEAT; until then the router would buffer in silence.
    router.wait_line("'READY'", count=2)

    printed = stock.client(
        f"""
msgid = messages.defer_job(socket, stock_tasks.note, args=[{str(notes)!r}, "ran"], reply_requested=True)
[reply] = replies(1)
assert reply[2] == "REPLY" and reply[4:] == [msgid], reply
print("dispatched")
""",
        broker=frontend,
    )

    assert "dispatched" in printed
    wait_until(lambda: notes.exists() and notes.read_text() == "ran\n", what="the job's note")
    shown = stock.cli(admin, "show_workers", "status")
    assert "'connected_queues': {'default': " in shown
    assert "'processed_messages_by_queue': {'default': 1}" in shown
