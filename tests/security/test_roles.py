"""What each key opens, with a real broker: who may publish, run tasks, administer, and in which queues."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from emq_compat.client import Client
from emq_compat.errors import BrokerRefused, NotPermitted, NotPublished
from emq_compat.headers import via_text
from emq_compat.keys import Keys, add_client, new_keys, permit_client, remove_client
from emq_compat.message import Headers, Job, Publish, ReplyHeaders, new_id
from emq_compat.protocol.commands import (
    Answer,
    Ask,
    Capabilities,
    Command,
    Hello,
    Inform,
    PublishTopic,
    Reply,
    Request,
    Schedule,
    Show,
)
from emq_compat.wire import Wire
from tests.broker_process import Broker
from tests.hand_worker import HandWorker, message
from tests.processes import Procs, unused_port, wait_until

pytestmark = pytest.mark.integration

_names = itertools.count(1)


class Keyring:
    """A broker with keys, and who connects to it."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.clients: list[Client] = []
        self.hands: list[HandWorker] = []
        self.wires: list[Wire] = []
        self.admin = self.client(folder)

    def key(self, **opens: Any) -> Path:
        """A new key's folder; its name is the folder's."""
        return add_client(self.folder, f"key{next(_names)}", **opens)

    def client(self, keys: Path) -> Client:
        self.clients.append(Client(f"{self.broker.url}&keys={keys}"))
        return self.clients[-1]

    def worker(self, keys: Path, *queues: str) -> HandWorker:
        own = Keys.for_client(keys)
        self.hands.append(HandWorker(self.context, self.broker.endpoint("backend"), *queues, keys=own))
        return self.hands[-1]

    def wire(self, keys: Path, name: bytes = b"", socket: str = "frontend") -> Wire:
        """A socket of one's own."""
        own = Keys.for_client(keys)
        self.wires.append(
            Wire(self.context, self.broker.endpoint(socket), identity=name or new_id().encode(), keys=own)
        )
        return self.wires[-1]

    def forbidden(self) -> int:
        return int(self.admin.ask("stats")["forbidden"])

    def close(self) -> None:
        for one in (*self.clients, *self.hands, *self.wires):
            one.close()
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    tmp_path = tmp_path_factory.mktemp("roles")
    procs = Procs(tmp_path)
    try:
        new_keys(tmp_path / "keys")
        broker = Broker(procs, unused_port, tmp_path / "data")
        broker.start("--memory", "--keys", str(tmp_path / "keys"))
        made = Keyring(broker, tmp_path / "keys")
        yield made
        made.close()
        assert made.broker.proc is not None
        assert made.broker.proc.alive()
        assert "Traceback" not in made.broker.proc.output()
    finally:
        procs.close()


def said(wire: Wire, command: Command, wanted: Callable[[Command], bool]) -> Any:
    """Say something and return the answer."""
    wire.send(command)
    found: list[Any] = []

    def heard() -> bool:
        found.extend(one for one in wire.receive() if not isinstance(one, Exception) and wanted(one))
        return bool(found)

    wait_until(heard, what="an answer")
    return found[0]


def test_a_clients_key_publishes_and_reads(ring: Keyring) -> None:
    """With a client's key a task is published, its result waited for and forgotten; one is revoked."""
    client, worker = ring.client(ring.key()), ring.worker(ring.key(role="worker"), "plain")
    one, other = message("plain"), message("plain")
    client.publish(one)
    worker.ready(1)
    worker.succeed(worker.take(1)[0])

    [(task_id, result)] = client.wait([one.headers.task_id], 10)
    assert (one.headers.task_id, "SUCCESS") == (task_id, result.state)
    assert 1 == client.ask("forget", ids=[task_id])
    client.publish(other)
    assert {other.headers.task_id: "noted"} == client.ask("revoke", ids=[other.headers.task_id])
    worker.leave()


