"""The benchmarks of start, idling, payloads, backlogs, crowds and workflows run; no time is judged."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("program", "options", "printed"),
    [
        ("idle.py", ["-s", "0.5", "--clients", "2"], ["% of a core", "wake-ups/s"]),
        ("worker_start.py", ["-n", "20", "-r", "1"], ["start to first result", "memory after 20 tasks"]),
        (
            "payloads.py",
            ["--mb", "0.3", "--total", "1", "--rest", "0"],
            ["0.3 MB in ", "0.3 MB in and back", "memory of the broker"],
        ),
        (
            "backlog.py",
            ["-n", "2000", "--eta", "500", "--results", "200", "--probe", "500"],
            ["bulk, full", "drain, full", "200 waited for", "start to first answer"],
        ),
        (
            "crowd.py",
            ["--queues", "3", "--workers", "2", "--clients", "5", "-n", "20", "--drain", "50"],
            ["one by one/s", "by all clients/s", "in bulk/s", "drained/s", "to the result, ms"],
        ),
        ("hand_out.py", ["-n", "20", "--cases", "2x3"], ["2 workers, 3 queues", "us an empty turn"]),
        ("monitor.py", ["-n", "500", "--queues", "3"], ["µs a task", "µs a turn", "a scrape, 3 queues"]),
        (
            "dashboard.py",
            ["-n", "500", "-r", "1", "--pages", "1"],
            ["no page open", "1 pages open", "of the rate", "updates of a page", "one answer to"],
        ),
        (
            "canvases.py",
            ["-n", "20", "-l", "5", "-w", "2", "--celery", "none"],
            ["chord, 20", "chain, 5", "nested, 2"],
        ),
    ],
)
def test_a_benchmark_prints_its_figures(program: str, options: Sequence[str], printed: Sequence[str]) -> None:
    """In its short form the program ends well and prints each figure that it is for."""
    output = run(program, *options)
    assert [] == [text for text in printed if text not in output], output


@pytest.mark.long
def test_memory_is_back_after_large_messages() -> None:
    """Some seconds after messages of 20 MB, broker and worker are as small as before them."""
    output = run("payloads.py", "--mb", "20", "--total", "80", "--rest", "8")
    told = re.findall(r"memory of the (\w+): ([\d.]+) MB before, ([\d.]+) MB after", output)
    assert ["broker", "worker"] == [who for who, _, _ in told], output
    assert [] == [who for who, before, after in told if float(after) > float(before) + 8], output


def run(program: str, *options: str) -> str:
    """What it printed, once it has ended well."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / program), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert 0 == ran.returncode, ran.stdout
    return ran.stdout
