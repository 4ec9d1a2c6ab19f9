"""Commands that read files only: logtool and upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from emq_compat.cli.logtool import Audit
from emq_compat.cli.main import cli
from emq_compat.cli.upgrade import renamed

pytestmark = pytest.mark.unit

LOG = """\
[2026-11-25 10:00:00,001: INFO/MainProcess] Connected
[2026-11-25 10:00:01,001: INFO/MainProcess] Task proj.add[a-1] received
[2026-11-25 10:00:01,002: INFO/MainProcess] Task proj.add[a-2] received
[2026-11-25 10:00:01,003: INFO/MainProcess] Task proj.fail[f-1] received
[2026-11-25 10:00:01,004: INFO/MainProcess] Received task: proj.old[o-1]
[2026-11-25 10:00:01,005: INFO/worker-1] Task proj.add[a-1] succeeded in 0.000021s: 3
[2026-11-25 10:00:01,006: INFO/worker-1] Task proj.add[a-2] retry: Retry in 3s
[2026-11-25 10:00:01,007: ERROR/worker-2] Task proj.fail[f-1] raised unexpected: ValueError: no
Traceback (most recent call last):
  File "proj.py", line 5, in fail
ValueError: no
[2026-11-25 10:00:01,008: WARNING/worker-1] said by a task
"""


def run(*argv: str, stdin: str | None = None) -> str:
    """What `emq-compat ARGV` prints."""
    result = CliRunner().invoke(cli, argv, input=stdin)
    assert 0 == result.exit_code, result.output
    return result.stdout


def test_logtool(tmp_path: Path) -> None:
    """A log's tasks are counted, and those that failed or have not ended are shown; retries have not."""
    file = tmp_path / "worker.log"
    file.write_text(LOG)
    stats = run("logtool", "stats", str(file))
    assert "Task total: 4\nTask errors: 1\nTask success: 1\nTask completed: 2\n" in stats
    assert ["proj.add", "2"] in [line.split() for line in stats.splitlines()]
    assert [LOG.splitlines()[7]] == run("logtool", "errors", stdin=LOG).splitlines()
    assert LOG.splitlines()[7:11] == run("logtool", "traces", str(file)).splitlines()
    assert "Did not complete: a-2\nDid not complete: o-1\n" == run("logtool", "incomplete", str(file))
    assert [LOG.splitlines()[0], LOG.splitlines()[11]] == run("logtool", "debug", stdin=LOG).splitlines()


def test_a_log_may_begin_anywhere() -> None:
    """Lines before the first record are a trace of nothing, blank ones are none."""
    audit = Audit().read(["  File x\n", "\n", *LOG.splitlines(keepends=True)[:1], "\n"])
    assert ["  File x\n"] == audit.traces
    assert {} == audit.received


BEFORE = """\
# CELERY_ACKS_LATE stays here
BROKER_URL = "emq://CELERY_ACKS_LATE"  # and here
CELERY_ACKS_LATE=True
app.conf["CELERYD_CONCURRENCY"] = 4
app.conf.update(CELERY_RESULT_BACKEND='x', task_routes={})
MY_CELERY_ACKS_LATE = f(CELERY_ACKS_LATE, "é")
"""
AFTER = """\
# CELERY_ACKS_LATE stays here
broker_url = "emq://CELERY_ACKS_LATE"  # and here
task_acks_late=True
app.conf["worker_concurrency"] = 4
app.conf.update(result_backend='x', task_routes={})
MY_CELERY_ACKS_LATE = f(task_acks_late, "é")
"""


def test_settings_get_their_new_names(tmp_path: Path) -> None:
    """Only what is exactly an old name is changed; a copy of the file as it was stays beside it."""
    file = tmp_path / "celeryconfig.py"
    file.write_text(BEFORE)
    shown = run("upgrade", "settings", str(file), "--dry-run").splitlines()
    assert {"-CELERY_ACKS_LATE=True", "+task_acks_late=True"} < set(shown)
    assert BEFORE == file.read_text()
    assert "5 names changed" in run("upgrade", "settings", str(file))
    assert [AFTER, BEFORE] == [path.read_text() for path in (file, tmp_path / "celeryconfig.py.orig")]
    assert f"{file} needs no changes.\n" == run("upgrade", "settings", str(file))


def test_settings_of_a_django_project(tmp_path: Path) -> None:
    """With --django the new names stand in capitals behind CELERY_, and line ends stay as they are."""
    assert ("CELERY_BROKER_URL = 1\r\nCELERY_TASK_ACKS_LATE = 2\r\n", 2) == renamed(
        "BROKER_URL = 1\r\nCELERY_ACKS_LATE = 2\r\n", namespaced=True
    )
    assert ("CELERY_RESULT_BACKEND = 1\n", 0) == renamed("CELERY_RESULT_BACKEND = 1\n", namespaced=True)
    file = tmp_path / "settings.py"
    file.write_bytes(b"BROKER_URL = 1\r\n")
    run("upgrade", "settings", str(file), "--django", "--no-backup")
    assert [b"CELERY_BROKER_URL = 1\r\n"] == [path.read_bytes() for path in tmp_path.iterdir()]


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    """What can't be read as Python is left alone, with one message."""
    file = tmp_path / "broken.py"
    file.write_text("BROKER_URL = (\n")
    result = CliRunner().invoke(cli, ["upgrade", "settings", str(file)])
    assert 1 == result.exit_code
    assert "is no Python file" in result.stderr
