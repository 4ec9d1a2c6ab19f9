"""Brokers that are not there, silent, frozen, gone, strangers: every call ends within its limit."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from emq_compat.client import Client
from emq_compat.errors import NotPublished, OperationalError
from emq_compat.message import Publish
from tests.client.conftest import BrokerProcess, message, within
from tests.client.fake_broker import Behaviour, FakeBroker
from tests.processes import wait_until

pytestmark = pytest.mark.integration

LIMIT_S = 0.5
SLACK_S = 0.4


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def in_threads(count: int, call: Callable[[], object]) -> list[BaseException | None]:
    """What each of so many threads raised that made the call at the same time."""
    barrier = threading.Barrier(count)
    raised: list[BaseException | None] = []

    def run() -> None:
        barrier.wait(10)
        try:
            call()
        except Exception as exc:  # noqa: BLE001  (handed to the test)
            raised.append(exc)
        else:
            raised.append(None)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return raised


def in_fork(call: Callable[[], object]) -> None:
    """Make the call in a forked child; raises if it raised there, or hung."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 on: a fork beside threads; meant here
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(20)
            call()
            status = 0
        except BaseException:  # noqa: BLE001  (the child must end here)
            traceback.print_exc()
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_nothing_listens(free_port: Callable[[], int], connect: Callable[..., Client]) -> None:
    """Where nothing listens each call raises within the limit, and names the address and the limit."""
    port = free_port()
    client = connect(f"emq://127.0.0.1:{port}", LIMIT_S)

    for _ in range(2):
        with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError) as caught:
            client.publish(message())
        says = f"no broker within 0.5 s at emq://127.0.0.1:{port}: the connection was refused"
        assert says == str(caught.value)
        assert caught.value.__context__ is None  # a traceback shows this error alone


def test_accepts_and_is_silent(silent_port: int, connect: Callable[..., Client]) -> None:
    """A port that accepts and never answers makes no call longer than its limit."""
    client = connect(f"emq://127.0.0.1:{silent_port}", LIMIT_S)

    for call in (
        lambda: client.publish(message()),
        lambda: client.publish_all([message()]),
        lambda: client.ask("stats"),
        lambda: client.results(["x"]),
    ):
        silent = f"{silent_port}: nothing answers"
        with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=silent):
            call()


def test_from_many_threads(silent_port: int, connect: Callable[..., Client]) -> None:
    """The limit holds for each of ten threads that call at the same time."""
    client = connect(f"emq://127.0.0.1:{silent_port}", LIMIT_S)

    with within(LIMIT_S + 2 * SLACK_S):
        raised = in_threads(10, lambda: client.publish(message()))

    assert [OperationalError] * 10 == [type(exc) for exc in raised]


def test_after_fork_nothing_listens(free_port: Callable[[], int], connect: Callable[..., Client]) -> None:
    """The limit holds in a forked child."""
    client = connect(f"emq://127.0.0.1:{free_port()}", LIMIT_S)
    with pytest.raises(OperationalError):
        client.publish(message())

    def call() -> None:
        with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError):
            client.publish(message())

    in_fork(call)


def test_stock_router(connect: Callable[..., Client]) -> None:
    """A router that doesn't answer HELLO is named, with the way to say that it is a stock one."""
    with FakeBroker(behaviour=Behaviour(says_hello=False)) as broker:
        client = connect(broker.url, LIMIT_S)

        with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=r"stock=1"):
            client.publish(message())
        assert 0 == broker.requests


def test_no_ack(broker: FakeBroker, connect: Callable[..., Client]) -> None:
    """A broker that gives no ACK is named, with the limit; the message isn't sent again afterwards."""
    client = connect(broker.url, LIMIT_S)
    broker.behaviour.acks = False

    says = f"{broker.url} did not confirm.*0.5 s"
    with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=says):
        client.publish(message())

    broker.behaviour.acks = True
    client.publish(message())
    assert 2 == broker.requests


def test_same_message_again(broker: FakeBroker, connect: Callable[..., Client]) -> None:
    """Publishing the same message again after an error makes no second one."""
    client = connect(broker.url, LIMIT_S)
    sent = message()
    broker.behaviour.acks = False
    with pytest.raises(OperationalError):
        client.publish(sent)
    broker.behaviour.acks = True

    client.publish(sent)

    assert [sent.msgid] == list(broker.taken)


