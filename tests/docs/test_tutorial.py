"""The tutorial and the README, followed to the letter."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.docs.session import Save, Type, fits, steps
from tests.processes import Proc, Procs, unused_port

ROOT = Path(__file__).resolve().parents[2]
README, TUTORIAL = ROOT / "README.md", ROOT / "docs" / "tutorial.md"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_tutorial(procs: Procs, tmp_path: Path) -> None:
    """Each file is saved, each command typed, and what is then seen is what it says."""
    ports, env = elsewhere()
    own = " ".join(f"--{name} tcp://127.0.0.1:{port}" for name, port in ports.items())
    running: dict[str, Proc] = {}
    done: list[str] = []
    for step in steps(TUTORIAL):
        if isinstance(step, Save):
            (tmp_path / step.name).write_text(step.text)
            continue
        done.append(step.command)
        if step.kill:
            killed = running.pop(step.kill)
            told = re.search(r"broker (\d+): clients", killed.output().splitlines()[0])
            assert told is not None, killed.output()
            assert 0 == procs.start("sh", "-c", step.command.replace("PID", told[1])).wait()
            assert -signal.SIGKILL == killed.wait()
            continue
        command = step.command
        if command == "emq-compat broker":
            if dev := running.pop("emq-compat dev -A myproj", None):  # it says: Ctrl-C
                dev.stop(signum=signal.SIGINT)
            command = f"{command} {own} --data {tmp_path / 'journal'}"
        shell = ("sh", "-c", f"exec {command}" if step.background else command)
        proc = procs.start(*shell, cwd=tmp_path, env=env, ready=step.background or None)
        if step.background:
            running[step.command] = proc
        else:
            proc.wait(90)
            assert fits(step.seen, proc.output()), f"{step.command}\n{proc.output()}"
    assert [] != done
    assert {"emq-compat broker", "emq-compat worker -A myproj -c 2"} == set(running)


def test_the_readmes_own_project(procs: Procs, tmp_path: Path) -> None:
    """The file is saved, and the commands typed, in their order; each says what its comment tells."""
    text = README.read_text()
    own = text[text.index("## Your own project") : text.index("## What it promises")]
    file, commands = re.findall(r"^```\w*\n(.*?)^```$", own, re.M | re.S)
    _, env = elsewhere()
    (tmp_path / "myproj.py").write_text(file.replace("emq://127.0.0.1", env["EMQ_BROKER_ADDR"]))
    typed = [line.partition(" #")[0].strip() for line in commands.splitlines()]
    venv, pip, dev, call, dashboard = typed
    assert ("python3 -m venv venv && . venv/bin/activate", "pip install '.[reload,dashboard]'") == (venv, pip)
    assert "add -B" in commands
    running = procs.start("sh", "-c", f"exec {dev} -B", cwd=tmp_path, env=env)
    running.wait_line("is ready", 60)
    running.wait_line("beat: Starting", 60)
    called = procs.start("sh", "-c", call, cwd=tmp_path, env=env)
    assert (0, "5\n") == (called.wait(60), called.output())
    page = procs.start(
        "sh", "-c", f"exec {dashboard} --listen 127.0.0.1:{unused_port()}", cwd=tmp_path, env=env
    )
    page.wait_line("The dashboard of", 60)


def elsewhere() -> tuple[dict[str, int], dict[str, str]]:
    """Ports for a broker's options, and the environment in which commands find it: so that tests don't meet,
    and a machine's own broker isn't met."""
    ports = {name: unused_port() for name in ("frontend", "backend", "admin")}
    return ports, {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EMQ_BROKER_ADDR": f"emq://127.0.0.1:{ports['frontend']}?worker_port={ports['backend']}",
    }


def test_a_session_is_read() -> None:
    """What is seen is compared, with any text where the document leaves it open."""
    typed = [step for step in steps(TUTORIAL) if isinstance(step, Type)]
    assert Type(command="python workflow.py", seen="90\n") in typed
    assert fits("a ... c\n", "a b c\n")
    assert not fits("90\n", "91\n")
