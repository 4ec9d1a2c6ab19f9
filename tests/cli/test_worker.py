"""``emq-compat worker`` as Celery's users call it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from emq_compat.cli.node_name import file_name, node_name
from emq_compat.client import Client
from tests.processes import Procs, wait_until
from tests.site import NAME, Site, open_site

pytestmark = pytest.mark.integration


@pytest.fixture
def site(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> Iterator[Site]:
    """A project, its broker and workers (tests/site.py)."""
    with open_site(tmp_path, procs, free_port) as made:
        yield made


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (None, "celery@box.example.org"),
        ("w1", "w1@box.example.org"),
        ("w1@%h", "w1@box.example.org"),
        ("w1@%n", "w1@box"),
        ("w1.%d@%n", "w1.example.org@box"),
        ("@elsewhere", "celery@elsewhere"),
        ("%h", "box.example.org"),
        ("100%%@%n", "100%@box"),
        ("%x@%n", "%x@box"),
        ("my wörker@%n", "my_w_rker@box"),
    ],
)
def test_node_names(written: str | None, name: str) -> None:
    """-n takes Celery's placeholders; without @ the host is added."""
    assert name == node_name(written, "box.example.org")


def test_file_names() -> None:
    """In file names %n and %h are the parts of the worker's name; %i stands for one file of all children."""
    assert "/log/w1-box.example.org.log" == file_name("/log/%n-%h%I.log", "w1@box.example.org")
    assert "w1@box-0" == file_name("%p-%i", "w1@box")


def test_the_banner(site: Site) -> None:
    """A worker tells its app, broker, queues and tasks, then that it is ready."""
    site.start_broker()
    worker = site.start_worker("-Q", "mail,celery", "-n", "w1@%h", "-P", "threads", "-l", "warning")
    shown = worker.output()
    for line in (
        r"emq-compat \S+, worker w1@\S+, process \d+",
        rf"  app +{NAME}",
        r"  broker +emq://127.0.0.1:\d+",
        r"  queues +mail, celery",
        r"  pool +threads, 2 at once",
        rf"  tasks +{NAME}.empty",
        rf"   +{NAME}.ping",
        r"w1@\S+ is ready, connected to tcp://",
    ):
        assert re.search(f"^{line}", shown, re.M), line


@pytest.mark.parametrize("written", [NAME, f"{NAME}:app", f"{NAME}.app"])
def test_celerys_order(site: Site, written: str) -> None:
    """``-A`` and ``-b`` may stand before the subcommand."""
    site.start_broker()
    site.procs.emq(
        "-A", written, "-b", site.url, "worker", "-c", "1", cwd=site.folder, ready="is ready", timeout_s=60
    )
    assert "x" == site.tasks.ping.delay("x").get(timeout=10)


def test_queues(site: Site) -> None:
    """-Q names queues, -X leaves some of the app's out; others' messages wait."""
    site.write_project(
        "\nfrom kombu import Queue\napp.conf.task_queues = [Queue('a'), Queue('b'), Queue('c')]\n"
    )
    site.start_broker()
    site.start_worker("-X", "b")
    for queue in ("a", "b", "c"):
        site.tasks.ping.apply_async((queue,), queue=queue)
    site.wait_runs("ping", 2)
    assert 1 == site.queue("b")["waiting"]
    site.start_worker("-Q", "b")
    site.wait_runs("ping b")


def test_settings_of_the_app_are_defaults(site: Site) -> None:
    """worker_concurrency, worker_pool and task_time_limit count where the command line says nothing."""
    site.write_project(
        "\napp.conf.update(worker_concurrency=3, worker_pool='threads', task_time_limit=1,"
        " task_default_queue='mine')\n"
    )
    site.start_broker()
    worker = site.procs.emq("worker", "-A", NAME, cwd=site.folder, ready="is ready", timeout_s=60)
    assert "threads, 3 at once" in worker.output()
    assert "queues  mine" in worker.output()
    result = site.tasks.sleep.delay(30, "long")
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        result.get(timeout=15)


def test_options_win_over_settings(site: Site) -> None:
    """--time-limit, --max-tasks-per-child, -P and -I say more than the app."""
    site.write_project("\napp.conf.update(worker_pool='threads', task_time_limit=100)\n")
    (site.folder / "more.py").write_text(
        f"from {NAME} import app\n\n@app.task\ndef extra():\n    return 'extra'\n"
    )
    site.start_broker()
    site.start_worker(
        "-P", "prefork", "--time-limit", "1", "--max-tasks-per-child", "1", "-c", "1", "-I", "more"
    )
    pids = {site.tasks.whereabouts.delay().get(timeout=15)[0] for _ in range(2)}
    assert 2 == len(pids)
    assert "extra" == site.tasks.app.send_task("more.extra").get(timeout=15)
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        site.tasks.sleep.delay(30, "long").get(timeout=15)


