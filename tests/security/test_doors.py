"""Keys, sockets in a folder, and open addresses, with the real commands."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from emq_compat.client import Client
from emq_compat.errors import ConfigurationError, OperationalError
from emq_compat.keys import Keys, add_client
from emq_compat.message import new_id
from emq_compat.protocol.commands import Show, Shown
from emq_compat.wire import Wire
from tests.broker_process import STARTED, Broker
from tests.hand_worker import message
from tests.processes import Procs, wait_until

pytestmark = pytest.mark.integration

PROJECT = """
from emq_compat.celery_shim import Celery
app = Celery("proj")

@app.task
def add(x, y):
    return x + y
"""


@pytest.fixture
def keys(procs: Procs, tmp_path: Path) -> Path:
    """The broker's folder of keys, made by the command."""
    folder = tmp_path / "keys"
    assert 0 == procs.emq("keys", "new", str(folder)).wait()
    return folder


def test_with_keys_a_task_runs(
    broker: Broker, keys: Path, procs: Procs, write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """Client and worker that have keys (one by the URL, one by EMQ_KEYS) run a task; files are 0600."""
    broker.start("--keys", str(keys))
    write("proj.py", PROJECT)
    other = add_client(keys, "worker-1", role="worker")
    url = broker.url
    procs.emq("worker", "-A", "proj", "-b", url, "-c", "1", "-P", "solo",
              cwd=tmp_path, env={"EMQ_KEYS": str(other)}, ready="ready")  # fmt: skip
    with_keys = f"{url}&keys={keys}"
    called = procs.emq("call", "proj.add", "-A", "proj", "-a", "[2, 3]", "-t", "20", "-b", with_keys,
                       cwd=tmp_path)  # fmt: skip
    assert 0 == called.wait(), called.output()
    assert "5" in called.output()
    files = [file for file in keys.rglob("*") if file.is_file()]
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in files}


def test_without_a_key_nobody_gets_in(broker: Broker, keys: Path, tmp_path: Path, procs: Procs) -> None:
    """No key, or one that isn't authorised: an error within the time limit that says what is wrong."""
    broker.start("--keys", str(keys))
    stranger = tmp_path / "stranger"
    assert 0 == procs.emq("keys", "new", str(stranger)).wait()
    (stranger / "broker.pub").write_text((keys / "broker.pub").read_text())
    for url in (broker.url, f"{broker.url}&keys={stranger}"):
        begun = time.monotonic()
        with Client(url, timeout_s=2) as client, pytest.raises(OperationalError):
            client.publish(message())
        assert time.monotonic() - begun < 4
    with Client(f"{broker.url}&keys={keys}") as client:
        assert 0 == client.ask("stats")["published"]


def test_administration_needs_a_key(broker: Broker, keys: Path) -> None:
    """The administration socket answers those who have a key, and nobody else."""
    broker.start("--keys", str(keys))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        for own_keys in (Keys.for_client(keys), None):
            wire = Wire(context, broker.endpoint("admin"), identity=new_id().encode(), keys=own_keys)
            wire.send(Show(msgid=new_id(), what="STATUS"))
            received: list[object] = []

            def heard(wire: Wire = wire, received: list[object] = received) -> bool:
                received.extend(wire.receive())
                return bool(received) or bool(wire.failure)

            wait_until(heard, what="an answer or a refusal")
            assert bool(own_keys) == any(isinstance(one, Shown) for one in received)
            wire.close()
    finally:
        context.destroy(linger=0)


def test_an_open_address_needs_keys_or_insecure(broker: Broker, keys: Path, procs: Procs) -> None:
    """Binding to other than loopback is refused without --keys or --insecure, and says so."""
    argv = broker.argv()
    argv[argv.index("--frontend") + 1] = f"tcp://0.0.0.0:{broker.ports['frontend']}"
    refused = procs.emq(*argv)
    assert 1 == refused.wait()
    assert "--keys" in refused.output()
    assert "--insecure" in refused.output()
    assert "Traceback" not in refused.output()
    for option in (["--insecure"], ["--keys", str(keys)]):
        procs.emq(*argv, *option, ready=STARTED).stop()


def test_sockets_in_a_folder(procs: Procs, tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    """--ipc FOLDER: the folder is private, worker and client reach the broker by emq+ipc://FOLDER."""
    folder = tmp_path / "sockets"
    procs.emq("broker", "--ipc", str(folder), "--memory", ready="clients ipc://")
    assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
    write("proj.py", PROJECT)
    url = f"emq+ipc://{folder}"
    procs.emq("worker", "-A", "proj", "-b", url, "-c", "1", cwd=tmp_path, ready="ready")
    called = procs.emq("call", "proj.add", "-A", "proj", "-a", "[2, 3]", "-t", "20", "-b", url, cwd=tmp_path)
    assert 0 == called.wait(), called.output()
    assert "5" in called.output()


def test_a_folder_that_others_enter_is_refused(procs: Procs, tmp_path: Path) -> None:
    """--ipc on a folder that others can enter is refused."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o755)
    refused = procs.emq("broker", "--ipc", str(folder), "--memory")
    assert 1 == refused.wait()
    assert "chmod 700" in refused.output()


def test_readable_keys_are_refused(broker: Broker, keys: Path) -> None:
    """A secret key that others can read is refused by whoever would use it, naming the file."""
    (keys / "client.key").chmod(0o644)
    url = f"{broker.url}&keys={keys}"
    with Client(url) as client, pytest.raises(ConfigurationError, match=r"client\.key"):
        client.publish(message())