ADMINS_VERBS: list[tuple[str, dict[str, Any]]] = [
    ("workers", {}), ("dead_list", {}), ("dead_drop", {"all": True}), ("backup", {"file": "/tmp/x"}),
    ("keys", {}), ("release_key", {"key": "k"}), ("why", {"ids": ["x"]}), ("revoked", {}), ("periodic", {}),
    ("periodic_forget", {"schedule": "s"}), ("schedules", {}), ("inspect", {"verb": "ping"}),
    ("exchanges", {}),
    ("delete_exchange", {"exchange": "e"}), ("subscribe", {"topics": ["celeryev"]}),
    ("revoke", {"tags": ["t"]}), ("nonsense", {}),
]  # fmt: skip
WORKERS_VERBS: list[tuple[str, dict[str, Any]]] = [
    ("purge", {"queue": "q"}), ("browse", {"queue": "q"}), ("delayed", {"queues": ["q"]}),
    ("move", {"queue": "q", "to": "r", "msgids": []}), ("drop", {"queue": "q", "msgids": []}),
    ("fetch", {"queue": "q"}), ("settle", {"msgid": "m", "attempt": 1, "state": "ACKNOWLEDGED"}),
    ("delete_queue", {"queue": "q"}), ("unbind", {"queue": "q", "exchange": "e"}),
    ("periodic_begin", {"schedule": "s", "entries": []}), ("answer", {"asked": "x", "node": "n", "ok": 1}),
]  # fmt: skip


def test_a_clients_key_neither_takes_nor_administers(ring: Keyring) -> None:
    """What takes messages or looks at others' is refused to a client's key with the role that it needs."""
    client = ring.client(ring.key())
    before = ring.forbidden()

    for verb, arguments in ADMINS_VERBS:
        with pytest.raises(NotPermitted, match=r"needs an admin's key|needs a worker's key"):
            client.ask(verb, **arguments)
    for verb, arguments in WORKERS_VERBS:
        with pytest.raises(NotPermitted, match=r"needs a worker's key, and 'key[0-9]+' is a client's"):
            client.ask(verb, **arguments)

    assert before + len(ADMINS_VERBS) + len(WORKERS_VERBS) == ring.forbidden()


def test_a_workers_key_does_not_administer(ring: Keyring) -> None:
    """A worker's key empties and looks into queues, and is refused what is an administrator's."""
    worker = ring.client(ring.key(role="worker"))
    ring.admin.publish(message("emptied"))

    assert 1 == len(worker.ask("browse", queue="emptied"))
    assert 1 == worker.ask("purge", queue="emptied")
    for verb, arguments in ADMINS_VERBS:
        with pytest.raises(NotPermitted, match=r"needs an admin's key, and 'key[0-9]+' is a worker's"):
            worker.ask(verb, **arguments)


def test_a_clients_key_runs_no_tasks(ring: Keyring) -> None:
    """A worker with a client's key is told why it gets nothing, and is listed nowhere."""
    ring.admin.publish(message("secrets"))
    wire = ring.wire(ring.key(), socket="backend")
    inform = Inform(msgid="i", queues=((10, "secrets"),), role="worker", capabilities=Capabilities(slots=1))

    told = said(wire, inform, lambda one: isinstance(one, Hello))

    assert "to take and run tasks needs a worker's key" in told.about["refused"]
    assert "secrets" not in [name for worker in ring.admin.ask("workers") for name in worker["queues"]]
    assert 1 == ring.admin.ask("purge", queue="secrets")


def test_a_clients_key_ends_no_task(ring: Keyring) -> None:
    """A client's key can't say what a task came to; a worker's can."""
    forged = Headers(task_id=new_id(), guarantee=True, settled="SUCCESS")
    outcome = Publish(queue="q", headers=forged, payload=b'{"value":"forged"}')
    with pytest.raises(NotPermitted, match=r"to end a task \(header settled\) needs a worker's key"):
        ring.client(ring.key()).publish(outcome)

    assert {forged.task_id: None} == ring.admin.results([forged.task_id])
    ring.client(ring.key(role="worker")).publish(outcome)
    assert ring.admin.results([forged.task_id])[forged.task_id] is not None


