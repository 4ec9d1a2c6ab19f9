"""Runs the shop with one URL changed: `python run.py`; or as it was: `python run.py --redis URL`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
LIMIT_S = 100


def main() -> int:
    """Run the day in the shop, and see that the beat's task ran, too."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--redis", metavar="URL", help="as it was: Celery's worker, with this Redis")
    arguments.add_argument("--results", metavar="URL", help="keep the results here, instead of in the broker")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="emq-keep-celery-") as name:
        folder = Path(name)
        project = folder / "project"
        shutil.copytree(HERE / "shop", project / "shop", ignore=shutil.ignore_patterns("__pycache__"))
        if given.redis:
            url, commands = given.redis, {"worker": ["celery", "-A", "shop", "worker", "-B", "-l", "info"]}
        else:
            url = f"emq+ipc://{folder}/sockets"  # on a machine of your own: emq://127.0.0.1
            commands = {
                "broker": ["emq-compat", "broker", "--ipc", f"{folder}/sockets", "--data", f"{folder}/data"],
                "worker": ["emq-compat", "worker", "-A", "shop", "-B", "-l", "info"],
            }
        change_urls(project / "shop/celeryconfig.py", url, given.results or url)
        with contextlib.ExitStack() as stack:
            for what, argv in commands.items():
                stack.enter_context(started(folder, project, what, argv))
                wait_for(folder / f"{what}.log", ", journal " if what == "broker" else " ready")
            argv = [BIN / "python", "-m", "shop.day"]
            if subprocess.run(argv, cwd=project, timeout=LIMIT_S, check=False).returncode:
                log = (folder / "worker.log").read_text()
                sys.exit(f"the day in the shop failed; the worker said:\n{log}")
            wait_for(folder / "worker.log", "the till is counted")
            print("beat: the till is counted", flush=True)
    return 0


def change_urls(settings: Path, broker: str, results: str) -> None:
    """The whole move: two lines of the settings."""
    lines = settings.read_text().splitlines(keepends=True)
    changed = {"broker_url": broker, "result_backend": results}
    for number, line in enumerate(lines):
        name = line.partition(" = ")[0]
        if name in changed:
            lines[number] = f'{name} = "{changed[name]}"\n'
    settings.write_text("".join(lines))


@contextlib.contextmanager
def started(folder: Path, project: Path, what: str, argv: list[str]) -> Iterator[None]:
    """Start a program with its log in the folder; end it when the block is left."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / f"{what}.log").open("ab") as log:
        process = subprocess.Popen(
            [BIN / argv[0], *argv[1:]], cwd=project, env=environment, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(log: Path, text: str) -> None:
    """Wait until a text stands in a log; exits where it doesn't come."""
    deadline = time.monotonic() + LIMIT_S
    while text not in log.read_text():
        if time.monotonic() > deadline:
            sys.exit(f"not in {log.name}: {text!r}\n{log.read_text()}")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
