"""Takes the shop from Celery to emq-compat and back, a step at a time: `python run.py`, `python run.py 2`."""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
BEFORE, AFTER = HERE / "before", HERE / "after"
PYTHON = Path(sys.executable)
EMQ_COMPAT = PYTHON.with_name("emq-compat")
NO_CELERY = "import sys, shop.day; assert 'celery' not in sys.modules, 'celery was imported'"


def main() -> int:
    """Run one step, or all that need no Celery."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("step", nargs="?", choices=[*STEPS, "0"], help="by default all but 0")
    arguments.add_argument("--celery", type=Path, help="step 0: bin/ of an environment with celery[redis]")
    arguments.add_argument("--redis", default="redis://localhost", help="step 0: its Redis")
    given = arguments.parse_args()
    if given.step == "0":
        if given.celery is None:
            arguments.error("step 0 needs --celery, the bin/ of an environment with celery[redis]")
        steps: list[Callable[[Path], None]] = [lambda folder: on_celery(folder, given.celery, given.redis)]
    else:
        steps = [STEPS[given.step]] if given.step else list(STEPS.values())
    for step in steps:
        with tempfile.TemporaryDirectory(prefix="emq-from-celery-") as name:
            step(Path(name))
    return 0


def on_celery(folder: Path, celery: Path, redis: str) -> None:
    """0: the shop as it is, on Celery and Redis."""
    told(on_celery)
    environment = {"SHOP_BROKER": redis, "SHOP_RESULTS": redis}
    argv = [celery / "celery", "-A", "shop", "worker", "--concurrency", "2", "--loglevel", "info"]
    run(BEFORE, folder, argv, celery / "python", environment)


def scanned(folder: Path) -> None:
    """1: what the move will cost."""
    told(scanned)
    subprocess.run([EMQ_COMPAT, "migrate", "scan", "."], cwd=BEFORE, check=True)


def installed(folder: Path) -> None:
    """2: two lines are added, with which `import celery` means emq-compat."""
    told(installed)
    project = changed(folder, "--install")
    on_emq_compat(project, folder)
    taken_back(project, folder)


def rewritten(folder: Path) -> None:
    """3: the imports are rewritten instead."""
    told(rewritten)
    project = changed(folder)
    subprocess.run([PYTHON, "-c", NO_CELERY], cwd=project, check=True)
    on_emq_compat(project, folder)
    taken_back(project, folder)


def with_more(folder: Path) -> None:
    """4: what Celery doesn't have is used; see after/shop/own.py."""
    told(with_more)
    on_emq_compat(AFTER, folder)


STEPS: dict[str, Callable[[Path], None]] = {"1": scanned, "2": installed, "3": rewritten, "4": with_more}


def told(step: Callable[..., None]) -> None:
    """Print what a step is."""
    print(f"\n== step {step.__doc__}", flush=True)


def changed(folder: Path, *how: str) -> Path:
    """Return a copy of the shop that `migrate scan --write` has changed; the diff is kept beside it."""
    project = folder / "project"
    shutil.copytree(BEFORE, project, ignore=shutil.ignore_patterns("__pycache__"))
    # The copy is under no version control: without --force it would not be written.
    argv = [EMQ_COMPAT, "migrate", "scan", ".", "--write", "--yes", "--force", *how]
    diff = subprocess.run(argv, cwd=project, stdout=subprocess.PIPE, check=True).stdout
    print(diff.decode(), flush=True)
    (folder / "way.diff").write_bytes(diff)
    return project


def taken_back(project: Path, folder: Path) -> None:
    """Apply the diff the other way, and see that the shop is as it was."""
    subprocess.run(["git", "apply", "-R", folder / "way.diff"], cwd=project, check=True)
    names = [str(path.relative_to(BEFORE)) for path in BEFORE.rglob("*") if path.suffix in (".py", ".txt")]
    _, different, missing = filecmp.cmpfiles(BEFORE, project, names, shallow=False)
    if different or missing:
        sys.exit(f"not as it was: {different + missing}")
    print("and back: the diff reversed is the shop as it was", flush=True)


def on_emq_compat(project: Path, folder: Path) -> None:
    """Run the shop on a worker of emq-compat's, with a broker in it."""
    environment = {"SHOP_BROKER": f"emq+ipc://{folder}/sockets", "SHOP_RESULTS": "emq://"}
    argv = [EMQ_COMPAT, "-A", "shop", "worker", "--concurrency", "2", "--loglevel", "info"]
    run(project, folder, [*argv, "--embed-broker", f"{folder}/data"], PYTHON, environment)


def run(project: Path, folder: Path, argv: list[object], python: Path, environment: dict[str, str]) -> None:
    """Start a worker, run the client, and end both; exits where one of them fails."""
    log = folder / "worker.log"
    environment = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": "1"}
    with log.open("ab") as file:
        worker = subprocess.Popen(
            [str(word) for word in argv], cwd=project, env=environment, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + 60
        while " ready" not in log.read_text():
            if worker.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the worker did not start:\n{log.read_text()}")
            time.sleep(0.05)
        client = [python, "-m", "shop.day"]
        done = subprocess.run(client, cwd=project, env=environment, timeout=100, check=False)
        if done.returncode:
            sys.exit(f"the client failed; the worker said:\n{log.read_text()}")
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


if __name__ == "__main__":
    sys.exit(main())
