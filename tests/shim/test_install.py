"""``celery_shim.install()``: ``import celery`` finds the shim. Each in an interpreter of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def python(code: str, cwd: Path, **environment: str) -> str:
    """Run code in a new interpreter and return what it printed; ``celery`` is looked for in ``cwd`` only."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "" == done.stderr
    return done.stdout.strip()


SHIM_FIRST = "from emq_compat import celery_shim; print(celery_shim.install());"


def test_import_celery_finds_the_shim(tmp_path):
    """After install() Celery's modules give the shim's very objects."""
    code = """
    from emq_compat import celery_shim
    assert celery_shim.install() is True
    assert celery_shim.install() is True
    import celery, celery.exceptions
    from celery import Celery, shared_task, states, signals
    from celery.app.task import Task
    from celery.result import AsyncResult
    assert Celery is celery_shim.Celery and Task is celery_shim.Task
    assert AsyncResult is celery_shim.AsyncResult
    assert celery.exceptions.Retry is celery_shim.Retry and states.SUCCESS == "SUCCESS"
    assert celery.__name__ == "celery" and signals.__name__ == "celery.signals"
    assert "task_prerun" in dir(signals) and celery.signals is signals
    import inspect, pickle
    assert pickle.loads(pickle.dumps(celery.exceptions.Reject)) is celery_shim.Reject
    assert inspect.getmodule(Celery).__name__ == "emq_compat.shim.app"
    """
    assert "" == python(code, tmp_path)


def test_star_import(tmp_path):
    """``from celery.exceptions import *`` brings the public names."""
    code = f"{SHIM_FIRST}from celery.exceptions import *; print(Ignore.__name__)"
    assert "True\nIgnore" == python(code, tmp_path)


def test_what_is_missing_is_told(tmp_path):
    """A module or name that the shim lacks is an ImportError that says so; hasattr is simply False."""
    code = """
    from emq_compat import celery_shim
    celery_shim.install()
    import celery
    for statement in ("import celery.no", "from celery import no", "from celery.states import no"):
        try:
            exec(statement)
        except ImportError as exc:
            print(type(exc).__name__, exc)
    print(hasattr(celery, "no"), getattr(celery.states, "no", 5))
    """
    lines = python(code, tmp_path).splitlines()
    lacks = "the shim lacks it (docs/compatibility.md)"
    assert [
        "ModuleNotFoundError No module named 'celery.no': emq-compat's shim lacks it (docs/compatibility.md)",
        f"ImportError emq-compat's celery has no 'no': {lacks}",
        f"ImportError emq-compat's celery.states has no 'no': {lacks}",
        "False 5",
    ] == lines


def test_an_installed_celery_stays(tmp_path):
    """A celery that can be imported is left alone, unless force=True."""
    (tmp_path / "celery.py").write_text("genuine = 1\n")
    assert "False\n1" == python(f"{SHIM_FIRST}import celery; print(celery.genuine)", tmp_path)
    forced = "from emq_compat import celery_shim as c; print(c.install(force=True)); import celery;"
    assert "True\nTrue" == python(f"{forced}print(celery.Celery is c.Celery)", tmp_path)


def test_a_folder_named_celery_is_no_celery(tmp_path):
    """A folder of configuration named celery doesn't count as an installed Celery."""
    (tmp_path / "celery").mkdir()
    assert "True\nshim" == python(f"{SHIM_FIRST}import celery; print('shim')", tmp_path)


def test_an_imported_celery_cannot_be_replaced(tmp_path):
    """force=True after an import of another celery is an error that names its modules."""
    (tmp_path / "celery.py").write_text("genuine = 1\n")
    code = """
    import celery
    from emq_compat import celery_shim, errors
    assert celery_shim.install() is False
    try:
        celery_shim.install(force=True)
    except errors.ConfigurationError as exc:
        print(exc)
    """
    expected = "install(force=True) must come before the first import of celery; imported: celery"
    assert expected == python(code, tmp_path)


def test_billiard_is_aliased_only_where_it_is_missing(tmp_path):
    """``billiard.exceptions`` can be imported without billiard; one that is there is left alone."""
    code = f"{SHIM_FIRST}import billiard.exceptions as b; print(b.SoftTimeLimitExceeded.__module__)"
    assert "True\nemq_compat.shim.exceptions" == python(code, tmp_path)
    (tmp_path / "billiard").mkdir()
    (tmp_path / "billiard" / "__init__.py").touch()
    (tmp_path / "billiard" / "exceptions.py").write_text("class SoftTimeLimitExceeded(Exception): pass\n")
    assert "True\nbilliard.exceptions" == python(code, tmp_path)


def test_the_command_installs_it_by_itself(tmp_path):
    """``-A`` names a module that imports celery, which isn't installed: the command finds the app."""
    (tmp_path / "proj.py").write_text(
        "from celery import Celery\n\napp = Celery('proj')\n\n\n@app.task\ndef add(x, y):\n    return x + y\n"
    )
    report = python("from emq_compat.cli.main import main; main(['-A', 'proj', 'report'])", tmp_path)
    assert "proj" in report
    rebuilt = "from emq_compat.shim.program import rebuild; print(rebuild('proj', 'a@b').name)"
    assert "proj" == python(rebuilt, tmp_path)
