"""The tutorial, followed to the letter."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.docs.session import Save, Type, fits, steps
from tests.processes import Proc, Procs, unused_port

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_tutorial(procs: Procs, tmp_path: Path) -> None:
    """Each file is saved, each command typed, and what is then seen is what it says."""
    ports = {name: unused_port() for name in ("frontend", "backend", "admin")}
    # Where others have another port: so that tests don't meet, and a machine's own broker isn't met.
    own = " ".join(f"--{name} tcp://127.0.0.1:{port}" for name, port in ports.items())
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EMQ_BROKER_ADDR": f"emq://127.0.0.1:{ports['frontend']}?worker_port={ports['backend']}",
    }
    running: dict[str, Proc] = {}
    done: list[str] = []
    for step in steps(TUTORIAL):
        if isinstance(step, Save):
            (tmp_path / step.name).write_text(step.text)
            continue
        done.append(step.command)
        if step.kill:
            killed = running.pop(step.kill)
            killed.send_signal(signal.SIGKILL)
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


def test_a_session_is_read() -> None:
    """What is seen is compared, with any text where the document leaves it open."""
    typed = [step for step in steps(TUTORIAL) if isinstance(step, Type)]
    assert Type(command="python workflow.py", seen="90\n") in typed
    assert fits("a ... c\n", "a b c\n")
    assert not fits("90\n", "91\n")
