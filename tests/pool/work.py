"""The work that the pools run in these tests: the payload is a word and its arguments."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

from emq_compat.coroutines.settle import settle
from emq_compat.message import Delivery, Headers, Publish, Reply
from emq_compat.pool.base import Report
from tests.pool.drive import success


class SoftLimit(Exception):
    """Raised at the soft limit."""


def square(n: int) -> int:
    return n * n


def work(delivery: Delivery, report: Report) -> Reply:
    """Do what the payload says."""
    word, _, rest = delivery.payload.partition(b" ")
    return _WORDS[word.decode()](rest, delivery, report)


def _echo(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return success(rest)


def _pid(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return success(str(os.getpid()).encode())


def _collect(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return success(str(gc.collect()).encode())


def _who(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    known = delivery.msgid, delivery.queue, delivery.headers.task_id, delivery.attempt
    return success(" ".join(map(str, known)).encode())


def _sleep(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    report("STARTED", b"{}")
    time.sleep(float(rest))
    return success(b"slept")


def _soft(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    try:
        report("STARTED", b"{}")
        end = time.monotonic() + float(rest)
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftLimit:
        return success(b"soft limit")
    return success(b"no limit")


def _until_told(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    # Ends when the file that it names is there.
    with tempfile.TemporaryDirectory() as folder:
        report("STARTED", f"{folder}/go".encode())
        while not Path(folder, "go").exists():
            time.sleep(0.005)
    return success(b"gone")


async def _awaits(seconds: float, report: Report, *, stubborn: bool = False) -> Reply:
    report("STARTED", b"{}")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except SoftLimit:
            return success(b"soft limit")
        except asyncio.CancelledError:
            report("CANCELLED", b"{}")
            if not stubborn:
                raise
    return success(b"awaited")


def _async(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return settle(_awaits(float(rest), report))


def _async_stubborn(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return settle(_awaits(float(rest), report, stubborn=True))


def _async_block(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    async def block() -> Reply:
        report("STARTED", b"{}")
        await asyncio.sleep(0)
        time.sleep(float(rest))  # noqa: ASYNC251 - it is to block
        return success(b"blocked")

    return settle(block())


def _stubborn(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    report("STARTED", b"{}")
    end = time.monotonic() + float(rest)
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except BaseException:  # noqa: BLE001 - that's what it's for
            continue
    return success(b"late")


def _block(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    # One call that waits for a byte that doesn't come: no bytecode runs in between.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        report("STARTED", b"{}")
        timer = threading.Timer(float(rest), theirs.send, [b"x"])
        timer.start()
        try:
            ours.recv(1)
        finally:
            timer.cancel()
    return success(b"late")


def _raise(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    known: dict[bytes, type[BaseException]] = {
        b"ValueError": ValueError,
        b"SystemExit": SystemExit,
        b"KeyboardInterrupt": KeyboardInterrupt,
    }
    raise known[rest]("out of the work")


def _follow(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    follow_ups = tuple(
        Publish(msgid=f"f{i}", queue="next", headers=Headers(task_id=f"t{i}", priority=i), payload=b"p" * i)
        for i in range(3)
    )
    return Reply(state="RETRY", body=b"{}", follow_ups=follow_ups, no_result=True)


def _large(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return success(rest[::-1])


def _exit(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    os._exit(int(rest))


def _suicide(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    os.kill(os.getpid(), signal.SIGKILL)
    return success(b"")


def _grow(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    _kept.append(bytearray(int(rest)))
    return success(str(os.getpid()).encode())


def _note(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    # One line an execution: what ran twice shows.
    with Path(rest.decode()).open("a") as file:
        file.write(delivery.msgid + "\n")
    return success(str(os.getpid()).encode())


def _multiprocess(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        first = pool.map(square, [1, 2, 3])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        second = list(executor.map(square, [4, 5]))
    third = subprocess.run([sys.executable, "-c", "print(36)"], capture_output=True, check=True)
    return success(f"{first} {second} {third.stdout.split()}".encode())


def _multiprocess_sleep(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        report("STARTED", b"{}")
        pool.map(time.sleep, [float(rest), float(rest)])
    return success(b"slept")


def _own_term(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    def handle(signum: int, frame: FrameType | None) -> None:
        report("HANDLED", b"")

    signal.signal(signal.SIGTERM, handle)
    report("STARTED", b"")
    time.sleep(30)
    return success(b"")


def _terminate_own(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(5)
    return success(str(process.exitcode).encode())


def _terminate_subprocess(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    process = subprocess.Popen(["sleep", "60"])
    process.terminate()
    return success(str(process.wait(5)).encode())


def _ignored(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    # What a program that a task executes finds: the signals that are ignored, and those that are blocked.
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, check=True, text=True).stdout
    masks = [int(status.split(f"{name}:")[1].split()[0], 16) for name in ("SigIgn", "SigBlk")]
    # 32 and 33 are the C library's own, and come from whatever started the tests.
    signums = [signum for signum in range(1, 65) if signum not in (32, 33)]
    found = [[signum for signum in signums if mask >> signum - 1 & 1] for mask in masks]
    return success(" ".join(map(str, found)).encode())


def _parents(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    # A process that a task starts and leaves: in its group, and in a session of its own.
    pids = []
    for session in (False, True):
        argv = [sys.executable, "-c", "import time; time.sleep(300)"]
        child = subprocess.Popen(argv, start_new_session=session)
        pids.append(child.pid)
        child.returncode = 0  # it is meant to be left: no warning
    report("PIDS", " ".join(map(str, pids)).encode())
    if rest:
        time.sleep(float(rest))
    return success(" ".join(map(str, pids)).encode())


def _spin(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    report("STARTED", b"{}")
    sum(range(10**12))  # holds the GIL in one call
    return success(b"")


def _close_all(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    report("STARTED", b"{}")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    time.sleep(60)
    return success(b"")


def _lock(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    with LOCK:
        return success(b"got it")


def _thread(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    return success(threading.current_thread().name.encode())


def _random(rest: bytes, delivery: Delivery, report: Report) -> Reply:
    time.sleep(0.2)
    return success(str(random.random()).encode())


_kept: list[bytearray] = []
LOCK = threading.Lock()

_WORDS = {
    name.removeprefix("_"): thing
    for name, thing in list(globals().items())
    if name.startswith("_") and callable(thing)
}


class Rebuilt:
    """What a spawned child makes the work from."""

    def __init__(self, *args: str) -> None:
        self.args = args

    def work(self, delivery: Delivery, report: Report) -> Reply:
        """Do what the payload says; ``args`` tells with what this was made."""
        if delivery.payload == b"args":
            return success(" ".join(self.args).encode())
        return work(delivery, report)

    def child_init(self) -> None:
        """Nothing to do."""

    def child_exit(self) -> None:
        """Nothing to do."""
