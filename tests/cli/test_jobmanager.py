"""``emq-compat jobmanager`` as eventmq's users call it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emq_compat.client import Client
from emq_compat.message import Headers, Job, Publish, new_id
from tests.processes import Proc, Procs, wait_until
from tests.site import Site, open_site

pytestmark = pytest.mark.integration

FUNCTIONS = """
import os, time

def note(line):
    with open({runs!r}, "a") as file:
        file.write(line + "\\n")
    return line

def slow(seconds, mark="slow"):
    note(f"start {{mark}}")
    time.sleep(seconds)
    return note(f"end {{mark}}")

def flaky(file):
    note("flaky")
    if not os.path.exists(file):
        open(file, "w").close()
        raise ValueError("the first time")
    return "second"

def fails():
    note("fails")
    raise ValueError("always")

def entry():
    note("entry")

def leave():
    note("exit")

def setup():
    note("setup")

class Greeter:
    def __init__(self, greeting="hello"):
        self.greeting = greeting

    def greet(self, name):
        return f"{{self.greeting}} {{name}}"
"""


@pytest.fixture
def site(tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> Iterator[Site]:
    """A folder with functions, its broker and job managers."""
    with open_site(tmp_path, procs, free_port) as made:
        (made.folder / "functions.py").write_text(FUNCTIONS.format(runs=str(made.folder / "runs")))
        (made.folder / "eventmq.conf").write_text("")
        yield made


def start(site: Site, *options: str, ready: str | None = "connected to", **env: str) -> Proc:
    """Start a job manager of the site's functions."""
    argv = ["jobmanager", "--allow", "functions.*", "--config", "eventmq.conf", *options]
    if "-b" not in options and "EVENTMQ_WORKER_ADDR" not in env:
        argv += ["-b", site.url]
    return site.procs.emq(*argv, cwd=site.folder, env=env, ready=ready, timeout_s=60)


def publish(
    client: Client, name: str, *args: Any, queue: str = "default", path: str = "functions", **options: Any
) -> str:
    """Publish a job; returns its task id, under which its result is kept."""
    init = {key: options.pop(key) for key in ("class_args", "class_kwargs") if key in options}
    task_id = new_id()
    headers = Headers(guarantee=True, task_id=task_id, **options)
    payload = Job(path=path, callable=name, args=args, **init).encode()
    client.publish(Publish(queue=queue, headers=headers, payload=payload))
    return task_id


def result(client: Client, task_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
    """Wait for a result's JSON document."""
    return dict(client.wait([task_id], timeout_s))[task_id].reply


def test_functions_and_methods_run(site: Site) -> None:
    """Functions, and methods of classes that are made for the job, run if they are allowed."""
    site.start_broker()
    start(site, "-c", "2")
    assert "x" == result(site.client, publish(site.client, "note", "x"))["value"]
    greeted = publish(site.client, "greet", "you", path="functions:Greeter", class_args=("hi",))
    assert "hi you" == result(site.client, greeted)["value"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("os", "system"), ("functions", "os"), ("functions.os", "system"), ("subprocess", "run")],
)
def test_nothing_else_runs(site: Site, path: str, name: str) -> None:
    """What isn't allowed is refused, whatever way it is named."""
    site.start_broker("--memory")
    start(site, "-P", "threads")
    refused = result(site.client, publish(site.client, name, "true", path=path))
    assert refused["error"]["type"] in ("NotAllowed", "NotResolved", "ModuleNotFoundError")
    assert "FAILURE" == refused["state"]


def test_headers_of_eventmq(site: Site) -> None:
    """timeout:N cuts a job off; retry-count:N tries one that raises again, N times at most."""
    site.start_broker()
    start(site, "-c", "2")
    cut = publish(site.client, "slow", 60, timeout=1)
    second = publish(site.client, "flaky", str(site.folder / "seen"), retry_count=1)
    always = publish(site.client, "fails", retry_count=2)
    assert "second" == result(site.client, second)["value"]
    assert "ValueError" == result(site.client, always)["error"]["type"]
    assert "TimeoutError" == result(site.client, cut)["value"]
    assert (2, 3) == (site.count("flaky"), site.count("fails"))


def test_settings_from_file_and_environment(site: Site) -> None:
    """Queues, slots, and the functions at start, entry and exit come from eventmq's settings."""
    (site.folder / "eventmq.conf").write_text(
        "[global]\nsubprocess_setup_func = functions.setup\nconcurrent_jobs = 9\n"
        '[jobmanager]\nqueues = [[20, "mail"], [10, "default"]]\njob_entry_func = functions.entry\n'
    )
    site.start_broker()
    backend = f"tcp://127.0.0.1:{site.ports['backend']}"
    start(
        site,
        EVENTMQ_CONCURRENT_JOBS="1",
        EVENTMQ_WORKER_ADDR=backend,
        EVENTMQ_JOB_EXIT_FUNC="functions.leave",
    )
    result(site.client, publish(site.client, "note", "x", queue="mail"))
    site.wait_runs("exit")
    assert ["setup", "entry", "x", "exit"] == site.runs()
    [row] = site.client.ask("workers")
    assert (["mail", "default"], 1) == (row["queues"], row["slots"])


