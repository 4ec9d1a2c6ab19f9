"""The guide's four steps as programs: `python run.py STEP…`, all of them without a step.

Stock eventmq's programs are taken from the folder --stock (its emq-router, emq-jobmanager … and its python);
the README says how to make it. Everything runs on free ports, in a temporary folder, and is ended after each
step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SITE = Path(__file__).parent / "site"
EMQ_COMPAT = Path(sys.executable).with_name("emq-compat")
JOBS = 10
PATIENCE_S = 90


class Failed(Exception):
    """A step did not do what it should; the message says what, and ends with the logs."""


class Step:
    """One step: the programs that run, the folder that they write to, and their addresses."""

    def __init__(self, folder: Path, stock: Path) -> None:
        self.folder = folder
        self.stock = stock
        self.frontend, self.backend, self.admin = (f"tcp://127.0.0.1:{port}" for port in free_ports(3))
        self.url = f"{self.frontend.replace('tcp', 'emq')}?worker_port={self.backend.rpartition(':')[2]}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        config = (SITE / "eventmq.conf").read_text()
        for port, own in ((47291, self.frontend), (47290, self.backend), (47293, self.admin)):
            config = config.replace(f"tcp://127.0.0.1:{port}", own)
        (folder / "eventmq.conf").write_text(config)
        self.env = {
            **os.environ,
            "EVENTMQ_CONFIG_FILE": str(folder / "eventmq.conf"),
            "EVENTMQ_WAL": str(folder / "wal" / "wal.log"),
            "EVENTMQ_RQ_PORT": "1",  # no Redis: the stock scheduler keeps its schedules in memory
            "PYTHONPATH": str(SITE),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "ignore",
            "SHOP_FOLDER": str(folder),
        }

    def start(self, name: str, *argv: str | Path, ready: str) -> None:
        """Start a program and wait until `ready` stands in its log."""
        log = self.folder / f"{name}.log"
        before = log.read_text().count(ready) if log.exists() else 0
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                env=self.env,
                cwd=SITE,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.running[name] = process

        def is_ready() -> bool:
            if process.poll() is not None:
                raise Failed(f"{name} ended with {process.returncode}\n{self.logs()}")
            return log.read_text(errors="replace").count(ready) > before

        self.wait(is_ready, f"{name} is ready")

    def stock_program(self, name: str, ready: str) -> None:
        """Start one of stock eventmq's programs."""
        self.start(name, self.stock / name, ready=ready)

    def our_broker(self) -> None:
        """Start emq-compat's broker at the router's addresses."""
        sockets = ("--frontend", self.frontend, "--backend", self.backend, "--admin", self.admin)
        argv = (EMQ_COMPAT, "broker", *sockets, "--data", self.folder / "data")
        self.start("broker", *argv, ready="clients tcp:")

    def our_jobmanager(self) -> None:
        """Start emq-compat's job manager; it reads the same settings as the stock one."""
        self.start("jobmanager", EMQ_COMPAT, "jobmanager", ready="connected to")

    def publish(self, program: str, python: Path, broker: str) -> str:
        """Run one of the shop's two programs to its end; returns what it printed."""
        done = subprocess.run(
            [python, SITE / program, str(JOBS)],
            env={**self.env, "EMQ_BROKER_ADDR": broker},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode:
            raise Failed(f"{program} ended with {done.returncode}\n{done.stderr}\n{self.logs()}")
        return done.stdout.strip()

    def stock_shop(self) -> None:
        """Run the shop that uses stock eventmq's client."""
        self.publish("shop_stock.py", self.stock / "python", self.frontend)

    def waiting(self, queue: str) -> int:
        """Return how many jobs wait in a queue of emq-compat's broker."""
        argv = (EMQ_COMPAT, "status", "-b", self.url, "--json")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        queues = json.loads(done.stdout)["queues"] if done.stdout else []
        return sum(row["waiting"] for row in queues if row["name"] == queue)

    def kill(self, name: str) -> None:
        """End a program as a power switch would."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def count(self, name: str) -> int:
        """Return how many lines the jobs have written to a file."""
        file = self.folder / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def wait(self, done: Callable[[], bool], what: str) -> None:
        """Wait until `done()`."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > deadline:
                raise Failed(f"not within {PATIENCE_S} s: {what}\n{self.logs()}")
            time.sleep(0.05)

    def wait_for_work(self, *, reports: bool = True) -> str:
        """Wait until every invoice is written and mailed, once each; returns that as a sentence."""
        self.wait(lambda: self.count("invoices") >= JOBS and self.count("mails") >= JOBS, f"{JOBS} invoices")
        if reports:
            self.wait(lambda: self.count("reports") >= 1, "a report")
        for name in ("invoices", "mails"):
            numbers = [json.loads(line)["number"] for line in (self.folder / name).read_text().splitlines()]
            if sorted(numbers) != list(range(JOBS)):
                raise Failed(f"{name}: {sorted(numbers)}\n{self.logs()}")
        told = f"{JOBS} invoices written and mailed, once each"
        return f"{told}; the scheduled report ran" if reports else told

    def logs(self) -> str:
        """Return the ends of all logs."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-4000:]}" for file in files)

    def end(self) -> None:
        """End all programs, the youngest first, with what stock job managers leave behind."""
        for process in reversed(self.running.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def all_stock(step: Step) -> str:
    """Stock router, scheduler, job manager and client."""
    step.stock_program("emq-router", "Listening for administrative commands")
    step.stock_program("emq-scheduler", "Starting event loop")
    step.stock_program("emq-jobmanager", "Starting event loop")
    step.stock_shop()
    return step.wait_for_work()


def our_jobmanager(step: Step) -> str:
    """emq-compat's job manager under the stock router, scheduler and client."""
    step.stock_program("emq-router", "Listening for administrative commands")
    step.stock_program("emq-scheduler", "Starting event loop")
    step.our_jobmanager()
    step.stock_shop()
    return step.wait_for_work()


def our_broker(step: Step) -> str:
    """emq-compat's broker, killed once, with stock job manager and client; no scheduler is needed."""
    step.our_broker()
    step.stock_shop()
    step.wait(lambda: step.waiting("mail") == JOBS and step.waiting("default") >= JOBS, "all jobs wait")
    step.kill("broker")
    step.our_broker()
    step.stock_program("emq-jobmanager", "Starting event loop")
    return step.wait_for_work() + "; the broker was killed while all of it waited"


def all_ours(step: Step) -> str:
    """emq-compat's broker, job manager and client."""
    step.our_broker()
    step.our_jobmanager()
    printed = step.publish("shop.py", Path(sys.executable), step.url)
    return f"{step.wait_for_work(reports=False)}; the shop printed: {printed}"


STEPS = {1: all_stock, 2: our_jobmanager, 3: our_broker, 4: all_ours}


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def run(number: int, stock: Path) -> None:
    """Run one step and print what came of it."""
    do = STEPS[number]
    print(f"step {number}: {do.__doc__}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="from-eventmq-") as folder:
        step = Step(Path(folder), stock)
        try:
            told = do(step)
        finally:
            step.end()
    print(f"  {told} ({time.monotonic() - began:.1f} s)", flush=True)


def main() -> None:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", type=int, metavar="STEP", help="1 to 4; none: all")
    parser.add_argument(
        "--stock", type=Path, default=Path("stock/bin"), help="folder with emq-router and its python"
    )
    given = parser.parse_args()
    steps = given.steps or list(STEPS)
    if unknown := set(steps) - set(STEPS):
        parser.error(f"there is no step {min(unknown)}")
    if min(steps) < 4 and not (given.stock / "emq-router").exists():
        sys.exit(f"there is no stock eventmq in {given.stock}: the README says how to install it")
    try:
        for number in steps:
            run(number, given.stock.absolute())
    except Failed as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
