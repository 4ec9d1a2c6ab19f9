"""The eMQP upstream against a ROUTER that follows docs/protocol.md."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import time
from collections.abc import Callable

import pytest

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError
from emq_compat.message import SUCCESS, Headers
from emq_compat.protocol import commands
from emq_compat.upstream.base import Asked, Connected, Delivered, Disconnected, Told
from emq_compat.upstream.emq import EmqUpstream
from emq_compat.upstream.session import Timings
from tests.processes import wait_until
from tests.upstream.fake_broker import OK, QUICK, FakeBroker, only

pytestmark = pytest.mark.integration


def step_until(upstream: EmqUpstream, until: Callable[[], object], *, what: str) -> None:
    """Run the upstream where no broker is, until the condition holds."""

    def stepped() -> object:
        upstream.step(time.monotonic())
        return until()

    wait_until(stepped, 20, what=what)


def test_it_informs_with_its_queues_and_capabilities(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """The first word is INFORM with queues, slots, tasks, pid and host, from an ASCII identity."""
    inform = broker.wait_for(upstream, commands.Inform)
    assert inform.queues == ((10, "celery"),)
    assert inform.capabilities is not None
    assert inform.capabilities.slots == 2
    assert inform.capabilities.tasks == {"t": "l"}
    assert inform.capabilities.pid
    assert inform.capabilities.hostname
    assert broker.identity.decode("ascii").startswith("w1@h_st.")


def test_our_broker_is_known_by_its_hello(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """ACK and HELLO make a connection with our broker, whose dead_after holds from then on."""
    events = broker.welcome(upstream, dead_after_s=4.0)
    assert len(only(events, Connected)) == 1
    assert upstream.ours
    assert upstream.dead_after_s == 4.0


def test_a_stock_router_is_known_by_a_heartbeat_alone(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """After a stock router's ACK nothing is ready before its first HEARTBEAT; then one READY a slot."""
    inform = broker.wait_for(upstream, commands.Inform)
    broker.say(commands.Ack(msgid="a", acked=(inform.msgid,)), stock=True)
    with pytest.raises(AssertionError):
        broker.drive(upstream, lambda: upstream.connected, timeout_s=0.1)
    broker.say(commands.Heartbeat(msgid="b", timestamp=time.time()), stock=True)
    broker.drive(upstream, lambda: upstream.connected)
    assert not upstream.ours
    upstream.ready(2)
    broker.wait_for(upstream, commands.Ready, 2)
    assert [command.count for command in broker.heard if isinstance(command, commands.Ready)] == [1, 1]


def test_a_stock_routers_first_heartbeat_may_take_its_time(broker: FakeBroker) -> None:
    """A connection that is made and acknowledged in one step is not given up before the first HEARTBEAT."""
    patient = Timings(connect_s=0.1, answer_s=0.1, stock_dead_after_s=15.0)
    upstream = EmqUpstream(name="w", addresses=[broker.address], timings=patient)
    upstream.start()
    broker.drive(upstream, lambda: broker.count(commands.Inform))
    broker.say(commands.Ack(msgid="a", acked=(broker.last(commands.Inform).msgid,)), stock=True)
    broker.drive(upstream, lambda: upstream._inform_pending is False)
    for later in (0.2, 1.0, 3.0):
        upstream.step(time.monotonic() + later)
    broker.say(commands.Heartbeat(msgid="b", timestamp=time.time()), stock=True)
    broker.drive(upstream, lambda: upstream.connected)
    upstream.stop(0.0)
    assert broker.count(commands.Inform) == 1


