"""Runs the application: a worker with a broker of its own, Flask's web server, a browser; all end with it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parent
EMQ_COMPAT = Path(sys.executable).with_name("emq-compat")
WAIT_S = 60


def main(data: Path) -> None:
    """Order a report and watch it; reports, journal and logs are in ``data``."""
    os.environ["REPORTS_DATA"] = str(data)
    os.environ["CELERY_BROKER_URL"] = f"emq+ipc://{data}/sockets"
    with ExitStack() as stack:
        app = [EMQ_COMPAT, "-A", "make_celery"]
        worker = [*app, "worker", "-B", "-c", "2", "--embed-broker", data / "broker"]
        start(stack, worker, data / "worker.log", " is ready")
        port = free_port()
        web = [sys.executable, "-m", "flask", "--app", "reports", "run", "--port", str(port)]
        start(stack, web, data / "web.log", "Running on")
        site = f"http://127.0.0.1:{port}"
        ordered = json.loads(ask(f"{site}/reports", {"year": 2025}))
        shown = None
        deadline = time.monotonic() + WAIT_S
        while True:
            answer = json.loads(ask(site + ordered["status"]))
            if answer["state"] == "PROGRESS" and answer["done"] != shown:
                shown = answer["done"]
                print(f"{shown} of {answer['of']} months")
            if answer["state"] in ("SUCCESS", "FAILURE") or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        if answer["state"] != "SUCCESS":
            sys.exit(f"{answer}\n{(data / 'worker.log').read_text()}")
        print(f"{answer['state']}: {answer['rows']} rows, {answer['pieces']} pieces")
        print(*ask(site + answer["file"]).decode().splitlines()[:2], "…", sep="\n")


def start(stack: ExitStack, argv: list, log: Path, ready: str) -> None:
    """Start a program and wait until it is ready; it ends with the stack."""
    with log.open("ab") as file:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(argv, cwd=HERE, env=environment, stdout=file, stderr=file)
    stack.callback(end, process)
    deadline = time.monotonic() + WAIT_S
    while ready not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{argv[0]} did not start:\n{log.read_text()}")
        time.sleep(0.05)


def end(process: subprocess.Popen) -> None:
    """End a program that was started."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, what: dict | None = None) -> bytes:
    """Return the web server's answer."""
    body = json.dumps(what).encode() if what else None
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:  # it says that it runs a moment before it listens
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="emq-flask-reports-") as name:
        main(Path(name))
