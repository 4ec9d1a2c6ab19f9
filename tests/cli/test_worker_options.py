"""Options of the worker beyond those of every day: scaling, privileges, settings on the command line."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

import emq_compat
from emq_compat.cli import privileges
from emq_compat.cli.main import cli
from emq_compat.client import Client
from emq_compat.errors import ConfigurationError
from tests.processes import Proc, Procs, unused_port, wait_until
from tests.site import NAME, Site, open_site

MORE = """
from click import Option
from emq_compat.manager.autoscale import Autoscaler
from emq_compat.shim.surface.bootsteps import Step

app.conf.worker_pool_restarts = True
app.user_options["worker"].add(Option(("--site-name",), default="nowhere"))


class Own(Autoscaler):
    def scale_up(self, n):
        note(f"own {n}")
        super().scale_up(n)


class Told(Step):
    def __init__(self, worker, site_name, **options):
        note(f"site {site_name}")


app.steps["worker"].add(Told)


@app.task
def settings(*names):
    return [app.conf[name] for name in names]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A broker for the module."""
    folder = tmp_path_factory.mktemp("options")
    (folder / "procs").mkdir()
    procs = Procs(folder / "procs")
    try:
        with open_site(folder, procs, unused_port) as site:
            site.write_project(MORE)
            site.start_broker()
            yield site
    finally:
        procs.close()


def end(worker: Proc) -> None:
    """End a worker, warm."""
    assert 0 == worker.stop()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--autoscale", "3,a"), "'3,a' is not MAX,MIN"),
        (("--autoscale", "0"), "'0' is not MAX,MIN"),
        (("--autoscale", "1,2,3"), "'1,2,3' is not MAX,MIN"),
        (("--autoscale", "-1,2"), "'-1,2' is not MAX,MIN"),
        (("-c", "half"), "'half' is not a valid integer"),
        (("--pool-start-method", "forkserver"), "'forkserver' is not one of 'fork', 'spawn'"),
        (("--umask", "99"), "--umask takes an octal number such as 022, not '99'"),
        (("--uid", "no-such-user"), "--uid: there is no user 'no-such-user'"),
        (("--gid", "no-such-group"), "--gid: there is no group 'no-such-group'"),
        (("-D", "--executable", "/no/such/python"), "/no/such/python can't be executed"),
    ],
)
def test_wrong_options(argv: tuple[str, ...], message: str) -> None:
    """What is wrong is told in one message, before anything has started."""
    result = CliRunner().invoke(cli, ["worker", "-A", "proj", *argv])
    assert result.exit_code in (1, 2)
    assert message in result.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("-P", "solo", "--autoscale", "3"), "--autoscale: the solo pool runs one task at a time"),
        (
            ("--autoscale", "2", "worker_autoscaler=os:path"),
            "is no subclass of celery.worker.autoscale",
        ),
        (("--autoscale", "2", "worker_autoscaler=no.such:One"), "'no.such:One' can't be imported"),
        (("task_acks_late",), "behind -- stand settings: 'task_acks_late' is no name=value"),
        (("task_acks_late=maybe",), "task_acks_late: 'maybe' is neither true nor false"),
    ],
)
def test_what_the_app_makes_wrong(running: Site, argv: tuple[str, ...], message: str) -> None:
    """What only the app's settings show to be wrong is one message, too."""
    worker = running.start_worker(*argv, ready=None)
    assert worker.wait(30) in (1, 2)
    assert message in worker.output()
    assert "Traceback" not in worker.output()