def test_credit_for_our_broker_is_one_message(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """READY carries a count to our broker."""
    broker.welcome(upstream)
    upstream.ready(32)
    assert broker.wait_for(upstream, commands.Ready).count == 32


def test_a_delivery_is_answered_and_kept_until_acknowledged(
    broker: FakeBroker, upstream: EmqUpstream
) -> None:
    """A REPLY names msgid, attempt and state, and is held until the broker's ACK names the request."""
    broker.welcome(upstream)
    upstream.ready(1)
    broker.deliver("m1", attempt=3)
    events = broker.drive(upstream, upstream.held)
    (delivered,) = only(events, Delivered)
    assert (delivered.delivery.msgid, delivered.delivery.attempt) == ("m1", 3)
    upstream.reply(("m1", 3), OK)
    reply = broker.wait_for(upstream, commands.Reply)
    assert reply.request_msgid == "m1"
    assert reply.headers is not None
    assert (reply.headers.attempt, reply.headers.state) == (3, SUCCESS)
    assert upstream.unacknowledged() == 1
    broker.say(commands.Ack(msgid="a", acked=("m1", "unknown")))
    broker.drive(upstream, lambda: not upstream.unacknowledged())


def test_a_reply_to_a_stock_router_has_two_frames_and_is_not_kept(
    broker: FakeBroker, upstream: EmqUpstream
) -> None:
    """A stock router gets the reply and the msgid, and never acknowledges."""
    broker.welcome_as_stock(upstream)
    upstream.ready(1)
    broker.say(
        commands.Request(msgid="m", queue="q", headers=Headers(reply_requested=True), payload=b"[]"),
        stock=True,
    )
    broker.drive(upstream, upstream.held)
    upstream.reply(("m", 0), OK)
    reply = broker.wait_for(upstream, commands.Reply)
    assert reply.headers is None
    assert upstream.unacknowledged() == 0


def test_a_duplicate_delivery_is_dropped_and_its_credit_given_again(
    broker: FakeBroker, upstream: EmqUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """A (msgid, attempt) that is held already doesn't become a second delivery."""
    caplog.set_level(logging.DEBUG)
    broker.welcome(upstream)
    broker.deliver("m1")
    broker.deliver("m1")
    broker.deliver("m1", attempt=2)
    events = broker.drive(upstream, lambda: upstream.duplicates and len(upstream.held()) == 2)
    assert [event.delivery.attempt for event in only(events, Delivered)] == [1, 2]
    assert broker.wait_for(upstream, commands.Ready).count == 1
    assert "is here already" in caplog.text


def test_a_broker_that_forgot_the_worker_is_told_what_it_holds(
    broker: FakeBroker, upstream: EmqUpstream
) -> None:
    """HELLO with inform: true is answered by INFORM with all that is held; then replies go again."""
    broker.welcome(upstream)
    for msgid in ("begun", "waiting", "done"):
        broker.deliver(msgid)
    broker.drive(upstream, lambda: len(upstream.held()) == 3)
    upstream.began([("begun", 1)])
    upstream.reply(("done", 1), OK)
    broker.wait_for(upstream, commands.Reply)
    broker.heard.clear()
    broker.say(commands.Hello(msgid="h", about={"inform": True}))
    events = broker.drive(upstream, lambda: broker.count(commands.Inform))
    assert len(only(events, Disconnected)) == 1
    inform = broker.last(commands.Inform)
    assert inform.capabilities is not None
    assert {("begun", 1, True), ("waiting", 1, False), ("done", 1, True)} == set(inform.capabilities.held)
    again = broker.welcome(upstream)
    assert len(only(again, Connected)) == 1
    assert broker.wait_for(upstream, commands.Reply).request_msgid == "done"


def test_a_restarted_broker_finds_the_same_identity(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """When the connection is cut, it comes back at once under the same name, with its replies."""
    broker.welcome(upstream)
    broker.deliver("m1")
    broker.drive(upstream, upstream.held)
    before = broker.identity
    port = broker.port
    broker.close()
    upstream.reply(("m1", 1), OK)
    again = FakeBroker(port)
    try:
        events = again.drive(upstream, lambda: again.count(commands.Inform))
        assert [event.reason for event in only(events, Disconnected)] == ["the connection was cut"]
        again.welcome(upstream)
        assert before == again.identity
        assert again.wait_for(upstream, commands.Reply).request_msgid == "m1"
    finally:
        again.close()


def test_a_stock_router_sees_a_new_identity_after_a_cut(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """A stock router would ignore a name that it still takes for connected."""
    broker.welcome_as_stock(upstream)
    before = broker.identity
    broker.say(commands.Kbye(msgid="k"), stock=True)
    broker.heard.clear()
    broker.drive(upstream, lambda: broker.count(commands.Inform))
    assert before != broker.identity


def test_a_silent_broker_is_lost_and_tried_again(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """Nothing for dead_after means Disconnected, then a new INFORM."""
    broker.welcome(upstream, dead_after_s=0.2)
    broker.heard.clear()
    events = broker.drive(upstream, lambda: broker.count(commands.Inform))
    assert [Disconnected(reason="it has been silent for 0.2 s")] == only(events, Disconnected)


def test_it_beats_with_what_has_not_begun(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """A HEARTBEAT goes out soon after a quarter of dead_after and lists the msgids that have not begun."""
    broker.welcome(upstream, dead_after_s=1.0)
    broker.deliver("m1")
    broker.deliver("m2")
    broker.drive(upstream, lambda: len(upstream.held()) == 2)
    upstream.began([("m1", 1)])
    assert broker.wait_for(upstream, commands.Heartbeat).not_begun == {"m2"}


def test_no_memory_stays_behind(broker: FakeBroker) -> None:
    """A thousand beats with 20 msgids, and receipts for as many, keep next to nothing of themselves."""
    told: list[str] = []
    upstream = EmqUpstream(
        name="w", addresses=[broker.address], timings=QUICK, on_heartbeat=lambda msgid, _: told.append(msgid)
    )
    held = [f"m{n}" for n in range(20)]

    def blocks_after(beats: int) -> int:
        for _ in range(beats):
            upstream._beat(time.monotonic())
            broker.say(commands.Ack(msgid="a", acked=held))
        broker.say(commands.Heartbeat(msgid="last", timestamp=time.time()))
        broker.drive(upstream, lambda: broker.count(commands.Heartbeat) >= beats and "last" in told)
        assert 20 == len(broker.last(commands.Heartbeat).not_begun)
        broker.heard.clear()
        told.clear()
        gc.collect(1)  # not 2, which empties what Python keeps for later
        return sys.getallocatedblocks()

    upstream.start()
    try:
        broker.welcome(upstream)
        for msgid in held:
            broker.deliver(msgid)
        broker.drive(upstream, lambda: len(upstream.held()) == 20)
        before = blocks_after(100)
        assert 500 > blocks_after(1000) - before
    finally:
        upstream.stop(0.0)


def test_it_beats_when_the_broker_does(broker: FakeBroker) -> None:
    """A HEARTBEAT goes with the broker's next one where half of its time is over, and else somewhat later."""
    heard: list[str] = []

    def beats(count: int) -> None:
        def heard() -> bool:
            broker.listen()
            return broker.count(commands.Heartbeat) == count

        upstream.deadline()  # sends
        wait_until(heard, 5.0, what=f"{count} HEARTBEATs")

    upstream = EmqUpstream(
        name="w", addresses=[broker.address], timings=QUICK, on_heartbeat=lambda msgid, _: heard.append(msgid)
    )
    upstream.start()
    try:
        broker.welcome(upstream, dead_after_s=40.0)
        broker.say(commands.Heartbeat(msgid="soon", timestamp=time.time()))
        broker.drive(upstream, lambda: "soon" in heard)
        live_at = time.monotonic()
        assert live_at + 12.0 < (upstream.deadline() or 0.0)
        broker.say(commands.Heartbeat(msgid="later", timestamp=time.time()))
        while "later" not in heard:
            upstream.step(live_at + 6.0)
        beats(1)
        upstream.step(live_at + 6.0 + 12.0)
        assert 12.4 < (upstream.deadline() or 0.0) - (live_at + 6.0) < 12.6
        upstream.step(live_at + 6.0 + 12.6)
        beats(2)
    finally:
        upstream.stop(0.0)


def test_any_message_keeps_the_broker_alive(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """Every message of the broker counts as a sign of life."""
    broker.welcome(upstream, dead_after_s=0.4)
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        broker.say(commands.Ack(msgid="a", acked=("x",)))
        events = broker.drive(upstream, lambda: True)
        assert only(events, Disconnected) == []


def test_it_fails_over_to_the_next_address(broker: FakeBroker) -> None:
    """When nobody listens at the first address the second one gets the INFORM."""
    nobody = FakeBroker()
    address = nobody.address
    nobody.close()
    upstream = EmqUpstream(name="w", addresses=[address, broker.address], timings=QUICK)
    upstream.start()
    try:
        broker.wait_for(upstream, commands.Inform)
    finally:
        upstream.stop(0.0)


def test_no_broker_is_told_in_one_line_and_tried_for_ever(
    broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """With nobody at the only address, one line says so; when a broker comes up there, it is found."""
    port = broker.port
    broker.close()
    upstream = EmqUpstream(name="w", addresses=[broker.address], timings=QUICK)
    upstream.start()
    again = None
    try:
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            upstream.step(time.monotonic())
            time.sleep(0.01)
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert "no broker at" in lines[0]
        again = FakeBroker(port)
        again.wait_for(upstream, commands.Inform)
    finally:
        upstream.stop(0.0)
        (again or FakeBroker()).close()


def test_the_end_of_trouble_is_told_as_loudly(
    broker: FakeBroker, upstream: EmqUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the log shows a lost broker, it shows the next connection, too; the first one is no warning."""
    port = broker.port

    def warned() -> str:
        return "\n".join(record.message for record in caplog.records if record.levelno >= logging.WARNING)

    broker.welcome(upstream)
    assert not warned()
    broker.close()
    step_until(upstream, lambda: "no broker at" in warned(), what="the complaint")
    again = FakeBroker(port)
    try:
        again.welcome(upstream)
        assert warned().endswith(f"connected again to the broker at tcp://127.0.0.1:{port}")
    finally:
        upstream.stop(0.0)
        again.close()


def test_a_name_that_does_not_resolve_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody answers because the broker's name is unknown, the line says that."""

    def unknown(*args: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    (address,) = Address.parse("emq://nosuchhost.invalid")
    upstream = EmqUpstream(name="w", addresses=[address], timings=QUICK)
    upstream.start()
    try:
        step_until(upstream, lambda: caplog.records, what="the complaint")
        where = "emq://nosuchhost.invalid:47291 (for workers tcp://nosuchhost.invalid:47290)"
        assert f"no broker at {where}: the name nosuchhost.invalid does not resolve" in caplog.text
    finally:
        upstream.stop(0.0)


def test_remote_control_and_goodbye_become_events(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """ASK is Asked and is answered under its msgid; DISCONNECT is Told."""
    broker.welcome(upstream)
    broker.say(commands.Ask(msgid="q1", verb="ping", arguments={"a": 1}))
    broker.say(commands.Disconnect(msgid="d"))
    events = broker.drive(upstream, lambda: True)
    while not only(events, Told):
        events += broker.drive(upstream, lambda: True)
    assert [Asked(asked="q1", verb="ping", arguments={"a": 1})] == only(events, Asked)
    upstream.answer("q1", b'{"ok":"pong"}')
    answer = broker.wait_for(upstream, commands.Answer)
    assert (answer.asked, answer.body) == ("q1", b'{"ok":"pong"}')


def test_states_that_are_not_final_are_told(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """UPDATE names the hand-out and the state."""
    broker.welcome(upstream)
    upstream.update(("m1", 2), "STARTED", b"{}")
    update = broker.wait_for(upstream, commands.Update)
    assert (update.request_msgid, update.headers.attempt, update.headers.state) == ("m1", 2, "STARTED")


def test_malformed_messages_are_survived_and_a_malformed_job_is_answered(
    broker: FakeBroker, upstream: EmqUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage is counted and logged by frame; a REQUEST whose headers are wrong gets a FAILURE."""
    broker.welcome(upstream)
    broker.say_raw(b"\xff")
    broker.say_raw(b"", b"eMQP/1.0", b"NONSENSE", b"x")
    broker.say_raw(b"", b"eMQP/1.0", b"REQUEST", b"bad", b"q", b"attempt:4,timeout:soon", b"[]")
    reply = broker.wait_for(upstream, commands.Reply)
    assert upstream.malformed == 3
    assert reply.request_msgid == "bad"
    assert reply.headers is not None
    assert (reply.headers.attempt, reply.headers.state) == (0, "FAILURE")
    assert b"timeout" in reply.body
    assert "frame" in caplog.text


def test_heartbeats_of_the_broker_are_passed_on(broker: FakeBroker) -> None:
    """on_heartbeat is called for each HEARTBEAT."""
    heard: list[str] = []
    upstream = EmqUpstream(
        name="w", addresses=[broker.address], timings=QUICK, on_heartbeat=lambda msgid, _: heard.append(msgid)
    )
    upstream.start()
    try:
        broker.welcome(upstream)
        broker.drive(upstream, lambda: heard)
        assert heard == ["b"]
    finally:
        upstream.stop(0.0)


def test_new_queues_are_informed_in_mid_session(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """listen() voids the credit, INFORMs and connects again."""
    broker.welcome(upstream)
    assert upstream.listen([(1, "other")])
    events = broker.welcome(upstream)
    assert upstream.queues == ((1, "other"),)
    assert len(only(events, Connected)) == 1


def test_what_changes_twice_at_once_is_told(broker: FakeBroker, upstream: EmqUpstream) -> None:
    """A change while the INFORM of the one before is under way makes another, with both."""
    broker.welcome(upstream)
    broker.heard.clear()
    upstream.limit("t", 0.5)
    upstream.resize(7)
    upstream.listen([(1, "other")])
    informs = broker.wait_for(upstream, commands.Inform, 3)
    assert informs.capabilities is not None
    assert ({"t": 0.5}, 7) == (informs.capabilities.intervals, informs.capabilities.slots)
    assert ((1, "other"),) == informs.queues


def test_slots_are_told_when_they_change(
    broker: FakeBroker, upstream: EmqUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """resize() INFORMs with the new number, once, and the log tells of no new connection."""
    caplog.set_level(logging.INFO)
    broker.welcome(upstream)
    upstream.resize(5)
    upstream.resize(5)
    assert 1 == len(only(broker.welcome(upstream), Connected))
    assert 5 == upstream.slots
    assert 0 == broker.count(commands.Inform)
    assert 1 == sum("connected to the broker" in record.message for record in caplog.records)


@pytest.mark.unit
def test_an_upstream_needs_an_address() -> None:
    """No address is a mistake of the caller."""
    with pytest.raises(ConfigurationError):
        EmqUpstream(name="w", addresses=[])