def test_spawned_children_have_the_options(site: Site) -> None:
    """With worker_pool_start_method spawn, children know -b, -I and -n as well."""
    site.write_project(
        "\napp.conf.update(worker_pool_start_method='spawn', broker_url='emq://127.0.0.1:1')\n"
        "@app.task(bind=True)\ndef told(self):\n    return [app.conf.broker_url, self.request.hostname]\n"
    )
    (site.folder / "more.py").write_text(
        f"from {NAME} import app\n\n@app.task\ndef extra():\n    return 'extra'\n"
    )
    site.start_broker()
    site.start_worker("-b", site.url, "-I", "more", "-n", "w1@x", "-c", "1")
    site.tasks.app.conf.broker_url = site.url
    assert [site.url, "w1@x"] == site.tasks.told.delay().get(timeout=15)
    assert "extra" == site.tasks.app.send_task("more.extra").get(timeout=15)


def test_the_brokers_address_comes_from_the_environment(site: Site) -> None:
    """EMQ_BROKER_ADDR counts where neither -b nor the app names a broker."""
    module = site.folder / f"{NAME}.py"
    module.write_text(module.read_text().replace(f", broker={site.url!r}", ""))
    site.start_broker()
    site.start_worker(env={"EMQ_BROKER_ADDR": site.url})


def test_hostname_is_seen_by_tasks(site: Site) -> None:
    """Tasks see the worker's name."""
    site.start_broker()
    site.start_worker("-n", "w7@%n", "-P", "solo")
    assert site.tasks.whereabouts.delay().get(timeout=10)[1].startswith("w7@")


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_task_prints_never_fails_it(site: Site, pool: str) -> None:
    """Where standard output is ASCII, a task's print() escapes what that can't hold."""
    site.write_project("\n@app.task\ndef shout():\n    print('snow \\u2603', flush=True)\n    return 1\n")
    site.start_broker()
    worker = site.start_worker("-P", pool, env={"PYTHONIOENCODING": "ascii:strict"})
    assert 1 == site.tasks.shout.delay().get(timeout=10)
    worker.wait_line("snow \\u2603")
    assert "Logging error" not in worker.output()


def test_solo_is_one_at_a_time(site: Site) -> None:
    """-c has no effect on the solo pool: the banner says what is so, and a warning why."""
    site.start_broker()
    shown = site.start_worker("-P", "solo", "-c", "4").output()
    assert re.search(r"^  pool +solo, 1 at once$", shown, re.M)
    assert "the solo pool runs one task at a time: -c 4 has no effect" in shown


def test_accepted_without_effect(site: Site) -> None:
    """What other brokers need is accepted."""
    site.start_broker()
    site.start_worker(
        "--without-gossip", "--without-mingle", "--without-heartbeat", "-O", "fair", "-E", "-S", "state",
        "--heartbeat-interval", "5", "--prefetch-multiplier", "1", "-P", "threads",
    )  # fmt: skip
    assert "x" == site.tasks.ping.delay("x").get(timeout=10)


@pytest.mark.parametrize(
    ("module", "argv", "message"),
    [
        ("", ("-A", "nowhere"), "there is no module 'nowhere'"),
        ("x = 1", ("-A", "proj2"), "no Celery app in the module proj2"),
        (
            "import missing_library",
            ("-A", "proj2"),
            "importing proj2 failed: No module named 'missing_library'",
        ),
        ("1/0", ("-A", "proj2"), "importing proj2 failed: ZeroDivisionError"),
        (f"from {NAME} import app\n1/0", ("-A", NAME, "-I", "proj2"), "/proj2.py, line 2)"),
        ("def (:", ("-A", NAME, "-I", "proj2"), "/proj2.py, line 1)"),
        ("", ("-A", NAME, "-b", "nonsense"), "nonsense"),
        ("", ("-A", NAME, "-P", "gevent"), "there is no gevent pool"),
        ("", ("-A", NAME, "-P", "fibers"), "the pool 'fibers' is unknown; known: prefork"),
        ("", ("-A", NAME, "-I", "missing_module"), "missing_module"),
        (
            f"from {NAME} import app\napp.conf.worker_concurrency = 'two'",
            ("-A", NAME, "-I", "proj2"),
            "setting worker_concurrency is 'two'; a number is expected",
        ),
        (
            f"from {NAME} import app\napp.conf.task_queues = ['a', 5]",
            ("-A", NAME, "-I", "proj2"),
            "task_queues: 5 is no queue; a name or a kombu Queue is expected",
        ),
        (f"from {NAME} import app\napp.conf.imports = 5", ("-A", "proj2"), "setting imports is 5; a list"),
        ("", ("-A", NAME, "-f", "/nonexistent/worker.log"), "the log file /nonexistent/worker.log"),
        ("", ("-A", NAME, "--pidfile", "/nonexistent/pid"), "the pid file /nonexistent/pid"),
    ],
)
def test_errors_are_one_line(site: Site, module: str, argv: tuple[str, ...], message: str) -> None:
    """What is wrong at the start is one line and exit status 1; a traceback has the project's frames only."""
    (site.folder / "proj2.py").write_text(module)
    plain = site.procs.emq("worker", *argv, cwd=site.folder)
    assert 1 == plain.wait(30)
    *trace, line = plain.output().splitlines()
    assert not trace or "proj2.py" in trace[1]
    assert line.startswith("Error: ")
    assert message in line
    debug = site.procs.emq("worker", "-l", "debug", *argv, cwd=site.folder)
    assert 1 == debug.wait(30)
    assert "Traceback" in debug.output()


