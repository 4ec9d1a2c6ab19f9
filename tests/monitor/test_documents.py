"""docs/monitoring.md has the metrics that there are, and a probe is as cheap as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emq_compat.monitor.beat_figures import BEAT_FAMILIES
from emq_compat.monitor.broker_figures import BROKER_FAMILIES
from emq_compat.monitor.figures import Family
from emq_compat.monitor.worker_figures import WORKER_FAMILIES

pytestmark = [pytest.mark.unit]

TEXT = (Path(__file__).resolve().parents[2] / "docs/monitoring.md").read_text()


@pytest.mark.parametrize(
    "families", [BROKER_FAMILIES, WORKER_FAMILIES, BEAT_FAMILIES], ids=["broker", "worker", "beat"]
)
def test_each_metric_is_documented(families: tuple[Family, ...]) -> None:
    """The tables of metrics have each one's name, labels, kind and help, in order, and no other."""
    role = families[0].name.split("_")[1]
    rows = re.findall(rf"^\| `(emq_{role}_\w+)(?:\{{([\w, ]+)\}})?` \| (\w+) \| (.+) \|$", TEXT, re.MULTILINE)
    told = [(f.name, ", ".join(f.labels), f.kind, f.help) for f in families]
    assert told == [(name, labels, kind, text.partition(" <br>")[0]) for name, labels, kind, text in rows]


@pytest.mark.parametrize(
    "family", [*BROKER_FAMILIES, *WORKER_FAMILIES, *BEAT_FAMILIES], ids=lambda family: family.name
)
def test_names_follow_conventions(family: Family) -> None:
    """Counters end in _total, and no other; what is a time or a size says its unit."""
    assert (family.kind == "counter") == family.name.endswith("_total")
    assert family.kind != "histogram" or family.name.endswith("_seconds")


def test_a_probe_imports_little() -> None:
    """`emq-compat health --http` loads no socket library but the standard one, and nothing of a project's."""
    heavy = "'zmq', 'kombu', 'asyncio', 'psutil', 'prometheus_client', 'sqlite3', 'emq_compat.celery_shim'"
    code = f"""
import sys
from emq_compat.cli.main import main
try:
    main(["health", "--http", "1"])
except SystemExit as exc:
    print(exc.code, [name for name in ({heavy}) if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "1 []" == done.stdout.splitlines()[-1], done
