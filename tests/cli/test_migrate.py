"""`emq-compat migrate`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
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


PROJECT = {
    "proj/__init__.py": '"""A project."""\nfrom .celery import app\n',
    "proj/celery.py": "from celery import Celery\n\napp = Celery('proj')  # the app\n",
    "proj/tasks.py": "from celery.utils.log import get_task_logger\n\nfrom . import app\n",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project on Celery, committed."""
    write(tmp_path, PROJECT)
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    return tmp_path


def git(folder: Path, *words: str, given: str | None = None) -> str:
    """Run git in a folder, and return what it says."""
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *settings, *words], cwd=folder, input=given, capture_output=True, text=True, check=True
    )
    return done.stdout


def commit(folder: Path) -> None:
    """Commit all of a folder."""
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "a state")


def texts(folder: Path) -> dict[str, str]:
    """Return the project's files."""
    return {name: (folder / name).read_text() for name in PROJECT}


@pytest.mark.parametrize("how", [[], ["--install"]])
def test_there_and_back(how: list[str], project: Path) -> None:
    """--diff shows what --write writes; the diff reversed is the project as it was; a second time is none."""
    shown = emq("migrate", "scan", ".", "--diff", *how, cwd=project)
    assert (0, PROJECT) == (shown.returncode, texts(project))
    written = emq("migrate", "scan", ".", "--write", "--yes", *how, cwd=project)
    assert (0, shown.stdout) == (written.returncode, written.stdout)
    assert PROJECT != texts(project)
    ran = subprocess.run(
        [sys.executable, "-c", "import proj.tasks, proj; print(proj.app.main, type(proj.app).__module__)"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert ("proj emq_compat.shim.app\n", "") == (ran.stdout, ran.stderr)
    commit(project)
    again = emq("migrate", "scan", ".", "--write", "--yes", *how, cwd=project)
    assert (0, "", "nothing to change\n") == (again.returncode, again.stdout, again.stderr)
    git(project, "apply", "-R", "-", given=shown.stdout)
    assert PROJECT == texts(project)


def test_the_two_lines(project: Path) -> None:
    """--install puts the two lines where the project's package begins, behind its docstring."""
    assert 0 == emq("migrate", "scan", ".", "--write", "--install", "--yes", cwd=project).returncode
    assert (
        '"""A project."""\n\nfrom emq_compat import celery_shim\n\ncelery_shim.install()\n\n'
        "from .celery import app\n" == texts(project)["proj/__init__.py"]
    )
    assert PROJECT["proj/celery.py"] == texts(project)["proj/celery.py"]


SCRIPTS = {
    "go.py": "from celery import chain\nfrom proj.tasks import *\nprint(chain.__module__)\n",
    "main.py": "import helpers\nif __name__ == '__main__':\n    from celery import chain\n    print('ran')\n",
    "fine.py": "from proj import tasks\nfrom celery import group\n",
    "helpers.py": "import os\n\nfrom celery import group\nimport proj\n",
    "shop/__init__.py": "",
    "shop/tasks.py": "from celery import shared_task\n",
    "shop/day.py": "from .tasks import shared_task\nfrom celery import group\n",
    "reports/__init__.py": "",
    "reports/later.py": "def later():\n    from celery import group\n",
    "reports/run.py": "from celery import group\nif __name__ == '__main__':\n    print(group)\n",
    "tests/test_go.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from celery import Celery\n"
    "from shop.tasks import shared_task\n",
    "proj/settings.py": "INSTALLED_APPS = ['shop.apps.ShopConfig']\n",
}
EARLY_ONES = [
    ("helpers.py", 3, "celery"),
    ("reports/later.py", 2, "celery"),
    ("tests/test_go.py", 4, "shop.tasks"),
]


def test_what_comes_before_the_two_lines(project: Path) -> None:
    """Scripts get the two lines, too; other files that may import Celery before the app does are told."""
    write(project, SCRIPTS)
    commit(project)
    told = json.loads(emq("migrate", "scan", ".", "--json", cwd=project).stdout)["notes"]
    scripts = [("go.py", 1, "celery"), ("reports/run.py", 1, "celery")]
    assert sorted(scripts + EARLY_ONES) == [(one["file"], one["line"], one["name"]) for one in told]
    for how in (["--diff"], ["--write", "--yes"]):
        done = emq("migrate", "scan", ".", "--install", *how, cwd=project)
        notes = [line.split(": ")[1:3] for line in done.stderr.splitlines() if line.startswith("note: ")]
        assert [[f"{file}:{line}", name] for file, line, name in EARLY_ONES] == notes, done.stderr
        assert "import the project's app first, or put there `from emq_compat" in done.stderr
        assert ["go.py", "proj/__init__.py", "reports/run.py"] == [
            line[6:] for line in done.stdout.splitlines() if line.startswith("+++ b/")
        ]
    ran = subprocess.run([sys.executable, "go.py"], cwd=project, capture_output=True, text=True)
    assert (0, "") == (ran.returncode, ran.stderr)
    assert ran.stdout.startswith("emq_compat.")


def test_no_is_no(project: Path) -> None:
    """Without --yes it asks, and no answer is no."""
    done = emq("migrate", "scan", ".", "--write", cwd=project)
    assert "Write 2 files?" in done.stderr
    assert (1, PROJECT) == (done.returncode, texts(project))


@pytest.mark.parametrize("change", ["changed", "unknown", "no git"])
def test_what_git_could_not_give_back_is_not_written(change: str, project: Path) -> None:
    """With uncommitted changes, files that git doesn't know, or no git, only --force writes."""
    if change == "changed":
        (project / "proj/__init__.py").write_text(PROJECT["proj/__init__.py"] + "x = 1\n")
    elif change == "unknown":
        git(project, "rm", "-q", "--cached", "proj/tasks.py")
        git(project, "commit", "-qm", "without it")
    else:
        shutil.rmtree(project / ".git")
    before = texts(project)
    done = emq("migrate", "scan", ".", "--write", "--yes", cwd=project)
    assert (1, before) == (done.returncode, texts(project))
    assert "git could not give back what is there now" in done.stderr
    assert 0 == emq("migrate", "scan", ".", "--write", "--yes", "--force", cwd=project).returncode
    assert before != texts(project)


def test_what_is_left_is_named(project: Path) -> None:
    """An import without a place, names in strings and packages on Celery are told; an import is status 3."""
    extra = "from celery.bogus import thing\nimport celery_once\nX = 'celery.beat:PersistentScheduler'\n"
    write(project, {"proj/more.py": extra})
    commit(project)
    done = emq("migrate", "scan", ".", "--diff", cwd=project)
    assert 3 == done.returncode
    assert "left: proj/more.py:1: celery.bogus:thing: the shim has no place for it" in done.stderr
    assert "note: proj/more.py:2: celery-once: a package that imports celery itself" in done.stderr
    assert "note: proj/more.py:3: celery.beat:PersistentScheduler: a name in a string" in done.stderr


def test_what_stays_of_a_file(project: Path) -> None:
    """Rights, a missing end of line and links stay: the file that a link leads to is written."""
    write(project, {"run": "", "real.py": ""})
    (project / "real.py").write_bytes(b"#!/usr/bin/env python\r\nfrom celery import chain")
    (project / "real.py").chmod(0o755)
    (project / "link.py").symlink_to("real.py")
    commit(project)
    done = emq("migrate", "scan", "link.py", "--write", "--yes", cwd=project)
    assert 0 == done.returncode, done.stderr
    assert b"#!/usr/bin/env python\r\nfrom emq_compat.celery_shim import chain" == (
        project / "real.py"
    ).read_bytes()
    assert (0o755, True) == ((project / "real.py").stat().st_mode & 0o777, (project / "link.py").is_symlink())


@pytest.mark.parametrize(
    "words", [["--json", "--write"], ["--install"], ["--json", "--diff"]], ids=" ".join
)
def test_options_that_exclude_each_other(words: list[str], tmp_path: Path) -> None:
    """Options that have no meaning together are a wrong call."""
    assert 2 == emq("migrate", "scan", str(tmp_path), *words).returncode


def test_the_extra_is_named_where_it_is_missing(project: Path) -> None:
    """Without libcst a scan and --install work, and a rewrite says which extra it needs."""
    write(project, {"libcst.py": "raise ModuleNotFoundError('no', name='libcst')\n"})
    code = "import sys; sys.path.insert(0, '.'); from emq_compat.cli.main import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", code, "migrate", "scan", "proj"]
    for more in ([], ["--diff", "--install"]):
        assert 0 == subprocess.run([*words, *more], cwd=project, capture_output=True).returncode
    done = subprocess.run([*words, "--diff"], cwd=project, capture_output=True, text=True)
    assert 1 == done.returncode
    assert "Error: rewriting imports needs libcst: pip install 'emq-compat[migrate]'\n" == done.stderr