def test_a_limited_worker_s_key_ends_tasks_in_any_store(ring: Keyring) -> None:
    """What a task came to goes into no queue: Celery's worker stores results with a key for some of them."""
    worker = ring.client(ring.key(role="worker", publish=("celery",), take=("celery",)))
    task_id = new_id()
    headers = Headers(task_id=task_id, guarantee=True, settled="SUCCESS")
    worker.publish(Publish(queue="default", headers=headers, payload=b'{"result": 5}'))
    assert ring.admin.results([task_id])[task_id] is not None
    with pytest.raises(NotPermitted, match="to publish to the queue 'default'"):
        worker.publish(Publish(queue="default", headers=Headers(guarantee=True), payload=b"[]"))


@pytest.mark.parametrize("role", ["client", "worker"])
def test_remote_control_is_an_administrators(ring: Keyring, role: str) -> None:
    """Commands to workers are refused, however they are addressed."""
    client = ring.client(ring.key(role=role))
    ring.admin.ask("declare_exchange", exchange="celery.pidbox", type="fanout")
    ring.admin.ask("declare_queue", queue="celery@h.celery.pidbox")
    ring.admin.ask("bind", exchange="celery.pidbox", queue="celery@h.celery.pidbox", key="")
    for queue, via in (
        ("", via_text("celery.pidbox", "")),
        ("", via_text("", "celery@h.celery.pidbox")),
        ("celery@h.celery.pidbox", ""),
    ):
        headers = Headers(guarantee=True, via=via)
        with pytest.raises(NotPermitted, match=r"remote control .* needs an admin's key"):
            client.publish(Publish(queue=queue, headers=headers, payload=b"{}"))
    with pytest.raises(NotPermitted, match="remote control"):
        client.ask("bind", exchange="e", queue="celery@h.celery.pidbox", key="")
    before = ring.forbidden()
    client.announce("celery.pidbox", b"{}")
    client.announce("ask.ping.beat", b"{}")
    wait_until(lambda: before + 2 == ring.forbidden(), what="two refusals")

    [queue] = [q for q in ring.admin.ask("queues") if q["name"] == "celery@h.celery.pidbox"]
    assert 0 == queue["waiting"]


def test_a_key_for_some_queues_publishes_to_them(ring: Keyring) -> None:
    """A key with --publish sends to the queues that it names, by each way, and to no others by none."""
    client = ring.client(ring.key(publish=("mails", "reports.*")))
    ring.admin.ask("declare_exchange", exchange="all", type="fanout")
    ring.admin.ask("declare_queue", queue="payroll")
    ring.admin.ask("bind", exchange="all", queue="payroll", key="")

    for queue in ("mails", "reports.daily"):
        client.publish(message(queue))
    refused = [message("payroll"), message(""), message("reports"), message("xreports.daily")]
    for one in refused:
        with pytest.raises(NotPermitted, match=r"to publish to the queue .* that is mails, reports\.\*"):
            client.publish(one)
    for via in (via_text("all", ""), via_text("", "payroll")):
        with pytest.raises(NotPermitted, match="'payroll'"):
            client.publish(Publish(queue="", headers=Headers(guarantee=True, via=via), payload=b"{}"))
    with pytest.raises(NotPublished, match="'payroll'"):
        client.publish_all([message("mails"), message("payroll")])
    with pytest.raises(NotPermitted, match="bind them to an exchange that has the name of one"):
        client.ask("bind", exchange="all", queue="mails", key="")
    with pytest.raises(NotPermitted, match="'payroll'"):
        client.ask("declare_queue", queue="payroll")

    rows = {row["name"]: row["waiting"] for row in client.ask("queues")}
    assert {"mails": 2, "reports.daily": 1} == rows
    assert [0] == [row["waiting"] for row in ring.admin.ask("queues") if row["name"] == "payroll"]


def test_a_schedule_is_for_open_queues(ring: Keyring) -> None:
    """SCHEDULE for a queue that is closed to the key is answered with the rule, and nothing is scheduled."""
    wire = ring.wire(ring.key(publish=("mails",)))
    payload = Job(path="pkg", callable="f").encode()
    schedule = Schedule(msgid="s", queue="payroll2", headers="", interval_s=60, payload=payload)

    answer = said(wire, schedule, lambda one: isinstance(one, Reply))

    assert "'payroll2'" in json.loads(answer.body)["error"]["message"]
    assert "payroll2" not in [row["queue"] for row in ring.admin.ask("schedules")]