def test_frozen(broker_process: BrokerProcess, connect: Callable[..., Client]) -> None:
    """A frozen broker makes each call raise within its limit; when it goes on, the next call works.

    What was published on a connection that was open may still arrive, once; a new connection sends nothing.
    """
    client = connect(broker_process.url, LIMIT_S)
    first, open_, unsent, last = (message() for _ in range(4))
    client.publish(first)

    broker_process.proc.send_signal(signal.SIGSTOP)
    for sent in (open_, unsent):
        with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=broker_process.url):
            client.publish(sent)
    with within(LIMIT_S + 2 * SLACK_S):
        raised = in_threads(10, lambda: client.publish(unsent))
    assert [OperationalError] * 10 == [type(exc) for exc in raised]
    broker_process.proc.send_signal(signal.SIGCONT)

    client.publish(last)
    taken = broker_process.taken()
    assert unsent.msgid not in taken
    assert [first.msgid, last.msgid] == [msgid for msgid in taken if msgid != open_.msgid]
    assert taken.count(open_.msgid) <= 1


def test_killed_between_two_calls(broker_process: BrokerProcess, connect: Callable[..., Client]) -> None:
    """A broker that is killed between two calls makes the next one raise, and works once it is back."""
    client = connect(broker_process.url, LIMIT_S)
    first, failed, last = (message() for _ in range(3))
    client.publish(first)

    broker_process.proc.kill()
    with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=broker_process.url):
        client.publish(failed)
    broker_process.start()

    client.publish(last)
    assert [first.msgid, last.msgid] == broker_process.taken()


def test_back_within_the_limit(broker_process: BrokerProcess, connect: Callable[..., Client]) -> None:
    """A publish during a restart of the broker waits for it, within its limit."""
    client = connect(broker_process.url, 15.0)
    client.publish(message())
    broker_process.proc.kill()
    sent = [message() for _ in range(5)]
    waiting = iter(sent)

    restarting = threading.Thread(target=broker_process.start)
    restarting.start()
    raised = in_threads(5, lambda: client.publish(next(waiting)))
    restarting.join()

    assert [None] * 5 == raised
    assert {one.msgid for one in sent} <= set(broker_process.taken())


def test_fork(broker_process: BrokerProcess, connect: Callable[..., Client]) -> None:
    """Parent and child go on publishing after a fork, each on connections of its own."""
    client = connect(broker_process.url)
    sent = [message() for _ in range(4)]
    client.publish(sent[0])

    def child() -> None:
        client.publish(sent[1])
        in_fork(lambda: client.publish(sent[2]))
        client.close()

    in_fork(child)
    client.publish(sent[3])

    assert [one.msgid for one in sent] == broker_process.taken()


def test_fork_while_threads_publish(broker_process: BrokerProcess, connect: Callable[..., Client]) -> None:
    """A child that is forked while other threads are in the middle of a call is not stuck."""
    client = connect(broker_process.url)
    stop = threading.Event()
    failed: list[BaseException] = []

    def publish() -> None:
        try:
            while not stop.is_set():
                client.publish(message())
        except Exception as exc:  # noqa: BLE001  (handed to the test)
            failed.append(exc)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            in_fork(lambda: client.publish(message()))
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert [] == failed


def test_failover(broker: FakeBroker, free_port: Callable[[], int], connect: Callable[..., Client]) -> None:
    """Where the first address refuses, the next one is used at once, and remembered."""
    client = connect(f"emq://127.0.0.1:{free_port()};{broker.url}")

    with within(1):
        client.publish(message())
        raised = in_threads(3, lambda: client.publish(message()))

    assert [None] * 3 == raised
    assert 4 == len(broker.taken)


def test_failover_from_a_silent_one(
    broker: FakeBroker, silent_port: int, connect: Callable[..., Client]
) -> None:
    """Where the first address is silent, the next one still gets its share of the time."""
    client = connect(f"emq://127.0.0.1:{silent_port};{broker.url}", 1.0)

    with within(1.4):
        client.publish(message())

    assert 1 == len(broker.taken)


