"""A kombu upstream on SQS, which moto plays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emq_compat.message import REQUEUED, Outcome
from tests.upstream.kombu_bench import Bench, id_of

pytestmark = pytest.mark.integration


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    server_class = pytest.importorskip("moto.server").ThreadedMotoServer
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = server_class(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = {"visibility_timeout": 2, "is_secure": False, "region": "us-east-1", "polling_interval": 0.1}
    made = Bench(f"sqs://none:none@127.0.0.1:{port}/", transport_options=options)
    yield made
    made.close()
    server.stop()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_what_is_held_stays_invisible(bench: Bench) -> None:
    """A task that runs for two visibility timeouts is delivered once; what ended is gone, others return."""
    bench.publish("t1", "t2", "t3")
    worker = bench.upstream().connected()
    one, two = worker.take(2)
    worker.begin(one)
    worker.end(two)
    other = bench.upstream("other@here").connected()
    [three] = other.take(1)
    other.upstream.ready(2)
    assert other.quiet(4.5)
    worker.end(one)
    other.end(three, Outcome(state=REQUEUED).encode())
    [again] = other.get(1)
    assert (id_of(three), True) == (id_of(again), again.headers.redelivered)
    other.end(again)
    other.stop()
    worker.stop()
    assert [] == bench.waiting()
