"""Publishing, draining and latency beside genuine Celery on Redis and RabbitMQ, and beside bare pyzmq.

usage: side_by_side.py [-n N] [-r ROUNDS] [--celery PYTHON [--amqp URL]] [SYSTEM...]

Each system runs the same two tasks in a prefork worker of two children; in each round each has its turn. The
medians are printed, and emq-compat's ratios to each peer:

    enqueue/s     published one by one by one thread, each confirmed, while the worker runs them
    bulk/s        published by ``app.pipeline()``, confirmed as a whole
    drain/s       N tasks wait; from the moment the stopped worker goes on until the last has run
    p50, p99 ms   one task at a time, from ``delay()`` to its result in hand

SYSTEM: full, normal (emq-compat's durabilities, over TCP), ipc (full, over unix sockets), redis, amqp,
limit (a forwarder on two ROUTERs that stores nothing, between a client and a worker that echoes: messages/s).
PYTHON is the interpreter of an environment with celery[redis]; redis-server must be on the PATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq
from _site import free_ports, offer_celery, running

TASKS = """
import os
if os.environ["WHICH"] == "emq":
    from emq_compat.celery_shim import Celery
else:
    from celery import Celery

app = Celery("side_tasks", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])


@app.task(ignore_result=True)
def count():
    fd = os.open("ran", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b".")
    os.close(fd)


@app.task
def echo(value):
    return value
"""

DRIVER = """
import json, os, signal, statistics, sys, time
from side_tasks import app, count, echo

n, worker = int(sys.argv[1]), int(sys.argv[2])


def ran(wanted):
    end = time.monotonic() + 120
    while os.path.getsize("ran") < wanted:
        assert time.monotonic() < end, f"only {os.path.getsize('ran')} of {wanted} ran"
        time.sleep(0.002)
    open("ran", "wb").close()


def timed(publishes):
    began = time.perf_counter()
    for _ in range(publishes):
        count.delay()
    return time.perf_counter() - began


open("ran", "wb").close()
echo.delay(1).get(timeout=60)
figures = {"enqueue/s": n / timed(n)}
ran(n)
os.killpg(worker, signal.SIGSTOP)
try:
    if os.environ["WHICH"] == "emq":
        began = time.perf_counter()
        with app.pipeline():
            timed(n)
        figures["bulk/s"] = n / (time.perf_counter() - began)
    else:
        timed(n)
finally:
    os.killpg(worker, signal.SIGCONT)
began = time.perf_counter()
ran(n)
figures["drain/s"] = n / (time.perf_counter() - began)
took = []
for i in range(300):
    began = time.perf_counter()
    echo.delay(i).get(timeout=10)
    took.append((time.perf_counter() - began) * 1000)
