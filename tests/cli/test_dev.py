"""`emq-compat dev`: broker and worker in one terminal."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.cli.conftest import Site
from tests.processes import Proc

pytestmark = [pytest.mark.integration]

START_S = 60.0


def start_dev(site: Site, *options: str, env: Mapping[str, str] | None = None, workers: int = 1) -> Proc:
    """`dev` of the site's app, with its worker ready."""
    argv = ("dev", "-A", "proj", "-c", "2", "-Q", "celery,slow", *options)
    dev = site.procs.emq(*argv, cwd=site.folder, env=env)
    wait_worker(dev, workers)
    return dev


def wait_worker(dev: Proc, count: int) -> None:
    """Wait until a worker has said for the ``count``-th time that it is ready."""

    def said() -> bool:
        lines = dev.output().splitlines()
        return sum(line.startswith("worker | ") and "ready" in line for line in lines) >= count

    dev.wait_for(said, START_S, what=f"{count} times a worker that is ready")


def change(site: Site, old: str, new: str) -> None:
    """Replace a piece of the app's file."""
    file = site.folder / "proj.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_changed_file_starts_the_worker_again(site: Site) -> None:
    """A change is at work once the worker is back; a broken file leaves it down until the next change."""
    pytest.importorskip("watchfiles")
    dev = start_dev(site)
    assert "5\n" == site.emq("call", "-A", "proj", "proj.add", "-a", "[2, 3]", "-t", "30")

    change(site, "return x + y", "return 100 + x + y")
    dev.wait_line("changed: proj.py", START_S)
    wait_worker(dev, 2)
    assert "105\n" == site.emq("call", "-A", "proj", "proj.add", "-a", "[2, 3]", "-t", "30")

    change(site, "return 100 + x + y", "return 100 + x + ")
    dev.wait_line("it starts again when a file changes", START_S)
    assert "SyntaxError" in dev.output()
    change(site, "return 100 + x + ", "return 200 + x + y")
    wait_worker(dev, 3)
    assert "205\n" == site.emq("call", "-A", "proj", "proj.add", "-a", "[2, 3]", "-t", "30")

    dev.send_signal_to_group(signal.SIGINT)
    assert 0 == dev.wait(START_S)
    assert re.search(r"broker \| .* broker \d+ ended", dev.output())
    site.procs.assert_none_left()


def test_ctrl_c_lets_running_tasks_end_and_a_second_one_does_not(site: Site) -> None:
    """The first Ctrl-C waits for what runs; the second cuts it off; either way nothing is left."""
    dev = start_dev(site, "--no-reload")
    site.emq("call", "-A", "proj", "proj.sleep", "-a", "[600]")
    running = site.emq("call", "-A", "proj", "proj.add", "-a", "[2, 3]", "-t", "30")
    assert "5\n" == running

    dev.send_signal_to_group(signal.SIGINT)
    dev.wait_line("once more Ctrl-C cuts running tasks off")
    dev.wait_line("stops taking jobs")
    assert dev.alive()
    dev.send_signal_to_group(signal.SIGINT)

    assert 0 == dev.wait(START_S)
    site.procs.assert_none_left()


def test_killed_dev_leaves_nothing_behind(site: Site) -> None:
    """Even where dev is killed, broker and worker end by themselves."""
    dev = start_dev(site, "--no-reload")
    dev.kill()
    site.procs.assert_none_left(30)


def test_data_folder_outlives_dev(site: Site) -> None:
    """With --data what waits is there again at the next start; in memory it would be gone."""
    dev = start_dev(site, "--no-reload", "--data", str(site.folder / "data"))
    site.emq("call", "-A", "proj", "proj.add", "-a", "[1, 1]", "-Q", "nobody", "--task-id", "kept")
    assert 0 == dev.stop(START_S, signal.SIGINT)

    dev = start_dev(site, "--no-reload", "--data", str(site.folder / "data"))
    assert "nobody" in site.emq("status", "-A", "proj")
    assert 0 == dev.stop(START_S)


def test_worker_or_broker_that_ends_by_itself_ends_dev(site: Site) -> None:
    """Without reloading nothing brings a worker back: dev ends with 1, as it does without its broker."""
    for victim in ("worker", "broker"):
        dev = start_dev(site, "--no-reload")
        [child] = [c for c in dev.children() if c.ppid() == dev.pid and victim in c.cmdline()[:6]]
        # That others of this machine can use this broker isn't what a newcomer is to be warned of first.
        assert ("--for-dev" in child.cmdline()) == (victim == "broker")
        child.terminate()

        assert 1 == dev.wait(START_S)
        assert f"Error: the {victim} ended with 0" in dev.output()
        site.procs.assert_none_left()


def test_missing_watchfiles_is_told(site: Site, tmp_path: Path) -> None:
    """Without watchfiles everything runs, and a line says what to install for reloading."""
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "watchfiles.py").write_text("raise ImportError('not here')\n")

    dev = start_dev(site, env={"PYTHONPATH": str(stub)})

    assert "pip install 'emq-compat[reload]'" in dev.output()


def test_what_cannot_start_is_one_message(site: Site) -> None:
    """No app, an app that isn't there, a broker elsewhere and a port in use end with a message."""
    assert "dev needs the app" in site.emq("dev", status=2)
    assert "there is no module 'nothere'" in site.emq("dev", "-A", "nothere", status=1)
    for elsewhere in ("emq://example.org", "tcp://127.0.0.1:47291", "emq://127.0.0.1;emq://127.0.0.2"):
        told = site.emq("dev", "-A", "proj", "-b", elsewhere, status=1)
        assert "dev starts a broker on this machine" in told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.ports[1]))
        taken.listen()
        told = site.emq("dev", "-A", "proj", status=1)
        assert "the broker ended with 1" in told
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", site.ports[0]))
        taken.listen()
        told = site.emq("dev", "-A", "proj", status=1)
        assert "If it is a broker, `emq-compat worker -A …` uses it; else start one at another port" in told
        argv = ("broker", "--memory", "--frontend", f"tcp://127.0.0.1:{site.ports[0]}")
        assert "A broker may run there: a worker uses it" in site.emq(*argv, status=1)
        told = site.emq("broker", "--memory", "--http", str(site.ports[0]), status=1)
        assert f"--http 127.0.0.1:{site.ports[0]}: the address is in use: give another port" in told
    (site.folder / "data").write_text("")
    argv = ("broker", "--data", "data", "--ipc", "sockets")
    assert "data is a file, and a folder is wanted" in site.emq(*argv, status=1)
