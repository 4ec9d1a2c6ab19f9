"""What an eMQP upstream gives back, and how it leaves its broker."""

from __future__ import annotations

import threading
import time
from typing import TypeVar

import pytest

from emq_compat.message import Headers
from emq_compat.protocol import commands
from emq_compat.upstream.base import Asked, Delivered
from emq_compat.upstream.emq import EmqUpstream
from tests.processes import wait_until
from tests.upstream.fake_broker import OK, FakeBroker, only

pytestmark = pytest.mark.integration

C = TypeVar("C")


def test_what_was_not_begun_goes_back(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """NACK names (msgid, attempt), and the delivery is not listed any more."""
    broker.welcome(upstream)
    broker.deliver("m1", attempt=2)
    broker.drive(upstream, upstream.held)
    upstream.nack([("m1", 2), ("never", 1)])
    assert broker.wait_for(upstream, commands.Nack).returned == (("m1", 2),)
    assert upstream.held() == {}


def test_what_a_stock_router_gave_goes_back_as_a_publish(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """A stock router knows no NACK: the request is published once more, with its msgid."""
    broker.welcome_as_stock(upstream)
    broker.say(commands.Request(msgid="m", queue="q", headers=Headers(timeout=3), payload=b"[]"), stock=True)
    broker.drive(upstream, upstream.held)
    upstream.nack([("m", 0)])
    request = broker.wait_for(upstream, commands.Request)
    assert (request.msgid, request.queue, request.headers.timeout, request.payload) == ("m", "q", 3, b"[]")


def test_leaving_withdraws_the_credit(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """leave() sends INFORM, which voids the credit; what crosses it is dropped, and no READY follows."""
    broker.welcome(upstream)
    upstream.ready(2)
    broker.wait_for(upstream, commands.Ready)
    broker.heard.clear()
    upstream.leave()
    broker.wait_for(upstream, commands.Inform)
    broker.deliver("crossed")
    upstream.ready(2)
    broker.say(commands.Ack(msgid="a", acked=(broker.last(commands.Inform).msgid,)))
    broker.say(commands.Ask(msgid="q", verb="ping", arguments={}))
    events = broker.drive(
        upstream, lambda: False if not upstream.connected else broker.count(commands.Inform)
    )
    while not only(events, Asked):
        events += broker.drive(upstream, lambda: True)
    assert only(events, Delivered) == []
    assert broker.count(commands.Ready) == 0


def test_leaving_a_stock_router_is_a_goodbye(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """A stock router gets KBYE at once, and no heartbeat after it."""
    broker.welcome_as_stock(upstream)
    upstream.leave()
    broker.wait_for(upstream, commands.Kbye)


def test_stopping_waits_for_acknowledgements(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """stop() returns when the time is over, and says how many replies nobody acknowledged."""
    broker.welcome(upstream)
    broker.deliver("m1")
    broker.drive(upstream, upstream.held)
    upstream.reply(("m1", 1), OK)
    begun = time.monotonic()
    upstream.stop(0.2)
    assert time.monotonic() - begun >= 0.2
    assert heard_from_now_on(broker, commands.Kbye)


def stopped_in_a_thread(upstream: EmqUpstream) -> threading.Thread:
    """Have an upstream stop while the test plays the broker."""
    upstream.leave()
    thread = threading.Thread(target=upstream.stop, args=(5.0,))
    thread.start()
    return thread


def heard_from_now_on(broker: FakeBroker, kind: type[C]) -> C:
    """Wait for a command of an upstream that runs in a thread."""
    broker.heard.clear()

    def heard() -> int:
        broker.listen()
        return broker.count(kind)

    wait_until(heard, timeout_s=5)
    return broker.last(kind)


def test_stopping_waits_until_what_was_given_back_is_known(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """A broker that ends before it has read the NACK is told again, by the INFORM to its successor."""
    broker.welcome(upstream)
    broker.deliver("m1")
    broker.drive(upstream, upstream.held)
    upstream.leave()
    broker.wait_for(upstream, commands.Inform)
    upstream.nack([("m1", 1)])
    port = broker.port
    broker.close()
    stopping = stopped_in_a_thread(upstream)
    after = FakeBroker(port)
    try:
        inform = heard_from_now_on(after, commands.Inform)
        assert inform.capabilities is not None
        assert () == inform.capabilities.held
        assert stopping.is_alive()
        after.say(commands.Ack(msgid="a", acked=(inform.msgid,)))
        stopping.join(2)
        assert not stopping.is_alive()
    finally:
        stopping.join(10)
        after.close()


def test_stopping_asks_whether_what_was_given_back_is_known(
    broker: FakeBroker, upstream: EmqUpstream
) -> None:
    """The ACK of an INFORM that was said before the NACK doesn't tell that the broker has read it."""
    broker.welcome(upstream)
    broker.deliver("m1")
    broker.drive(upstream, upstream.held)
    upstream.leave()
    early = broker.wait_for(upstream, commands.Inform)
    upstream.nack([("m1", 1)])
    broker.wait_for(upstream, commands.Nack)
    stopping = stopped_in_a_thread(upstream)
    broker.heard.clear()
    broker.say(commands.Ack(msgid="a", acked=(early.msgid,)))
    again = heard_from_now_on(broker, commands.Inform)
    assert stopping.is_alive()
    broker.say(commands.Ack(msgid="a", acked=(again.msgid,)))
    heard_from_now_on(broker, commands.Kbye)
    stopping.join(2)
    assert not stopping.is_alive()


def test_stopping_goes_on_once_a_later_reply_is_acknowledged(
    broker: FakeBroker, upstream: EmqUpstream
) -> None:
    """A broker that has acknowledged what was said after the NACK has read the NACK."""
    broker.welcome(upstream)
    broker.deliver("m1")
    broker.deliver("m2")
    broker.drive(upstream, lambda: len(upstream.held()) == 2)
    upstream.nack([("m1", 1)])
    upstream.reply(("m2", 1), OK)
    broker.wait_for(upstream, commands.Reply)
    broker.say(commands.Ack(msgid="a", acked=("m2",)))
    broker.drive(upstream, lambda: not upstream.unacknowledged())
    begun = time.monotonic()
    upstream.stop(5.0)
    assert time.monotonic() - begun < 3.0


def test_a_worker_that_owes_nothing_waits_for_no_broker(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """Without anything given back, one whose broker is gone ends at once."""
    broker.welcome(upstream)
    broker.close()
    wait_until(lambda: upstream.step(time.monotonic()) or not upstream.connected, timeout_s=5)
    upstream.leave()
    begun = time.monotonic()
    upstream.stop(5.0)
    assert time.monotonic() - begun < 3.0