def test_log_and_pid_file(site: Site) -> None:
    """-f takes the log, --pidfile the pid: a second worker with it refuses, a stale one is replaced."""
    (site.folder / "w.pid").write_text("999999\n")
    site.start_broker()
    worker = site.start_worker("-n", "w1@%h", "-f", "%n.log", "--pidfile", "w.pid")
    assert str(worker.pid) == (site.folder / "w.pid").read_text().strip()
    site.tasks.ping.delay("x").get(timeout=10)
    wait_until(lambda: "succeeded" in (site.folder / "w1.log").read_text())
    assert "emq-child-" in (site.folder / "w1.log").read_text()

    second = site.start_worker("--pidfile", "w.pid", ready=None)
    assert 1 == second.wait(30)
    assert f"process {worker.pid} runs already" in second.output()

    assert 0 == worker.stop()
    assert not (site.folder / "w.pid").exists()


def test_in_the_background(site: Site) -> None:
    """-D returns once the worker has started, which goes on by itself."""
    site.start_broker()
    front = site.start_worker("-D", "-f", "w.log", "--pidfile", "w.pid", ready=None)
    assert 0 == front.wait(30)
    assert "app " in front.output()
    worker = psutil.Process(int((site.folder / "w.pid").read_text()))
    assert "x" == site.tasks.ping.delay("x").get(timeout=15)
    assert os.getsid(worker.pid) == worker.pid
    worker.terminate()
    worker.wait(20)
    assert "is ready" in (site.folder / "w.log").read_text()


def test_a_failed_start_in_the_background(site: Site) -> None:
    """-D tells in the foreground why the worker did not start."""
    front = site.procs.emq("worker", "-A", "nowhere", "-D", cwd=site.folder)
    assert 1 == front.wait(30)
    assert "there is no module 'nowhere'" in front.output()


def test_an_embedded_broker(site: Site) -> None:
    """--embed-broker starts a broker on a folder and ends it after the worker; its journal stays."""
    worker = site.start_worker("--embed-broker", "journal")
    assert "x" == site.tasks.ping.delay("x").get(timeout=10)
    site.tasks.ping.apply_async(("later",), countdown=3600)
    assert 0 == worker.stop()
    site.procs.assert_none_left_of(worker)

    site.start_worker("--embed-broker", "journal")
    with Client(site.url) as client:
        [row] = client.ask("queues")
    assert 1 == row["delayed"]


def test_an_embedded_broker_that_ends(site: Site) -> None:
    """When the embedded broker is gone, its worker ends, too, with a message and exit status 1."""
    worker = site.start_worker("--embed-broker", "journal")
    [broker] = [child for child in worker.children() if "broker" in child.cmdline()]
    broker.kill()
    assert 1 == worker.wait(30)
    assert "the embedded broker has ended" in worker.output()


def test_an_embedded_broker_ends_with_a_killed_worker(site: Site) -> None:
    """A worker that is killed leaves no broker behind."""
    worker = site.start_worker("--embed-broker", "journal")
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    site.procs.assert_none_left_of(worker, 10)


def test_an_address_in_use(site: Site) -> None:
    """--embed-broker refuses where a broker listens already."""
    site.start_broker()
    worker = site.start_worker("--embed-broker", "journal", ready=None)
    assert 1 == worker.wait(30)
    assert "somebody listens at" in worker.output()