@pytest.mark.integration
@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_a_worker_scales_itself(running: Site, pool: str) -> None:
    """--autoscale grows while tasks wait, and shrinks once nothing has grown for AUTOSCALE_KEEPALIVE."""
    worker = running.start_worker(
        "-P", pool, "--autoscale", "4,1", "-n", "scales@h", "worker_autoscaler=siteproj:Own",
        env={**os.environ, "AUTOSCALE_KEEPALIVE": "0.5"},
    )  # fmt: skip
    control = running.tasks.app.control

    def scaler() -> dict[str, int]:
        return dict(control.inspect(["scales@h"], timeout=5).stats()["scales@h"]["autoscaler"])

    def known() -> list[int]:
        """The slots of it that the broker counts with."""
        with Client(running.url) as client:
            return [row["slots"] for row in client.ask("workers") if row["name"].startswith("scales@h.")]

    assert {"max": 4, "min": 1, "current": 1, "qty": 0} == scaler()
    assert [4] == known()
    sleeping = [running.tasks.sleep.delay(2, pool) for _ in range(4)]
    running.wait_runs(f"start {pool}", 4)
    assert {"max": 4, "min": 1, "current": 4, "qty": 4} == scaler()
    (refused,) = control.pool_grow(1, destination=["scales@h"], reply=True, timeout=5)
    assert "this worker scales itself" in refused["scales@h"]["error"]
    assert [pool] * 4 == [one.get(timeout=20) for one in sleeping]
    wait_until(lambda: 1 == scaler()["current"], what="the worker has shrunk")
    assert 0 < running.count("own")
    told = control.autoscale(6, 2, destination=["scales@h"], reply=True, timeout=5)
    assert [{"scales@h": {"ok": "autoscale now max=6 min=2"}}] == told
    assert {"max": 6, "min": 2, "current": 2, "qty": 0} == scaler()
    wait_until(lambda: [6] == known(), what="the broker knows how much it may run")
    end(worker)


@pytest.mark.integration
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_pool_is_restarted(running: Site, pool: str) -> None:
    """pool_restart replaces what is idle now and what is busy later, and no task notices."""
    worker = running.start_worker("-P", pool, "-c", "2", "-n", "renews@h")
    tasks = running.tasks
    control = tasks.app.control
    busy = tasks.sleep.delay(1.5, f"renew {pool}")
    running.wait_runs(f"start renew {pool}")
    before = control.inspect(["renews@h"], timeout=5).stats()["renews@h"]["pool"]
    assert [{"renews@h": {"ok": "reload started"}}] == control.pool_restart(
        destination=["renews@h"], reply=True, timeout=5
    )
    assert "ping" == tasks.ping.delay("ping").get(timeout=20)
    assert f"renew {pool}" == busy.get(timeout=20)

    def processes() -> list[int]:
        pool = control.inspect(["renews@h"], timeout=5).stats()["renews@h"]["pool"]
        assert 2 == pool["max-concurrency"]
        return list(pool["processes"])

    if pool == "prefork":
        wait_until(lambda: not set(before["processes"]) & set(processes()))
    end(worker)


@pytest.mark.integration
def test_a_worker_starts_again_with_more_modules(running: Site) -> None:
    """pool_restart with modules has the worker start again, after what runs, and know their tasks."""
    (running.folder / "further.py").write_text(
        f"from {NAME} import app\n\n\n@app.task\ndef added():\n    return 'added'\n"
    )
    worker = running.start_worker("-P", "threads", "-n", "again@h")
    tasks = running.tasks
    runs = tasks.sleep.delay(1, "before")
    running.wait_runs("start before")
    tasks.app.control.pool_restart(["further"], destination=["again@h"], reply=True, timeout=5)
    assert "before" == runs.get(timeout=20)
    assert "added" == tasks.app.send_task("further.added").get(timeout=30)
    worker.wait_line("is ready", count=2)
    end(worker)


@pytest.mark.integration
def test_purge_drops_what_waits_for_this_worker(running: Site) -> None:
    """--purge empties the queues that the worker listens on before it takes a task, and no others."""
    ping = running.tasks.ping
    for _ in range(3):
        ping.apply_async(("purged",), queue="doomed")
    ping.apply_async(("later",), queue="doomed", countdown=3600)
    ping.apply_async(("kept",), queue="spared")
    worker = running.start_worker("--purge", "-Q", "doomed", "-P", "threads", "-n", "purges@h")
    worker.wait_line("--purge: dropped 4 messages")
    assert "next" == ping.apply_async(("next",), queue="doomed").get(timeout=20)
    assert [0, 1] == [running.count("ping purged"), running.queue("spared")["waiting"]]
    end(worker)