cuts = statistics.quantiles(took, n=100)
print(json.dumps({**figures, "p50 ms": cuts[49], "p99 ms": cuts[98]}))
"""

FIGURES = ("enqueue/s", "bulk/s", "drain/s", "p50 ms", "p99 ms")


def measured(
    python: str, worker: list[str], env: dict[str, str], folder: Path, count: int
) -> dict[str, float]:
    command = [*worker, "-A", "side_tasks", "worker", "-c", "2", "-l", "warning"]
    with running(command, folder, env) as process:
        argv = [python, "driver.py", str(count), str(process.pid)]
        run = subprocess.run(argv, cwd=folder, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def emq(folder: Path, count: int, system: str) -> dict[str, float]:
    durability = "normal" if system == "normal" else "full"
    with tempfile.TemporaryDirectory(dir=folder) as data:
        if system == "ipc":
            url, sockets = f"emq+ipc://{data}/sockets", ["--ipc", f"{data}/sockets"]
        else:
            ports = dict(zip(("frontend", "backend", "admin"), free_ports(3), strict=True))
            url = f"emq://127.0.0.1:{ports['frontend']}?worker_port={ports['backend']}"
            sockets = [part for name, port in ports.items() for part in (f"--{name}", f"tcp://127.0.0.1:{port}")]
        command = str(Path(sys.executable).parent / "emq-compat")
        env = {**os.environ, "WHICH": "emq", "BROKER": url, "BACKEND": url}
        broker = [command, "broker", "--data", f"{data}/journal", "--durability", durability, *sockets]
        with running(broker, folder):
            return measured(sys.executable, [command], env, folder, count)


def celery(folder: Path, count: int, python: str, broker: str) -> dict[str, float]:
    [port] = free_ports(1)
    url = f"redis://127.0.0.1:{port}"
    env = {**os.environ, "WHICH": "celery", "BROKER": broker or f"{url}/0", "BACKEND": f"{url}/1"}
    redis = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    with running(redis, folder):
        return measured(python, [python, "-m", "celery"], env, folder, count)


def _forward(front: str, back: str) -> None:
    context = zmq.Context()
    clients, workers = (context.socket(zmq.ROUTER) for _ in range(2))
    poller = zmq.Poller()
    for bound, endpoint in ((clients, front), (workers, back)):
        bound.set_hwm(0)
        bound.bind(endpoint)
        poller.register(bound, zmq.POLLIN)
    worker = workers.recv_multipart()[0]
    while True:
        ready = dict(poller.poll())
        with contextlib.suppress(zmq.Again):
            while clients in ready:
                workers.send_multipart([worker, *clients.recv_multipart(zmq.NOBLOCK)])
        with contextlib.suppress(zmq.Again):
            while workers in ready:
                clients.send_multipart(workers.recv_multipart(zmq.NOBLOCK)[1:])


def _echo(back: str) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.set_hwm(0)
    socket.connect(back)
    socket.send(b"READY")
    while True:
        frames = socket.recv_multipart()
        json.loads(frames[-1])
        socket.send_multipart([frames[0], b"", b"eMQP/1.0", b"REPLY", frames[4], b'{"value": null}'])


def limit(count: int) -> dict[str, float]:
    body = json.dumps(["run", {"path": "bench_tasks", "callable": "noop", "args": [], "kwargs": {}}]).encode()
    ends = [f"tcp://127.0.0.1:{port}" for port in free_ports(2)]
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=_forward, args=ends), fork.Process(target=_echo, args=ends[1:])]
    for other in others:
        other.start()
    context = zmq.Context()
    client = context.socket(zmq.DEALER)
    client.set_hwm(0)
    client.connect(ends[0])

    def send(i: int) -> None:
        client.send_multipart([b"", b"eMQP/1.0", b"REQUEST", b"%036d" % i, b"default", b"", body])

    try:
        send(0)
        client.recv_multipart()
        began = time.perf_counter()
        for i in range(count):
            send(i)
        for _ in range(count):
            client.recv_multipart()
        return {"drain/s": count / (time.perf_counter() - began)}
    finally:
        context.destroy(linger=0)
        for other in others:
            other.terminate()
            other.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=3000, help="tasks of each measurement")
    parser.add_argument("-r", "--rounds", type=int, default=1)
    offer_celery(parser)
    parser.add_argument("--amqp", metavar="URL", help="of a RabbitMQ, for Celery's other broker")
    parser.add_argument("systems", nargs="*", metavar="SYSTEM")
    options = parser.parse_args()
    beside = ["redis"] if options.celery and shutil.which("redis-server") else []
    beside += ["amqp"] if beside and options.amqp else []
    systems = options.systems or ["full", "normal", "ipc", "limit", *beside]
    rows: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "side_tasks.py").write_text(TASKS)
        (folder / "driver.py").write_text(DRIVER)
        for _ in range(options.rounds):
            for system in systems:
                if system == "limit":
                    rows[system].append(limit(options.n * 4))
                elif system in ("redis", "amqp"):
                    broker = options.amqp if system == "amqp" else ""
                    rows[system].append(celery(folder, options.n, options.celery, broker))
                else:
                    rows[system].append(emq(folder, options.n, system))
                figures = {key: round(value, 2) for key, value in rows[system][-1].items()}
                print(f"{system}: {json.dumps(figures)}", flush=True)
    medians = {
        system: {key: statistics.median(row[key] for row in found) for key in FIGURES if key in found[0]}
        for system, found in rows.items()
    }
    print(f"\n{'medians':<12}" + "".join(f"{key:>12}" for key in FIGURES))
    for system, row in medians.items():
        print(f"{system:<12}" + "".join(f"{row.get(key, float('nan')):>12.2f}" for key in FIGURES))
    for ours in [system for system in ("full", "normal", "ipc") if system in medians]:
        for peer in [system for system in ("redis", "amqp", "limit") if system in medians]:
            base = {**medians[peer], "bulk/s": medians[peer].get("enqueue/s", float("nan"))}
            ratios = (medians[ours][key] / base.get(key, float("nan")) for key in FIGURES)
            print(f"{ours} / {peer:<7}".ljust(16)[:16] + "".join(f"{ratio:>12.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