def test_a_key_with_a_limit_on_some_queues_looks_at_no_others(ring: Keyring) -> None:
    """A worker's key with --take empties, reads and fetches from its queues, and from no others."""
    client = ring.client(ring.key(role="worker", take=("own",), publish=("theirs",)))
    for queue in ("own", "theirs"):
        ring.admin.publish(message(queue))

    assert client.ask("fetch", queue="own")
    assert 0 == len(client.ask("browse", queue="own"))
    for verb, arguments in (
        ("purge", {"queue": "theirs"}),
        ("browse", {"queue": "theirs"}),
        ("fetch", {"queue": "theirs"}),
        ("delayed", {"queues": ["own", "theirs"]}),
        ("move", {"queue": "theirs", "to": "own", "msgids": []}),
        ("delete_queue", {"queue": "theirs"}),
        ("purge", {}),
    ):
        with pytest.raises(
            NotPermitted, match=r"to take from the queue '(theirs|default)' is not what .*: that is own"
        ):
            client.ask(verb, **arguments)
    with pytest.raises(NotPermitted, match="to publish to the queue 'elsewhere'"):
        client.ask("move", queue="own", to="elsewhere", msgids=[])
    with pytest.raises(NotPermitted, match="to take from the queue 'theirs'"):
        client.ask("declare_queue", queue="theirs", expires_s=0.1)

    assert ["own", "theirs"] == sorted(row["name"] for row in client.ask("queues"))


def test_a_worker_listens_on_open_queues(ring: Keyring) -> None:
    """A worker that wants a queue closed to its key is told so; on its own it takes and ends tasks."""
    key = ring.key(role="worker", take=("own2",), publish=())
    wire = ring.wire(key, socket="backend")
    for queues in (((10, "own2"), (5, "theirs2")), ()):
        inform = Inform(msgid="i", queues=queues, role="worker", capabilities=Capabilities(slots=1))
        told = said(wire, inform, lambda one: isinstance(one, Hello))
        assert "to take from the queue" in told.about["refused"]

    one = message("own2")
    ring.admin.publish(one)
    worker = ring.worker(key, "own2")
    worker.ready(1)
    worker.succeed(worker.take(1)[0])
    assert ring.admin.results([one.headers.task_id])[one.headers.task_id] is not None
    worker.leave()


def reply_to(request: Request, *follow_ups: Publish) -> Reply:
    return Reply(
        msgid=new_id(),
        body=b'{"value":1,"state":"SUCCESS"}',
        request_msgid=request.msgid,
        headers=ReplyHeaders(state="SUCCESS", attempt=request.headers.attempt),
        follow_ups=follow_ups,
    )


def test_what_follows_goes_to_open_queues(ring: Keyring) -> None:
    """A task ends with what may follow it; what may not ends as a failure that names the rule."""
    worker = ring.worker(ring.key(role="worker", take=("own3",), publish=("next3",)), "own3")
    ring.admin.publish(message("own3"))
    worker.ready(1)
    [request] = worker.take(1)
    good, back, bad = message("next3"), message("own3"), message("closed3", epilogue=True)

    worker.wire.send(reply_to(request, good, back, bad))
    worker.until(lambda: request.msgid in worker.acked)

    task_id = bad.headers.task_id
    [(_, result)] = ring.admin.wait([task_id], 10)
    assert "FAILURE" == result.state
    assert "NotPermitted" == result.reply["error"]["type"]
    assert "to publish to the queue 'closed3'" in result.reply["error"]["message"]
    rows = {row["name"]: row["waiting"] for row in ring.admin.ask("queues")}
    # With the task's own epilogue, in the queue of the task before it.
    assert (1, 2, None) == (rows["next3"], rows["own3"], rows.get("closed3"))
    worker.leave()


def test_a_task_of_another_queue_is_not_a_workers_to_end(ring: Keyring) -> None:
    """A REPLY for a hand-out of a queue that is closed to the key changes nothing."""
    ring.admin.publish(one := message("own4"))
    rightful = ring.worker(ring.key(role="worker", take=("own4",)), "own4")
    rightful.ready(1)
    [request] = rightful.take(1)
    other = ring.worker(ring.key(role="worker", take=("other4",)), "other4")
    before = ring.forbidden()

    other.wire.send(reply_to(request))
    other.until(lambda: ring.forbidden() > before)

    assert {one.headers.task_id: None} == ring.admin.results([one.headers.task_id])
    rightful.succeed(request)
    assert ring.admin.results([one.headers.task_id])[one.headers.task_id] is not None
    rightful.leave()
    other.leave()


