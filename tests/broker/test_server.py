"""A real broker process: what it keeps when it is killed, what it refuses, and how it starts and ends."""

from __future__ import annotations

import os
import resource
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from emq_compat.broker.server import Server
from emq_compat.client import Client
from emq_compat.config import BrokerConfig
from emq_compat.errors import (
    BrokerRefused,
    JournalError,
    JournalUnwritable,
    NotPublished,
    OperationalError,
    QueueFull,
)
from emq_compat.message import Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import Capabilities, Inform, Ready, Reply
from emq_compat.terms import Once
from tests.broker_process import Broker
from tests.faults import zmtp
from tests.faults.zmtp import Raw
from tests.hand_worker import HandWorker, message
from tests.processes import Procs, wait_until

pytestmark = pytest.mark.integration

Worker = Callable[..., HandWorker]


def test_what_was_confirmed_survives_kill_9(broker: Broker, hand_worker: Worker) -> None:
    """Every publish that returned is handed out, once, by a broker that was killed and started again."""
    confirmed: list[str] = []
    killed = threading.Event()

    def publish() -> None:
        while not killed.is_set():
            one = message()
            try:
                broker.client.publish(one)
            except OperationalError:
                return
            confirmed.append(one.msgid)

    proc = broker.start()
    publisher = threading.Thread(target=publish)
    publisher.start()
    wait_until(lambda: len(confirmed) > 300, what="300 publishes")
    proc.kill()
    killed.set()
    publisher.join()
    broker.start()
    worker = hand_worker("q")
    worker.ready(len(confirmed) + 10)
    worker.take(len(confirmed))
    broker.client.ask("stats")
    worker.until(lambda: broker.waiting() == 0)
    taken = [request.msgid for request in worker.taken]
    assert len(taken) == len(set(taken))
    assert set(confirmed) <= set(taken)
    assert len(set(taken) - set(confirmed)) <= 1  # the one that was under way


def test_order_is_kept_across_a_restart(broker: Broker, hand_worker: Worker) -> None:
    """First in, first out within a priority, the higher one first, also when a restart lies between."""
    proc = broker.start()
    first = [message(priority=n % 3) for n in range(30)]
    broker.client.publish_all(first)
    proc.stop()
    broker.start()
    second = [message(priority=n % 3) for n in range(30)]
    broker.client.publish_all(second)
    worker = hand_worker("q")
    worker.ready(60)
    taken = [request.msgid for request in worker.take(60)]
    by_priority = [m.msgid for p in (2, 1, 0) for m in first + second if m.headers.priority == p]
    assert by_priority == taken


def test_a_result_is_read_after_a_restart(broker: Broker, hand_worker: Worker) -> None:
    """A result that was acknowledged is there for another process, after kill -9 too; forget deletes it."""
    proc = broker.start()
    one = message()
    broker.client.publish(one)
    worker = hand_worker("q")
    worker.ready(1)
    worker.succeed(worker.take(1)[0], b'"done"')
    proc.kill()
    broker.start()
    task_id = one.headers.task_id
    stored = broker.client.results([task_id])[task_id]
    assert stored is not None
    assert ("SUCCESS", "done") == (stored.state, stored.reply["value"])
    assert 1 == broker.client.ask("forget", ids=[task_id])
    assert {task_id: None} == broker.client.results([task_id])


def test_a_result_is_gone_after_its_time(broker: Broker, hand_worker: Worker) -> None:
    """--result-expires: an expired result is neither given out nor kept."""
    broker.start("--result-expires", "1")
    one = message()
    broker.client.publish(one)
    worker = hand_worker("q")
    worker.ready(1)
    worker.succeed(worker.take(1)[0])
    assert 1 == broker.client.ask("stats")["results"]
    worker.until(lambda: broker.client.ask("stats")["results"] == 0)
    assert {one.headers.task_id: None} == broker.client.results([one.headers.task_id])


