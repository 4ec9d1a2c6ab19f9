"""Networks that are slow, let nothing through or forget connections, for less and for more than a silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emq_compat.client import Client
from emq_compat.errors import OperationalError
from tests.broker_process import Broker
from tests.faults import faulty_tasks
from tests.faults.conftest import Plant
from tests.faults.networks import Networks, Report
from tests.hand_worker import message
from tests.processes import Procs, unused_port
from tests.proxy import Proxy

pytestmark = pytest.mark.faults

#: After so much silence a worker of these tests counts as lost.
DEAD_AFTER_S = 2.0
LESS_S, MORE_S = 0.7, 4.0
#: A client gives a silent connection up after 6 s at the latest, and a publish after 4 s.
CLIENT_MORE_S = 8.0
FAULTS = ("delay", "one way", "partition", "forgotten")
#: The short form: a worker cut off for longer than a silence, and a client whose answers don't come.
SHORT = (("worker", "partition", MORE_S), ("client", "one way", LESS_S))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Networks]:
    """One fleet for all of them: nothing is started again from fault to fault."""
    folder: Path = tmp_path_factory.mktemp("networks")
    (folder / "procs").mkdir()
    procs = Procs(folder / "procs")
    broker = Broker(procs, unused_port, folder / "data")
    try:
        with Networks(Plant(procs, broker, folder), DEAD_AFTER_S) as made:
            yield made
    except BaseException:
        print(procs.report())
        raise
    finally:
        faulty_tasks.app.close()
        broker.client.close()
        procs.close()


def check(report: Report, pair: str, seconds: float) -> None:
    """What is promised of every network."""
    assert [] == report.lost, report
    assert [] == report.doubled, report
    assert report.hung < 3, report
    if pair == "client" or seconds < DEAD_AFTER_S:
        assert [] == report.again, report
        assert [] == report.failed, report
    assert all(kind != "late" for kind, _ in report.failed), report


@pytest.mark.parametrize(("pair", "fault", "seconds"), SHORT)
def test_a_network_fails(networks: Networks, pair: str, fault: str, seconds: float) -> None:
    """Nothing confirmed is lost, early-acked tasks run once, and all goes on by itself."""
    report = networks.fail(pair, fault, seconds)
    print(f"{pair}, {fault}, {seconds:g} s: {report}")
    check(report, pair, seconds)
    assert networks.alive()


@pytest.mark.long
@pytest.mark.parametrize("fault", [*FAULTS, "reset"])
@pytest.mark.parametrize(
    ("pair", "seconds"),
    [("client", LESS_S), ("client", CLIENT_MORE_S), ("worker", LESS_S), ("worker", MORE_S)],
)
def test_every_network_fails(networks: Networks, pair: str, fault: str, seconds: float) -> None:
    """The same for every kind of fault, of each pair, for less and for more than the heartbeat's limit."""
    for _ in range(3):
        report = networks.fail(pair, fault, seconds)
        print(f"{pair}, {fault}, {seconds:g} s: {report}")
        check(report, pair, seconds)
    assert networks.alive()


def test_a_message_is_one_however_often_it_is_sent(broker: Broker, free_port: Callable[[], int]) -> None:
    """A publish whose confirmation is lost raises, and published again it is still one message."""
    broker.start()
    with Proxy(broker.ports["frontend"]) as net, Client(broker.address(net.port), timeout_s=1) as client:
        first = message()
        client.publish(message())
        net.hold_answers()
        with pytest.raises(OperationalError):
            client.publish(first)
        net.let_go()
        client.publish(first)
        client.publish(first)
        assert 2 == broker.waiting()
        assert 2 <= broker.client.ask("stats")["duplicates"]