@pytest.mark.parametrize("role", ["client", "worker"])
def test_the_administrators_address_needs_an_admins_key(ring: Keyring, role: str) -> None:
    """At the administrator's address other keys aren't even let in."""
    wire = ring.wire(ring.key(role=role), socket="admin")
    wire.send(Show(msgid="m", what="STATUS"))

    wait_until(lambda: wire.receive() or wire.failure, what="a refusal")

    assert "it refused this side's CURVE key" == wire.failure


def test_an_identity_taken_over_lends_no_rights(ring: Keyring) -> None:
    """Whoever connects under another connection's identity has the rights of its own key."""
    ask = Ask(msgid="a", verb="workers", arguments={})
    admin = ring.wire(ring.folder, b"the-admins")
    answer = said(admin, ask, lambda one: isinstance(one, Answer))
    assert b'"ok"' in answer.body

    thief = ring.wire(ring.key(), b"the-admins")
    answer = said(thief, ask, lambda one: isinstance(one, Answer))

    assert b"needs an admin's key" in answer.body


def test_a_change_holds_for_connections_that_stand(ring: Keyring) -> None:
    """A key that is permitted something else, or removed, opens that, or nothing, within seconds."""
    key = ring.key(role="worker")
    client, worker = ring.client(key), ring.worker(key, "changing")
    worker.until(lambda: worker.acked)
    ring.admin.publish(one := message("changing"))
    worker.ready(1)
    worker.take(1)
    client.ask("purge", queue="changing")

    permit_client(ring.folder, key.name, role="client")

    def refused() -> bool:
        try:
            client.ask("purge", queue="changing")
        except NotPermitted:
            return True
        return False

    wait_until(refused, what="the change", interval_s=0.2)
    # The worker takes nothing more, and what it held ends as that of a lost worker.
    worker.until(lambda: "changing" not in [q for w in ring.admin.ask("workers") for q in w["queues"]], 20)
    [(_, result)] = ring.admin.wait([one.headers.task_id], 10)
    assert "FAILURE" == result.state

    client.publish(message("changing"))
    remove_client(ring.folder, key.name)

    def removed() -> bool:
        try:
            client.publish(message("changing"))
        except BrokerRefused as exc:
            return "was removed" in str(exc)
        return False

    wait_until(removed, what="the removal", interval_s=0.2)


def test_refusals_are_logged_once_a_key_and_kind(ring: Keyring) -> None:
    """Each kind of refusal is logged once for each key, with the rule, and counted always."""
    key = ring.key(publish=("mails",))
    client = ring.client(key)
    before = ring.forbidden()

    for _ in range(5):
        for one in (message("elsewhere"), message("nowhere")):
            with pytest.raises(NotPermitted):
                client.publish(one)

    assert before + 10 == ring.forbidden()
    assert ring.broker.proc is not None
    lines = [line for line in ring.broker.proc.output().splitlines() if f"key '{key.name}'" in line]
    assert 1 == len(lines)
    assert "(publish, " in lines[0]
    assert "to publish to the queue 'elsewhere'" in lines[0]


def test_an_announcement_goes_into_no_closed_queue(ring: Keyring) -> None:
    """A topic whose exchange leads into a closed queue is not announced with that key."""
    ring.admin.ask("declare_exchange", exchange="news", type="fanout")
    ring.admin.ask("declare_queue", queue="inbox")
    ring.admin.ask("bind", exchange="news", queue="inbox", key="")
    wire = ring.wire(ring.key(publish=("mails",)))
    before = ring.forbidden()

    wire.send(PublishTopic(msgid="m", topic="news", payload=b"{}"))
    wait_until(lambda: before + 1 == ring.forbidden(), what="a refusal")

    assert [0] == [row["waiting"] for row in ring.admin.ask("queues") if row["name"] == "inbox"]
