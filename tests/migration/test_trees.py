"""Whatever a tree holds, it is read to its end, and what can't be read is named."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.migration.trees import findings, found, write

pytestmark = [pytest.mark.unit]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"from celery import task\nprint 'two'\n", "can't read it"),
        (b"from celery import (\n", "can't read it"),
        (b"# -*- coding: nonsense -*-\nimport celery\n", "can't read it"),
        (b"x = '\xff'\nimport celery\n", "can't read it"),
        (b"import celery\n\0\n", ""),
        (b"import celery\nx = " + b"(" * 400 + b")" * 400, "can't read it"),
        (b"import celery\nx = " + b"-" * 20000 + b"1", ""),
        (b"import celery\nx = " + b"1+" * 30000 + b"1", ""),
    ],
)
def test_files_that_can_not_be_read(source: bytes, told: str, tmp_path: Path) -> None:
    """A file that this Python can't read is named, and the others are read."""
    (tmp_path / "bad.py").write_bytes(source)
    write(tmp_path, {"good.py": "from celery import Celery\n"})
    bad = [one for one in findings(tmp_path) if one.path.name == "bad.py"]
    assert ["unreadable"] == [one.status for one in bad]
    assert told in bad[0].reason
    assert "supported" == found(tmp_path)["celery:Celery"]


def test_encodings(tmp_path: Path) -> None:
    """A file is read in the encoding that it names."""
    (tmp_path / "a.py").write_bytes("# coding: latin-1\nÄ = 1\nfrom celery import chain\n".encode("latin-1"))
    assert {"celery:chain": "supported"} == found(tmp_path)


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    """Loops of links, pipes and links that lead nowhere neither stop nor hang a scan."""
    write(tmp_path, {"pkg/a.py": "from celery import chain\n"})
    (tmp_path / "pkg/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again.py").symlink_to(tmp_path / "pkg/a.py")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    os.mkfifo(tmp_path / "pipe.py")
    assert 1 == len(findings(tmp_path))


def test_environments_and_the_like_are_passed_over(tmp_path: Path) -> None:
    """Virtual environments, by name or by their mark, caches and node_modules are not the project's code."""
    source = "from celery import chain\n"
    write(
        tmp_path,
        {
            f"{folder}/a.py": source
            for folder in (".venv", "node_modules/x", "env/lib", ".git", "x.egg-info", "lib/site-packages")
        },
    )
    write(tmp_path, {"env/pyvenv.cfg": "", "env/b.py": source, "kept.py": source})
    assert ["kept.py"] == [one.path.name for one in findings(tmp_path)]


def test_a_large_tree_is_read_quickly(tmp_path: Path) -> None:
    """Ten thousand lines of tasks and calls take seconds."""
    body = "".join(
        f"@app.task(bind=True, acks_late=True)\ndef t{n}(self, x):\n    self.update_state(state='X')\n"
        f"    return t{n}.s(1).apply_async(queue='q')\n\n"
        for n in range(50)
    )
    for number in range(40):
        write(tmp_path, {f"proj/m{number}.py": f"from proj.celery import app\n{body}"})
    write(tmp_path, {"proj/celery.py": "from celery import Celery\napp = Celery('x')\n"})
    start = time.perf_counter()
    assert 40 * 50 * 7 < len(findings(tmp_path))
    assert time.perf_counter() - start < 20
