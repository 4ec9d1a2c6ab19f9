"""Runs the application: a worker with a broker of its own, uvicorn, a browser; all end with it."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

HERE = Path(__file__).parent
EMQ_COMPAT = Path(sys.executable).with_name("emq-compat")
WAIT_S = 60


def main(data: Path) -> None:
    """Ask for quotes, watch them arrive, and poll for the best; journal and logs are in ``data``."""
    port = free_port()
    site = f"http://127.0.0.1:{port}"
    os.environ["CELERY_BROKER_URL"] = f"emq+ipc://{data}/sockets"
    os.environ["QUOTES_SUPPLIERS"] = f"{site}/suppliers"
    with ExitStack() as stack:
        worker = [EMQ_COMPAT, "-A", "quotes", "worker", "-P", "asyncio", "--embed-broker", data / "broker"]
        start(stack, worker, data / "worker.log", " is ready")
        web = [sys.executable, "-m", "uvicorn", "quotes.main:web", "--port", str(port), "--workers", "2"]
        start(stack, web, data / "web.log", "Application startup complete")
        with httpx.Client(base_url=site, timeout=WAIT_S, transport=httpx.HTTPTransport(retries=5)) as browser:
            ordered = browser.post("/quotes", json={"article": "hinge", "pieces": 100}).json()
            with browser.stream("GET", ordered["stream"]) as events:
                label = ""
                for line in events.iter_lines():
                    if line.startswith("event: "):
                        label = line.removeprefix("event: ") + ": "
                    elif line.startswith("data: "):
                        print(label + told(json.loads(line.removeprefix("data: "))))
            print("polled:", told(browser.get(f"/quotes/{ordered['best']}").json()["best"]))
            many(browser)


def many(browser: httpx.Client) -> None:
    """Have twenty more asked for; each takes 0.7 seconds, and all together hardly more."""
    began = time.monotonic()
    asked = [browser.post("/quotes", json={"article": f"article {n}"}).json()["best"] for n in range(20)]
    for best in asked:
        while (state := browser.get(f"/quotes/{best}").json()["state"]) != "SUCCESS":
            if state == "FAILURE" or time.monotonic() > began + WAIT_S:
                sys.exit(f"a quote is {state}")
            time.sleep(0.02)
    print(f"20 more: {time.monotonic() - began:.1f} s; one after the other it would be 28 s")


def told(quote: dict) -> str:
    """Return a line about a quote."""
    price = quote["price"]
    return f"{quote['supplier']}: {'nothing' if price is None else f'{price:.2f}'}"


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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="emq-fastapi-async-") as name:
        main(Path(name))
