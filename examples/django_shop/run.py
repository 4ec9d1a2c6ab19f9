"""Runs the shop: database, web server, a worker with a broker of its own, some customers; all end with it."""

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

ORDERS = (
    {"email": "anna@example.com", "card": "4000 0001", "wanted": {"chair": 2}},
    {"email": "ben@example.com", "card": "4000 0002", "wanted": {"chair": 1, "table": 1}},
    {"email": "carla@example.com", "card": "4000 0000", "wanted": {"chair": 1}},
    {"email": "dora@example.com", "card": "4000 0003", "wanted": {"table": 9}},
)


def main(data: Path) -> None:
    """Show five orders, one of them placed before there is a broker, and a report.

    Database, mails, journal and logs are in ``data``.
    """
    os.environ["SHOP_DATA"] = str(data)
    os.environ["SHOP_RESUME_AFTER_S"] = "1"
    os.environ["CELERY_BROKER_URL"] = f"emq+ipc://{data}/sockets"
    manage("migrate", "--verbosity", "0")
    manage("stock", "chair", "19.50", "10")
    manage("stock", "table", "80.00", "2")
    print("emil@example.com:", manage("order", "emil@example.com", "4000 0004", "chair=1").strip())
    with ExitStack() as stack:
        worker = [EMQ_COMPAT, "-A", "proj", "worker", "-B", "-c", "2", "--embed-broker", data / "broker"]
        start(stack, worker, data / "worker.log", " is ready")
        port = free_port()
        web = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"]
        start(stack, web, data / "web.log", "Quit the server")
        shop = f"http://127.0.0.1:{port}/orders/"
        placed = [ask(shop, order) for order in ORDERS]
        for order, answer in zip(ORDERS, placed, strict=True):
            end = settled(f"{shop}{answer['order']}/") if "order" in answer else answer
            print(f"{order['email']}: {told(end)}")
        print("emil@example.com:", told(settled(f"{shop}1/")))
        print("report:", manage("report").strip())
    mails = sum(path.read_text().count("Subject: ") for path in (data / "mails").iterdir())
    print(f"{mails} mails are sent")


def manage(*words: str) -> str:
    """Run ``manage.py``; return what it prints."""
    argv = [sys.executable, "manage.py", *words]
    run = subprocess.run(argv, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True, timeout=WAIT_S)
    return run.stdout


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


def ask(url: str, order: dict | None = None) -> dict:
    """Return the web server's answer."""
    body = json.dumps(order).encode() if order else None
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            return json.load(exc)
        except urllib.error.URLError:  # it says that it starts a moment before it listens
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def settled(url: str) -> dict:
    """Ask until an order is through."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        order = ask(url)
        if order["status"] in ("declined", "unpaid") or (order["sent"] and order["picked"]):
            return order
        time.sleep(0.1)
    sys.exit(f"{url} is not through in time")


def told(order: dict) -> str:
    """Return a line about an order's end."""
    if "error" in order:
        return f"not placed: {order['error']}"
    tries = f"asked the bank {order['attempts']} ×"
    if order["status"] == "paid":
        return f"paid, {tries}; {order['invoice'].splitlines()[-1]}"
    return f"{order['status']}, {tries}: {order['remark']}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="emq-django-shop-") as name:
        main(Path(name))
