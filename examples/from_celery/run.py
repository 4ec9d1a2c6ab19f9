"""Runs the shop: a worker with a broker of its own, and the client; both end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
EMQ_COMPAT = Path(sys.executable).with_name("emq-compat")


def main(folder: Path) -> int:
    """Return the client's exit status; logs and journal are in `folder`."""
    os.environ["CELERY_BROKER_URL"] = f"emq+ipc://{folder}/sockets"
    log = folder / "worker.log"
    argv = [EMQ_COMPAT, "-A", "shop", "worker", "-c", "2", "-l", "info", "--embed-broker", f"{folder}/data"]
    with log.open("ab") as file:
        worker = subprocess.Popen(argv, cwd=HERE, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 60
        while " ready" not in log.read_text():
            if worker.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the worker did not start:\n{log.read_text()}")
            time.sleep(0.05)
        return subprocess.run(
            [sys.executable, "-m", "shop.day"], cwd=HERE, timeout=100, check=False
        ).returncode
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="emq-from-celery-") as name:
        sys.exit(main(Path(name)))