@pytest.mark.integration
def test_settings_behind_two_dashes(running: Site) -> None:
    """name=value behind -- are settings, in the processes of tasks, too; -- .name are the worker's."""
    names = ("task_acks_late", "worker_max_tasks_per_child", "worker_log_color")
    for method in ("fork", "spawn"):
        worker = running.start_worker(
            "-c", "1", "-n", "set@h", "-l", "info", "-Q", method, "--pool-start-method", method,
            "--disable-prefetch", "--statedb=x", "--heartbeat-interval=5", "--site-name", method,
            "--", "task_acks_late=yes", ".max_tasks_per_child=7", "worker.log_color=off",
        )  # fmt: skip
        result = running.tasks.settings.apply_async(names, queue=method)
        assert [True, 7, False] == result.get(timeout=30)
        assert 1 == running.count(f"site {method}")
        end(worker)


@pytest.mark.unit
def test_umask_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A umask is octal; becoming who one is already does nothing; one who may not is told so."""
    before = os.umask(0o022)
    try:
        privileges.set_umask("0137")
        assert 0o137 == os.umask(0o022)
        privileges.set_umask(None)
        assert 0o022 == os.umask(0o022)
    finally:
        os.umask(before)
    privileges.become(None, None)
    privileges.become_as_written(["-A", "proj", "--", "--uid", "no-such-user"])
    privileges.become(str(os.getuid()), str(os.getgid()))

    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "initgroups", refuse)
    monkeypatch.setattr(os, "setgroups", refuse)
    with pytest.raises(
        ConfigurationError, match=r"may not become user .*: Operation not permitted; only root"
    ):
        privileges.become("nobody" if os.getuid() == 0 else "root", None)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter and write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def _python_for_nobody() -> tuple[str, dict[str, str]]:
    """An interpreter that the user nobody may run, and the environment in which it finds this package."""
    path = os.pathsep.join([str(Path(emq_compat.__file__).parents[1]), *filter(None, sys.path)])
    env = {**os.environ, "PYTHONPATH": path}
    if os.getuid() == 0:
        for python in (sys.executable, f"/usr/bin/python3.{sys.version_info[1]}"):
            argv = [python, "-c", "import emq_compat.cli.worker"]
            try:
                done = subprocess.run(argv, user="nobody", cwd="/", env=env, capture_output=True, check=False)
            except OSError:
                continue
            if done.returncode == 0:
                return python, env
    pytest.skip("only root may become another user, who must be able to run this Python")


@pytest.mark.integration
def test_privileges_are_dropped(running: Site, open_folder: Path) -> None:
    """-D with --uid, --umask, --executable runs as that user, under that Python; its files have that mode."""
    python, env = _python_for_nobody()
    runs = open_folder / "runs"
    text = (running.folder / f"{NAME}.py").read_text()
    (open_folder / f"{NAME}.py").write_text(
        text.replace(str(running.folder / "runs"), str(runs)) + '\nnote(f"imported by {os.geteuid()}")\n'
    )
    told = running.procs.emq(
        "worker", "-A", NAME, "-c", "1", "-n", "nobody@h", "-Q", "nobodys", "-D", "--uid", "nobody",
        "--umask", "027", "--pidfile", "w.pid", "--logfile", "w.log", "-l", "info", "--executable", python,
        cwd=open_folder, env=env,
    )  # fmt: skip
    assert 0 == told.wait(60), told.output()
    worker = psutil.Process(int((open_folder / "w.pid").read_text()))
    try:
        result = running.tasks.ping.apply_async(("x",), queue="nobodys")
        assert "x" == result.get(timeout=20)
        family = [worker, *worker.children(recursive=True)]
        assert {"nobody"} == {process.username() for process in family}
        assert 0 not in worker.gids()
        assert os.path.realpath(python) == os.path.realpath(worker.exe())
        assert ["-rw-------", "-rw-r-----"] == [_mode(runs), _mode(open_folder / "w.log")]
        assert "nobody" == runs.owner()
        lines = runs.read_text().splitlines()
        assert {f"imported by {worker.uids().effective}"} == {one for one in lines if "imported" in one}
    finally:
        worker.terminate()
        worker.wait(20)


def _mode(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)