def test_emq_broker_addr(site: Site) -> None:
    """EMQ_BROKER_ADDR counts where neither -b nor the settings name a broker."""
    site.start_broker("--memory")
    argv = ("jobmanager", "--allow", "functions.*", "-P", "threads", "--config", "eventmq.conf")
    env = {"EMQ_BROKER_ADDR": site.url}
    site.procs.emq(*argv, cwd=site.folder, env=env, ready="connected to", timeout_s=60)


def test_hup_reloads_and_usr1_dumps(site: Site) -> None:
    """HUP takes new queues and slots over while jobs run; USR1 shows where the children stand."""
    site.start_broker()
    manager = start(site, EVENTMQ_CONCURRENT_JOBS="1")
    first = publish(site.client, "slow", 2, "first")
    site.wait_runs("start first")
    manager.send_signal(signal.SIGUSR1)
    manager.wait_line("where the jobs stand")
    manager.wait_line("in slow")

    (site.folder / "eventmq.conf").write_text('[jobmanager]\nqueues = [[10, "new"]]\n')
    manager.send_signal(signal.SIGHUP)
    manager.wait_line("settings reloaded")
    assert "x" == result(site.client, publish(site.client, "note", "x", queue="new"))["value"]
    assert "end first" == result(site.client, first)["value"]
    assert 1 == site.count("start first")
    assert 0 == manager.stop()


def test_a_reply_is_pushed_to_who_asked(site: Site) -> None:
    """``reply-requested`` brings the REPLY itself to a client of eventmq."""
    import zmq

    site.start_broker("--memory")
    start(site, "-P", "threads")
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{site.ports['frontend']}")
        payload = json.dumps(["run", {"path": "functions", "callable": "note", "args": ["x"]}])
        frames = (b"", b"eMQP/1.0", b"REQUEST", b"m1", b"default", b"reply-requested", payload.encode())
        socket.send_multipart(frames)
        replies: list[list[bytes]] = []

        def replied() -> bool:
            while socket.poll(0):
                replies.append(socket.recv_multipart())
            return any(b'"x"' in frame for frames in replies for frame in frames)

        wait_until(replied, 20, what="the reply")


def test_failover_in_mid_life(site: Site, tmp_path: Path, procs: Procs, free_port: Callable[[], int]) -> None:
    """When the first broker is gone the second is taken; what ran meanwhile isn't run again."""
    folder = tmp_path / "second"
    folder.mkdir()
    with open_site(folder, procs, free_port) as second:
        first = site.start_broker()
        second.start_broker()
        manager = start(site, "-b", f"{site.url};{second.url}")
        running = publish(site.client, "slow", 3, "running")
        site.wait_runs("start running")
        first.kill()
        manager.wait_line("connected again to", timeout_s=30)
        assert "x" == result(second.client, publish(second.client, "note", "x"))["value"]
        site.wait_runs("end running")
        assert 1 == site.count("start running")
        assert running


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (("-b", "tcp://host"), {}, "the workers' address 'tcp://host' is not tcp://HOST:PORT"),
        (("-P", "fibers"), {}, "the pool 'fibers' is unknown"),
        ((), {"EVENTMQ_CONCURRENT_JOBS": "many"}, "CONCURRENT_JOBS has the value 'many'"),
        ((), {"EVENTMQ_QUEUES": "default"}, "QUEUES has the value 'default'"),
        ((), {"EVENTMQ_JOB_ENTRY_FUNC": "functions.missing"}, "functions.missing"),
    ],
)
def test_errors_are_one_line(site: Site, options: tuple[str, ...], env: dict[str, str], message: str) -> None:
    """A wrong option or setting ends the start with a message that names it, and a status of 1."""
    site.start_broker("--memory")
    manager = start(site, *options, ready=None, **env)
    assert 1 == manager.wait(30)
    assert message in manager.output()
    assert "Traceback" not in manager.output()


def test_warm_and_cold(site: Site) -> None:
    """TERM finishes what runs, a second one ends it at once."""
    site.start_broker()
    manager = start(site)
    short = publish(site.client, "slow", 1, "short")
    site.wait_runs("start short")
    assert 0 == manager.stop()
    assert "end short" == result(site.client, short)["value"]

    manager = start(site)
    long = publish(site.client, "slow", 60, "long")
    site.wait_runs("start long")
    manager.send_signal(signal.SIGTERM)
    manager.wait_line("stops taking jobs")
    assert 1 == manager.stop()
    assert "WorkerLostError" == result(site.client, long)["error"]["type"]