def test_eta_is_kept_by_the_broker(broker: Broker, hand_worker: Worker) -> None:
    """A message with an eta leaves at its time, not before, also from a broker that was killed meanwhile."""
    proc = broker.start()
    eta = time.time() + 4
    broker.client.publish(message(eta=eta))
    proc.kill()
    broker.start()
    worker = hand_worker("q")
    worker.ready(1)
    assert 1 == broker.waiting()
    worker.take(1)
    assert -0.01 <= time.time() - eta < 2


def test_a_full_queue_refuses(broker: Broker) -> None:
    """--queue-limit: what is past it is refused to its publisher, by name, and the rest is kept (case 5b)."""
    broker.start("--queue-limit", "100")
    messages = [message() for _ in range(150)]
    with pytest.raises(NotPublished) as refused:
        broker.client.publish_all(messages)
    assert [m.msgid for m in messages[100:]] == list(refused.value.msgids)
    with pytest.raises(QueueFull, match="q"):
        broker.client.publish(message())
    broker.client.publish(message("other"))
    assert 100 == broker.waiting()


def test_a_full_disk_refuses_and_recovers(broker: Broker) -> None:
    """While the disk takes no write publishers are told; what was confirmed is kept, and it goes on after."""
    proc = broker.start("-l", "debug")
    broker.client.publish(message())
    process = psutil.Process(proc.pid)
    used = max(f.stat().st_size for f in broker.data.iterdir())
    process.rlimit(resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
    confirmed = 1

    def fill() -> bool:
        nonlocal confirmed
        try:
            broker.client.publish_all([message(task="x" * 500) for _ in range(50)])
        except NotPublished:
            return True
        confirmed += 50
        return False

    wait_until(fill, what="a refusal")
    with pytest.raises(BrokerRefused, match="disk"):
        broker.client.publish(message())
    for verb, arguments in {"queues": {}, "purge": {"queue": "q"}, "results": {"ids": ["x"]}}.items():
        with pytest.raises(JournalUnwritable, match="until its journal can be written again"):
            broker.client.ask(verb, **arguments)
    with pytest.raises(TimeoutError):  # who waits goes on waiting
        next(broker.client.wait(["x"], 0.1))
    process.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def publish() -> bool:
        try:
            broker.client.publish(message())
        except OperationalError:
            return False
        return True

    wait_until(publish, what="a publish that is taken again")
    assert confirmed + 1 == broker.waiting()
    # A connection that was there before is known for one of ours still: it is told the first one's id.
    unique = {"task_id": "first", "once": Once(key="k").encode()}
    broker.client.publish(message(**unique))
    assert "first" == broker.client.publish(message(**{**unique, "task_id": "second"}))
    proc.kill()
    broker.start()
    assert confirmed + 2 == broker.waiting()


def test_a_question_whose_turn_is_undone_is_refused(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the first to meet the full disk; it is told why, and the next one is answered."""
    ports = {name: f"tcp://127.0.0.1:{free_port()}" for name in ("frontend", "backend", "admin")}
    server = Server(BrokerConfig(**ports, memory=True))
    real, full = server.store.commit, list[bool]()

    def commit(*, told: bool = True) -> None:
        if told and full and full.pop():
            raise JournalError("no space left on device")
        real(told=told)

    monkeypatch.setattr(server.store, "commit", commit)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with Client(ports["frontend"].replace("tcp", "emq")) as client:
            client.ask("stats")
            full.append(True)
            with pytest.raises(JournalUnwritable, match="no space left"):
                client.ask("purge", queue="q")
            wait_until(lambda: not server.trouble, what="a broker that works again")
            assert 0 == client.ask("purge", queue="q")
    finally:
        server.stop()
        thread.join()
        server.close()


def test_a_second_broker_on_the_folder_is_refused(
    broker: Broker, procs: Procs, free_port: Callable[[], int]
) -> None:
    """Two brokers never share a journal: the second one names the first and ends with an error."""
    first = broker.start()
    second = Broker(procs, free_port, broker.data)
    proc = second.start(ready=None)
    assert 1 == proc.wait()
    assert f"another broker (pid {first.pid})" in proc.output()
    assert "Traceback" not in proc.output()


def test_a_port_in_use_is_named(
    broker: Broker, procs: Procs, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """An address that can't be bound ends the start with a line that names it."""
    broker.start()
    second = Broker(procs, free_port, tmp_path / "other")
    second.ports["backend"] = broker.ports["backend"]
    proc = second.start(ready=None)
    assert 1 == proc.wait()
    assert str(broker.ports["backend"]) in proc.output()
    assert "Traceback" not in proc.output()


def test_the_folder_is_private(broker: Broker) -> None:
    """The data folder is 0700 and its files are 0600, whatever the umask."""
    before = os.umask(0)
    try:
        broker.start()
    finally:
        os.umask(before)
    broker.client.publish(message())
    assert 0o700 == stat.S_IMODE(broker.data.stat().st_mode)
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in broker.data.iterdir()}
    assert "journal.sqlite3" in modes
    assert {0o600} == set(modes.values()), modes


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_on_signals(broker: Broker, signum: int) -> None:
    """TERM and INT end the broker with status 0 within a second or so."""
    proc = broker.start()
    assert 0 == proc.stop(5, signum)
    assert "ended" in proc.output()


def test_a_backup_is_a_journal(
    broker: Broker, procs: Procs, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """--backup writes a copy, while publishing goes on, that another broker can be started on."""
    broker.start()
    broker.client.publish_all([message() for _ in range(500)])
    done = threading.Event()

    def publish() -> None:
        with Client(broker.url) as client:
            while not done.is_set():
                client.publish(message("busy"))

    publisher = threading.Thread(target=publish)
    publisher.start()
    copy = tmp_path / "copy" / "journal.sqlite3"
    copy.parent.mkdir(mode=0o700)
    backup = procs.emq("broker", "--frontend", broker.endpoint("frontend"), "--backup", str(copy))
    assert 0 == backup.wait()
    done.set()
    publisher.join()
    assert f"written: {copy}" in backup.output()
    again = procs.emq("broker", "--frontend", broker.endpoint("frontend"), "--backup", str(copy))
    assert 1 == again.wait()
    assert "exists already" in again.output()
    other = Broker(procs, free_port, copy.parent)
    other.start()
    assert 500 == other.waiting()
    other.client.close()


def test_a_backup_of_no_broker_ends_with_an_error(procs: Procs, tmp_path: Path) -> None:
    """--backup tells within seconds that no broker is there."""
    backup = procs.emq("broker", "--ipc", str(tmp_path / "sockets"), "--backup", str(tmp_path / "copy"))
    assert 1 == backup.wait()
    assert "Error: no broker within" in backup.output()


def test_memory_forgets(broker: Broker) -> None:
    """--memory keeps nothing on disk and says so."""
    proc = broker.start("--memory")
    broker.client.publish(message())
    assert "memory only" in proc.output()
    assert not broker.data.exists()
    proc.stop()
    broker.start("--memory")
    assert 0 == broker.waiting()


def test_the_same_message_twice_is_one(broker: Broker, hand_worker: Worker) -> None:
    """A MSGID that was published before is confirmed and dropped: waiting, in flight, ended, or restarted."""
    proc = broker.start()
    one = message()
    broker.client.publish(one)
    broker.client.publish(one)
    worker = hand_worker("q")
    worker.ready(5)
    worker.take(1)
    broker.client.publish(one)
    worker.succeed(worker.taken[0])
    broker.client.publish(one)
    proc.kill()
    broker.start()
    broker.client.publish(one)
    assert 0 == broker.waiting()
    assert 1 == len(worker.taken)


def test_a_worker_that_speaks_is_not_lost(broker: Broker) -> None:
    """While a large REPLY comes over a slow network its worker lives: its heartbeats stand behind it."""
    broker.start("--dead-after", "1")
    raw = Raw(broker.ports["backend"])
    raw.send(zmtp.opening())
    capabilities = Capabilities(slots=1, pid=1, tasks={})
    inform = Inform(msgid=new_id(), queues=((10, "q"),), role="worker", capabilities=capabilities)
    raw.send(zmtp.said(inform) + zmtp.said(Ready(msgid=new_id(), count=1)))
    one = message()
    broker.client.publish(one)
    heard = bytearray()
    wait_until(lambda: [heard.extend(raw.read()), one.msgid.encode() in heard][1])
    body = b'{"value":"' + b"x" * (3 << 20) + b'","state":"SUCCESS"}'
    headers = ReplyHeaders(state="SUCCESS", attempt=1)
    said = zmtp.said(Reply(msgid=new_id(), body=body, request_msgid=one.msgid, headers=headers))
    began = time.monotonic()
    for at in range(0, len(said), step := len(said) // 25):
        assert raw.send(said[at : at + step])
        time.sleep(0.1)  # that slow is the network
    assert time.monotonic() - began > 2
    [(_, stored)] = broker.client.wait([one.headers.task_id], 10)
    assert "SUCCESS" == stored.state
    assert 0 == broker.client.ask("stats")["lost"]
    raw.close()


def test_a_worker_that_vanishes_is_seen(broker: Broker, hand_worker: Worker) -> None:
    """What a lost worker held ends within seconds: early-acked as WorkerLostError, late-acked elsewhere."""
    broker.start()
    tasks = {"early": "", "late": "l"}
    early, late = message(task="early"), message(task="late")
    broker.client.publish_all([early, late])
    first = hand_worker("q", tasks=tasks)
    first.ready(2)
    first.take(2)
    first.close()
    second = hand_worker("q", tasks=tasks)
    second.ready(2)
    [again] = second.take(1)
    assert (late.msgid, True) == (again.msgid, again.headers.redelivered)
    [(task_id, stored)] = broker.client.wait([early.headers.task_id], 10)
    assert early.headers.task_id == task_id
    assert "FAILURE" == stored.state
    assert "WorkerLostError" == stored.reply["error"]["type"]
    [dead] = broker.client.ask("dead_list")
    assert early.msgid == dead["msgid"]
    assert dead["reason"].startswith("WorkerLostError: the worker")


def test_purge_counts_what_waits(broker: Broker) -> None:
    """purge drops what waits, delayed ones included, and tells how many."""
    broker.start()
    broker.client.publish_all([message() for _ in range(10)] + [message(eta=time.time() + 100)])
    assert 11 == broker.client.ask("purge", queue="q")
    assert 0 == broker.waiting()
    assert 0 == broker.client.ask("purge", queue="none")


def test_a_wrong_question_is_refused_by_name(broker: Broker) -> None:
    """An unknown verb, or a wrong argument, is answered with an error that names it."""
    broker.start()
    with pytest.raises(BrokerRefused, match="nonsense"):
        broker.client.ask("nonsense")
    with pytest.raises(BrokerRefused, match="ids"):
        broker.client.ask("results", ids="x")


def test_a_large_payload_passes(broker: Broker, hand_worker: Worker) -> None:
    """20 MB go in and come out unchanged; more than a frame may have is refused before it is sent."""
    broker.start()
    payload = b'["run",{"path":"m","callable":"f","args":["' + os.urandom(10 << 20).hex().encode() + b'"]}]'
    one = message()
    broker.client.publish(Publish(queue="q", headers=one.headers, payload=payload, msgid=new_id()))
    worker = hand_worker("q")
    worker.ready(1)
    assert payload == worker.take(1)[0].payload


def test_start_up_with_a_backlog(broker: Broker, hand_worker: Worker) -> None:
    """A backlog larger than the window in memory is given out whole, in order, after a restart."""
    proc = broker.start("--durability", "normal")
    messages = [message() for _ in range(6000)]
    broker.client.publish_all(messages)
    proc.kill()
    broker.start()
    worker = hand_worker("q")
    worker.ready(6000)
    taken = worker.take(6000)
    assert [m.msgid for m in messages] == [request.msgid for request in taken]
