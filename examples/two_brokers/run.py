"""Moves a shop to another broker while it is open, and counts its parcels: `python run.py --old URL`."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
LIMIT_S = 100
EACH = 100


def main() -> int:
    """Take orders before, while and after the broker is changed; exits with 1 where a parcel is lost."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--old", metavar="URL", default="redis://127.0.0.1:6379/0", help="the old broker: redis://, amqp://"
    )
    arguments.add_argument("--queue", help="another queue than `celery`, where others use that one")
    given = arguments.parse_args()
    old = given.old
    with tempfile.TemporaryDirectory(prefix="emq-two-brokers-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        project, book = folder / "project", folder / "book"
        shutil.copytree(HERE / "shop", project / "shop", ignore=shutil.ignore_patterns("__pycache__"))
        book.touch()
        if given.queue:
            with (project / "shop/celeryconfig.py").open("a") as settings:
                settings.write(f'task_default_queue = "{given.queue}"\n')
        os.environ.update(SHOP_BOOK=str(book), PYTHONDONTWRITEBYTECODE="1")
        new = f"emq+ipc://{folder}/sockets"  # on machines of your own: emq://HOST
        run = Programs(folder, project)

        step("orders come to the old broker; no worker is there yet")
        set_broker(project, old)
        run.orders("before", EACH)

        step("the new broker, and a worker for both")
        ipc = ["--ipc", f"{folder}/sockets", "--data", f"{folder}/data"]
        stack.enter_context(run.started("broker", ["emq-compat", "broker", *ipc], ", journal "))
        both = ["emq-compat", "worker", "-A", "shop", "-b", new, "-b", old, "-c", "2", "-l", "info"]
        with run.started("worker of both", both, " ready"):
            run.orders("meanwhile", EACH)

            step("the producers are switched, one after the other")
            set_broker(project, new)
            run.orders("after", EACH)
            wait_for(lambda: parcels(book).total() >= 3 * EACH, "all parcels", run.said)

        step("the old broker is empty: a worker of the new one is enough")
        alone = ["emq-compat", "worker", "-A", "shop", "-c", "2", "-l", "info"]
        with run.started("worker", alone, " ready"):
            run.orders("later", EACH)
            wait_for(lambda: parcels(book).total() >= 4 * EACH, "all parcels", run.said)
        return counted(parcels(book))


def step(text: str) -> None:
    """Print what comes."""
    print(f"\n== {text}", flush=True)


def parcels(book: Path) -> Counter[str]:
    """Return how often each parcel was packed."""
    return Counter(book.read_text().split())


def counted(packed: Counter[str]) -> int:
    """Print the shop's count; returns 1 where a parcel is lost, or was packed twice."""
    wanted = {f"{word}-{n}" for word in ("before", "meanwhile", "after", "later") for n in range(EACH)}
    lost = sorted(wanted - packed.keys())
    twice = sorted(parcel for parcel, times in packed.items() if times > 1)
    print(f"\npacked: {len(wanted) - len(lost)} of {len(wanted)}; lost: {lost or 0}; twice: {twice or 0}")
    return 1 if lost or twice else 0


def set_broker(project: Path, url: str) -> None:
    """Change the first line of the settings."""
    settings = project / "shop/celeryconfig.py"
    lines = settings.read_text().splitlines(keepends=True)
    changed = [f'broker_url = "{url}"\n' if line.startswith("broker_url") else line for line in lines]
    settings.write_text("".join(changed))


def wait_for(predicate: Callable[[], object], what: str, said: Callable[[], str]) -> None:
    """Wait until something is true; exits where it doesn't become so."""
    deadline = time.monotonic() + LIMIT_S
    while not predicate():
        if time.monotonic() > deadline:
            sys.exit(f"not in time: {what}\n{said()}")
        time.sleep(0.05)


class Programs:
    """Programs of the shop, with their logs in a folder."""

    def __init__(self, folder: Path, project: Path) -> None:
        self._folder = folder
        self._project = project

    def orders(self, word: str, count: int) -> None:
        """Send orders by a process of its own, which reads the settings as they are."""
        argv = [BIN / "python", "-m", "shop.orders", word, str(count)]
        subprocess.run(argv, cwd=self._project, timeout=LIMIT_S, check=True)

    @contextlib.contextmanager
    def started(self, name: str, argv: list[str], ready: str) -> Iterator[None]:
        """Start a program and wait until it says that it is ready; end it in order with the block."""
        path = self._folder / f"{name}.log"
        with path.open("ab") as log:
            process = subprocess.Popen([BIN / argv[0], *argv[1:]], cwd=self._project, stdout=log, stderr=log)
        try:
            wait_for(lambda: ready in path.read_text() or process.poll() is not None, name, self.said)
            if process.poll() is not None:
                sys.exit(f"the {name} did not start:\n{path.read_text()}")
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def said(self) -> str:
        """Return the logs."""
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))


if __name__ == "__main__":
    sys.exit(main())