def test_no_address_of_several(free_port: Callable[[], int], connect: Callable[..., Client]) -> None:
    """Where no address answers, the error names them all."""
    first, second = free_port(), free_port()
    client = connect(f"emq://127.0.0.1:{first};emq://127.0.0.1:{second}", LIMIT_S)

    with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=f"{first}: .*{second}: "):
        client.publish(message())


def test_always_cut(connect: Callable[..., Client]) -> None:
    """A broker that cuts the connection at each message makes the call end within its limit."""
    with FakeBroker(behaviour=Behaviour(loses_requests=1_000)) as broker:
        client = connect(broker.url, LIMIT_S)

        with within(LIMIT_S + SLACK_S), pytest.raises(OperationalError, match=broker.url):
            client.publish(message())
        assert broker.requests < 20


def test_bulk_nothing_listens(free_port: Callable[[], int], connect: Callable[..., Client]) -> None:
    """A bulk publish without a broker names all of its messages."""
    client = connect(f"emq://127.0.0.1:{free_port()}", LIMIT_S)
    sent = [message() for _ in range(10)]

    with within(LIMIT_S + SLACK_S), pytest.raises(NotPublished, match=r"10 of 10.*refused") as caught:
        client.publish_all(sent)

    assert tuple(one.msgid for one in sent) == caught.value.msgids


def test_interrupted(broker: FakeBroker, client: Client) -> None:
    """A call that an exception of a signal handler interrupts leaves a client that works."""
    client.publish(message())
    broker.behaviour.acks = False

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with within(2), pytest.raises(KeyboardInterrupt):
            client.publish(message())
    finally:
        signal.signal(signal.SIGALRM, before)

    broker.behaviour.acks = True
    client.publish(message())


def test_chaos(broker_process: BrokerProcess, connect: Callable[..., Client]) -> None:
    """While the broker is killed and started again, every confirmed message is with it, and none twice."""
    client = connect(broker_process.url, 15.0)
    confirmed: list[str] = []
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            one = message()
            client.publish(one)
            confirmed.append(one.msgid)

    def bulk() -> None:
        while not stop.is_set():
            many: list[Publish] = [message() for _ in range(500)]
            client.publish_all(many)
            confirmed.extend(one.msgid for one in many)

    threads = [threading.Thread(target=run) for run in (publish, publish, bulk)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        count = len(confirmed)
        wait_until(lambda count=count: len(confirmed) > count + 600)
        broker_process.proc.kill()
        broker_process.start()
    stop.set()
    for thread in threads:
        thread.join(30)

    taken = broker_process.taken()
    assert set(confirmed) <= set(taken)
    assert len(confirmed) > 1_800


def test_a_client_that_is_thrown_away_closes_its_connections(broker: FakeBroker) -> None:
    """An app's client has nobody who closes it: it leaves no open socket to the garbage collector."""
    client = Client(broker.url)
    client.publish(message())
    with _no_warning():
        del client
        gc.collect()


def test_a_circle_of_garbage_closes_its_connections(broker: FakeBroker) -> None:
    """Whatever the collector comes to first, it doesn't wait for a socket that it is about to close."""
    for borrowed in (False, True):
        client = Client(broker.url)
        client.publish(message())
        circle: list[object] = [client]
        circle.append(circle)
        if borrowed:
            channels = client._own()
            circle.append((channels, channels.borrow(time.monotonic() + 4, 4)))
        with _no_warning():
            del client, circle
            if borrowed:
                del channels
            gc.collect()


@contextmanager
def _no_warning() -> Iterator[None]:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    assert [] == [str(warning.message) for warning in told]


def test_a_refusal_counts_more_than_the_silence_behind_it(connect: Callable[..., Client]) -> None:
    """An address that said once that it is not for clients is reported so, whatever the last try hears."""
    with FakeBroker(behaviour=Behaviour(says_hello=False, refuses_hellos=1)) as broker:
        client = connect(broker.url, timeout_s=LIMIT_S)
        with pytest.raises(OperationalError, match="not for clients"):
            client.ask("stats")
        assert broker.hellos > 1
