"""Takes the shop's worker from Celery's to ours and back, on RabbitMQ: `python run.py --broker URL`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
LIMIT_S = 100
#: The command that changes. Both listen on the queue `celery` of the broker that the settings name.
CELERYS = ["celery", "-A", "shop", "worker", "-n", "celerys@%h", "-c", "2", "-l", "info"]
OURS = ["emq-compat", "-A", "shop", "worker", "-n", "ours@%h", "-c", "2", "-l", "info"]


def main() -> int:
    """Before, both beside each other, ours alone, and back."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--broker", metavar="URL", help="else that of the settings, a RabbitMQ on this machine"
    )
    arguments.add_argument("--queue", help="another queue than `celery`, where others use that one")
    given = arguments.parse_args()
    if given.broker:
        os.environ["CELERY_BROKER_URL"] = given.broker
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with tempfile.TemporaryDirectory(prefix="emq-keep-rabbitmq-") as name, Workers(Path(name)) as workers:
        shutil.copytree(HERE / "shop", workers.project / "shop")
        if given.queue:
            with (workers.project / "shop/celeryconfig.py").open("a") as settings:
                settings.write(f'task_default_queue = "{given.queue}"\n')
        step("as it was: Celery's worker")
        celerys = workers.start(CELERYS)
        day(workers, 20)
        step("both, on one queue")
        ours = workers.start(OURS)
        day(workers, 100)
        step("ours alone")
        workers.stop(celerys)
        day(workers, 20)
        step("the way back: Celery's worker again")
        workers.start(CELERYS)
        workers.stop(ours)
        day(workers, 20)
    return 0


def step(text: str) -> None:
    """Print what comes."""
    print(f"\n== {text}", flush=True)


def day(workers: Workers, batches: int) -> None:
    """Run the client; exits where it fails."""
    argv = [BIN / "python", "-m", "shop.day", str(batches)]
    if subprocess.run(argv, cwd=workers.project, timeout=LIMIT_S, check=False).returncode:
        sys.exit(f"the day in the shop failed; the workers said:\n{workers.said()}")


class Workers:
    """Workers that run, with their logs in a folder; they are ended with the block.

    Attributes:
        project: where they find the shop.
    """

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, argv: list[str]) -> subprocess.Popen[bytes]:
        """Start one, and wait until it is ready."""
        path = self._folder / f"{len(list(self._folder.glob('*.log')))}.log"
        with path.open("ab") as log:
            process = subprocess.Popen([BIN / argv[0], *argv[1:]], cwd=self.project, stdout=log, stderr=log)
        self._running.append(process)
        deadline = time.monotonic() + LIMIT_S
        while " ready" not in path.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"a worker did not start:\n{path.read_text()}")
            time.sleep(0.05)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one in order: what it runs is finished first."""
        self._running.remove(process)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def said(self) -> str:
        """Return the logs."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in list(self._running):
            self.stop(process)


if __name__ == "__main__":
    sys.exit(main())
