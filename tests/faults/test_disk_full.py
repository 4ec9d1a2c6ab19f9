"""A disk without room, or that takes no write: it is said, nothing confirmed is lost, and it goes on."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from emq_compat.errors import BrokerRefused, OperationalError
from tests.broker_process import Broker
from tests.faults.conftest import Plant
from tests.faults.faulty_tasks import bulky
from tests.processes import Procs, wait_until

pytestmark = pytest.mark.faults

PAD = "x" * 30_000
#: What the disk has, and what of it is free at first.
DISK_BYTES = 40 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, where the machine lets us make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.getuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no disk can be made here: root, and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


class Publisher(threading.Thread):
    """Publishes one by one until it is told to end; knows what was confirmed, and what was refused."""

    def __init__(self) -> None:
        super().__init__(name="publisher")
        self.confirmed: list[int] = []
        self.refused: list[str] = []
        self.unknown: list[int] = []
        self.error: BaseException | None = None
        self._end = threading.Event()
        self._n = 0

    def run(self) -> None:
        try:
            while not self._end.is_set():
                self._one()
        except BaseException as exc:  # noqa: BLE001 - told to the test
            self.error = exc

    def _one(self) -> None:
        n, self._n = self._n, self._n + 1
        try:
            bulky.delay(n, PAD)
        except BrokerRefused as exc:
            self.refused.append(str(exc))
            self._end.wait(0.02)
        except OperationalError:
            self.unknown.append(n)
        else:
            self.confirmed.append(n)

    def end(self) -> None:
        self._end.set()
        self.join(60)
        assert not self.is_alive(), "the publisher hangs"
        assert self.error is None, repr(self.error)


def no_room(plant: Plant, rounds: int, fill: Callable[[], None], free: Callable[[], None]) -> None:
    """Take the room away and give it back, under load; then check that each confirmed task ran once."""
    broker = plant.broker.start()
    worker = plant.start_worker()
    publisher = Publisher()
    publisher.start()
    try:
        for _ in range(rounds):
            ran, told = len(publisher.confirmed), len(publisher.refused)
            wait_until(lambda ran=ran: len(publisher.confirmed) > ran + 20, 30, what="publishes")
            fill()
            wait_until(lambda told=told: len(publisher.refused) > told + 20, 60, what="refusals")
            free()
            again = len(publisher.confirmed)
            wait_until(lambda again=again: len(publisher.confirmed) > again + 5, 30, what="publishes again")
    finally:
        publisher.end()
    assert all("store" in text for text in publisher.refused), set(publisher.refused)
    assert broker.alive()
    assert worker.alive()
    confirmed = {str(n) for n in publisher.confirmed}
    wait_until(lambda: confirmed <= set(plant.runs()), 60, what="each confirmed task's run")
    wait_until(lambda: plant.broker.waiting("faulty") == 0, 30, what="an empty queue")
    runs = plant.runs()
    assert {} == {n: times for n, times in runs.items() if times > 1}
    assert set(runs) - confirmed <= {str(n) for n in publisher.unknown}
    assert [] == plant.broker.client.ask("dead_list")
    assert "Traceback" not in broker.output() + worker.output()


def a_full_disk(plant: Plant, disk: Path, rounds: int) -> None:
    """The rounds on a disk that a file fills."""
    plant.broker.data = disk / "data"
    filler = disk / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    no_room(plant, rounds, fill, filler.unlink)


def test_a_full_disk(small_disk: Path, plant: Plant) -> None:
    """A disk is filled under load, and emptied: all that was confirmed runs once, the rest was refused."""
    a_full_disk(plant, small_disk, 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_full_disk_again_and_again(small_disk: Path, plant: Plant) -> None:
    """The same, 20 times."""
    a_full_disk(plant, small_disk, 20)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_files_that_may_not_grow(plant: Plant) -> None:
    """The same, 10 times, with a limit on the size of the broker's files, which works on any machine."""

    def limit(size: int) -> None:
        assert plant.broker.proc is not None
        psutil.Process(plant.broker.proc.pid).rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    no_room(plant, 10, lambda: limit(5 << 20), lambda: limit(resource.RLIM_INFINITY))


def test_a_start_without_room_ends_with_what_to_do(small_disk: Path, broker: Broker) -> None:
    """On a full disk a broker ends with a message, and starts once there is room; nothing is half made."""
    (small_disk / "filler").write_bytes(bytes(DISK_BYTES - (64 << 10)))
    broker.data = small_disk / "data"
    proc = broker.start(ready=None)
    assert 1 == proc.wait(30)
    assert "make room" in proc.output()
    assert "Traceback" not in proc.output()
    (small_disk / "filler").unlink()
    broker.start()
    assert [] == broker.client.ask("queues")


def test_a_disk_that_takes_no_write(small_disk: Path, broker: Broker) -> None:
    """In a folder on a read-only disk a broker ends with a message; --check reads it all the same."""
    broker.data = small_disk / "data"
    broker.start()
    broker.client.ask("queues")
    assert broker.proc is not None
    assert 0 == broker.proc.stop()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    proc = broker.start(ready=None)
    assert 1 == proc.wait(30)
    assert "Read-only file system" in proc.output()
    assert "--data" in proc.output()
    assert "Traceback" not in proc.output()
    checked = broker.procs.emq("broker", "--data", str(broker.data), "--check")
    assert 0 == checked.wait(30)
    assert "whole" in checked.output()


def test_a_folder_that_may_not_be_written(procs: Procs, tmp_path: Path) -> None:
    """A folder without the right to write is refused with a message."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        folder.rmdir()
        folder = Path("/proc/nowhere")
    proc = procs.emq("broker", "--data", str(folder))
    assert 1 == proc.wait(30)
    assert "can't be used" in proc.output()
    assert "Traceback" not in proc.output()
