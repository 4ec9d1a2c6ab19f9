"""Processes without file descriptors or memory: it is said, nothing confirmed is lost, and they go on."""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from emq_compat.client import Client
from emq_compat.errors import BrokerRefused, OperationalError
from tests.broker_process import Broker
from tests.faults.conftest import Plant
from tests.faults.faulty_tasks import bulky, count
from tests.processes import Procs, wait_until

pytestmark = pytest.mark.faults

REPOSITORY = Path(__file__).parents[2]
ANY = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def allow(pid: int, most: int, extra: int) -> None:
    """Let a process have so many descriptors more than it has."""
    process = psutil.Process(pid)
    process.rlimit(resource.RLIMIT_NOFILE, (min(ANY, process.num_fds() + extra) if extra else most, ANY))


def test_a_broker_without_descriptors(broker: Broker) -> None:
    """Who is connected is served, new clients are told in time, and it goes on once some are free."""
    proc = broker.start()
    broker.client.ask("queues")
    allow(proc.pid, 0, 8)
    port = broker.ports["frontend"]
    hogs = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    wait_until(lambda: psutil.Process(proc.pid).num_fds() >= 8, what="no descriptors")
    assert [] == broker.client.ask("queues")
    with Client(broker.url) as other, pytest.raises(OperationalError, match="no broker within"):
        other.ask("queues", timeout_s=1.5)
    for hog in hogs:
        hog.close()

    def answers() -> bool:
        with Client(broker.url) as again:
            return again.ask("queues") == []

    assert wait_until(answers, 10)
    assert proc.alive()


def test_a_worker_without_descriptors_for_a_new_child(plant: Plant) -> None:
    """A lost child is replaced once there are descriptors; what the other one can run runs meanwhile."""
    plant.broker.start()
    worker = plant.start_worker()
    count.delay(0)
    wait_until(lambda: plant.runs()["0"] == 1, 20, what="a run")
    pids = [worker.pid, *(process.pid for process in worker.children())]
    for pid in pids:
        used = max(map(int, os.listdir(f"/proc/{pid}/fd")))
        psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE, (used + 1, ANY))
    before = {process.pid for process in plant.forked()}
    victim = next(process for process in plant.forked() if process.pid != max(before))
    victim.kill()
    for n in range(1, 20):
        count.delay(n)
    wait_until(lambda: len(plant.runs()) >= 18, 30, what="runs of the other child")
    for pid in pids:
        if psutil.pid_exists(pid):
            psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE, (ANY, ANY))
    for n in range(20, 40):
        count.delay(n)
    wait_until(lambda: {str(n) for n in range(20, 40)} <= set(plant.runs()), 30, what="all runs")
    assert worker.alive()


@pytest.mark.parametrize("command", ["broker", "worker"])
def test_a_start_without_descriptors_ends_with_what_to_do(command: str, procs: Procs, broker: Broker) -> None:
    """With too few descriptors a broker or worker ends with a sentence, and isn't ended by ZeroMQ."""
    if command == "broker":
        options = broker.argv()
    else:
        broker.start()
        options = ["worker", "-A", "tests.faults.faulty_tasks", "-b", broker.url, "-c", "1"]
    program = (
        "import resource, sys; from emq_compat.cli.main import main; import emq_compat.shim.worker, kombu\n"
    )
    program += (
        "import emq_compat.client, emq_compat.cli.broker, emq_compat.cli.worker, emq_compat.jobmanager\n"
    )
    program += "import os; used = len(os.listdir('/proc/self/fd'))\n"
    program += f"resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4)); main({options!r})"
    proc = procs.start(sys.executable, "-c", program, cwd=REPOSITORY, name=command, env={"RUNS": os.devnull})
    assert 1 == proc.wait(30), proc.output()
    assert "ulimit -n" in proc.output()
    assert "Traceback" not in proc.output()


def test_a_client_without_descriptors(procs: Procs, broker: Broker) -> None:
    """A publish without a descriptor left is an OperationalError; one with some again is confirmed."""
    broker.start()
    program = f"""
import os, resource
from tests.faults.faulty_tasks import app, count
import emq_compat.client, kombu
app.conf.broker_url = {broker.url!r}
app.conf.broker_connection_timeout = 5
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
used = len(os.listdir('/proc/self/fd'))
count.name, app.client  # what is imported at first use
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
try:
    count.delay(1)
except Exception as exc:
    print(type(exc).__name__, exc)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
count.delay(2)
print("confirmed")
"""
    proc = procs.start(sys.executable, "-c", program, cwd=REPOSITORY, name="client", env={"RUNS": os.devnull})
    assert 0 == proc.wait(30), proc.output()
    assert "OperationalError" in proc.output()
    assert "file descriptors" in proc.output()
    assert proc.output().rstrip().endswith("confirmed")
    assert 1 == broker.waiting("faulty")


@pytest.mark.long
def test_a_broker_without_memory(plant: Plant) -> None:
    """Whatever becomes of a broker that gets no memory, what it confirmed is there, and runs once."""
    proc = plant.broker.start()
    process = psutil.Process(proc.pid)
    process.rlimit(resource.RLIMIT_AS, (process.memory_info().vms + (40 << 20), resource.RLIM_INFINITY))
    confirmed, failed = [], 0
    for n in range(40):
        try:
            bulky.delay(n, "x" * 4_000_000)
        except (BrokerRefused, OperationalError):
            failed += 1
            if failed == 3:
                break
        else:
            confirmed.append(n)
    assert "Traceback" not in proc.output()
    if proc.alive():
        process.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

        def publish() -> bool:
            try:
                bulky.delay(1000, "y")
            except BrokerRefused:
                return False
            confirmed.append(1000)
            return True

        wait_until(publish, 10, what="a publish that is taken again")
        proc.send_signal(signal.SIGKILL)
        proc.popen.wait()
    plant.broker.start()
    assert plant.broker.waiting("faulty") >= len(confirmed)
    worker = plant.start_worker()
    wait_until(lambda: {str(n) for n in confirmed} <= set(plant.runs()), 60, what="all runs")
    assert set(plant.runs().values()) == {1}
    assert 0 == worker.stop()
