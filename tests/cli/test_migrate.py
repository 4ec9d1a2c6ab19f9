"""`emq-compat migrate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_main import emq
from tests.migration.trees import write

pytestmark = pytest.mark.integration

FINE = {"proj.py": "from celery import Celery\napp = Celery('x')\n"}
LACKING = {"old.py": "from celery.bogus import thing\n"}
BROKEN = {"two.py": "import celery\nprint 'two'\n"}


@pytest.mark.parametrize(
    ("files", "status"),
    [(FINE, 0), (FINE | LACKING, 3), (FINE | BROKEN, 4), (LACKING | BROKEN, 3), ({"x.txt": ""}, 0)],
)
def test_exit_statuses(files: dict[str, str], status: int, tmp_path: Path) -> None:
    """0: nothing is unsupported; 3: something is; 4: nothing is, but a file could not be read."""
    write(tmp_path, files)
    done = emq("migrate", "scan", str(tmp_path))
    assert (status, "") == (done.returncode, done.stderr)


def test_lines_and_sum(tmp_path: Path) -> None:
    """Each finding is a line that editors can follow, and a sum says what is unsupported, and where."""
    write(tmp_path, FINE | LACKING)
    done = emq("migrate", "scan", ".", "--only", "unsupported", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("old.py:1:26: unsupported: import celery.bogus:thing: ")
    assert "2 files read, 2 of them Python; something of Celery in 2" in lines
    assert not [line for line in lines if ": supported:" in line]
    assert any(line.startswith("  import celery.bogus:thing: ") and "(old.py:1)" in line for line in lines)


def test_json(tmp_path: Path) -> None:
    """--json tells the same for programs."""
    write(tmp_path, FINE | LACKING)
    done = emq("migrate", "scan", ".", "--json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert (1, 2, 2, 3) == (said["format"], said["files"], said["python"], said["exit"])
    assert 1 == said["summary"]["unsupported"]
    assert {"file", "line", "column", "kind", "name", "status", "reason"} == set(said["findings"][0])


def test_exclude(tmp_path: Path) -> None:
    """What a pattern names is passed over, a file or a folder, by its name or its path."""
    write(tmp_path, FINE | LACKING | {"legacy/a.py": LACKING["old.py"], "b/c/d.py": LACKING["old.py"]})
    patterns = [word for pattern in ("old*", "legacy/", "b/c") for word in ("--exclude", pattern)]
    assert 0 == emq("migrate", "scan", str(tmp_path), *patterns).returncode


def test_options_of_our_commands_count(tmp_path: Path) -> None:
    """An option that the list doesn't have is looked for in our command of that name."""
    write(tmp_path, {"run.sh": "celery -A proj call x --countdown 3 --nonsense 4\n"})
    done = emq("migrate", "scan", ".", cwd=tmp_path)
    assert "run.sh:1: supported: command celery call --countdown" in done.stdout
    assert "unsupported: command celery call --nonsense: `emq-compat call` has no option" in done.stdout


def test_a_path_that_is_not_there() -> None:
    """A path that isn't there is a wrong call."""
    done = emq("migrate", "scan", "/nowhere")
    assert 2 == done.returncode
    assert "does not exist" in done.stderr
