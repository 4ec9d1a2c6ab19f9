"""``memory://``: the broker in the test's own process."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emq_compat.address import Address
from emq_compat.broker import inprocess
from emq_compat.celery_shim import Celery, OperationalError
from emq_compat.client import Client
from emq_compat.errors import AddressError
from emq_compat.testing.broker import MemoryBroker, memory_broker

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def folder_of(url: str = "memory://") -> str:
    [address] = Address.parse(url)
    return address.host


def test_it_starts_in_milliseconds(app: Celery) -> None:
    """Starting it, and the first answer, take less than 20 ms."""
    app.connection().connect()  # imports
    took = []
    for _ in range(5):
        app.close()
        inprocess.end(folder_of())
        began = time.perf_counter()
        app.connection().connect()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.020


def test_nothing_is_left_of_it() -> None:
    """Once its block is over there is no thread, socket or folder of it."""
    threads = threading.active_count()
    with memory_broker():
        Celery("one", broker="memory://", set_as_current=False).connection().connect()
        folder = folder_of()
        assert 0o700 == os.stat(folder).st_mode & 0o777
    assert (threads, False, None) == (
        threading.active_count(), Path(folder).exists(), inprocess.running(folder),
    )  # fmt: skip


def test_apps_share_it(make_app: Callable[..., Celery]) -> None:
    """Apps of a process that name memory:// have one broker; another name is another broker."""
    one, other = make_app(), make_app(broker="memory://localhost/")
    apart = make_app(broker="memory://apart")
    one.send_task("t")
    with memory_broker("memory://apart"):
        waiting = [app.connection().default_channel.queue_declare("celery").message_count
                   for app in (one, other, apart)]  # fmt: skip
    assert [1, 1, 0] == waiting


def test_what_is_left_in_it_is_forgotten(make_app: Callable[..., Celery]) -> None:
    """The end of a block drops what waits; an inner one leaves the broker itself, and its results."""
    app = make_app(backend="emq://")
    app.backend.store_result("done", 1, "SUCCESS")
    with memory_broker():
        app.send_task("t")
        app.send_task("later", countdown=60)
    queue = app.connection().default_channel.queue_declare("celery")
    assert (0, "SUCCESS") == (queue.message_count, app.AsyncResult("done").state)


def test_a_forked_process_reaches_it(app: Celery) -> None:
    """A process that is forked from this one publishes to this one's broker, and starts none."""
    app.connection().connect()

    def publish() -> None:
        app.send_task("from a child")
        with pytest.raises(OperationalError, match="another process's"):
            MemoryBroker().advance(1)

    child = multiprocessing.get_context("fork").Process(target=publish)
    child.start()
    child.join(30)
    assert (0, 1) == (child.exitcode, app.connection().default_channel.queue_declare("celery").message_count)


def test_a_forked_process_has_its_own_where_there_is_none(app: Celery, tmp_path: Path) -> None:
    """A process that is forked before anybody has connected starts its own broker."""

    def publish() -> None:
        app.send_task("t")
        (tmp_path / "ran").write_text(str(inprocess.running(folder_of()) is not None))
        inprocess.end(folder_of())

    child = multiprocessing.get_context("fork").Process(target=publish)
    child.start()
    child.join(30)
    assert (0, "True") == (child.exitcode, (tmp_path / "ran").read_text())


def test_it_is_started_again_when_it_has_ended(app: Celery) -> None:
    """An app that outlives its broker has a new, empty one at its next call."""
    app.send_task("t")
    inprocess.end(folder_of())
    assert 0 == app.connection().default_channel.queue_declare("celery").message_count


def test_what_killed_processes_left_is_removed(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first broker of a process removes old folders in which nobody listens, and no other."""
    app.connection().connect()
    parent = Path(folder_of()).parent
    stale, young = (parent / f"emq-memory-{n}-{os.urandom(6).hex()}" for n in (1, 2))
    other = parent / f"emq-memory-{os.urandom(6).hex()}"
    try:
        for folder in (stale, young, other):
            folder.mkdir()
            (folder / "client.sock").touch()
        for folder in (stale, other, Path(folder_of())):
            os.utime(folder, (1, 1))
        monkeypatch.setattr(inprocess, "_swept", False)
        with memory_broker("memory://first"), Client("memory://first") as client:
            client.ask("queues")
        assert [False, True, True] == [folder.exists() for folder in (stale, young, other)]
        app.connection().connect()
        assert Path(folder_of()).exists()
    finally:
        for folder in (stale, young, other):
            shutil.rmtree(folder, ignore_errors=True)


def test_threads_start_one(app: Celery) -> None:
    """Threads that connect at the same moment start one broker between them."""
    threads = [threading.Thread(target=app.send_task, args=("t",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 8 == app.connection().default_channel.queue_declare("celery").message_count


def test_a_folder_that_cant_be_made_is_named(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the sockets' folder can't be made, connecting says so."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(OperationalError, match=r"emq-memory-.* can't be made: Permission denied"):
        app.send_task("t")


@pytest.mark.parametrize("url", ["memory://a b", "memory://x?keys=y", "memory://" + "n" * 33, "memory://../x"])
def test_names_that_cant_be(url: str) -> None:
    """A name that is no name, and options, are refused with the address in the message."""
    with pytest.raises(AddressError, match="memory://"):
        Address.parse(url)
    with pytest.raises(AddressError, match="memory://"):
        MemoryBroker("emq://host")


