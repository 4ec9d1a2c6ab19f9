"""CURVE on the wire: who is let in, and how soon the others are told."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from emq_compat.errors import ConfigurationError
from emq_compat.keys import Keys, add_client, new_keys
from emq_compat.protocol.commands import Ready
from emq_compat.wire import Gate, RouterWire, Wire
from emq_compat.wire.routers import Router
from tests.wire.conftest import Driver

pytestmark = pytest.mark.integration

Context = zmq.Context[Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    new_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def gate(context: Context, folder: Path) -> Iterator[Gate]:
    with Gate(context, Keys.for_broker(folder)) as gate:
        yield gate


@pytest.fixture
def router(context: Context, gate: Gate) -> RouterWire:
    return RouterWire(context, "tcp://127.0.0.1:*", gate=gate)


def test_a_client_with_a_key_is_let_in(context: Context, router: RouterWire, folder: Path) -> None:
    """A client whose key lies in the broker's folder talks to it both ways, and its loss is noticed."""
    wire = Wire(context, router.endpoint, identity=b"one", keys=Keys.for_client(folder))
    wire.send(Ready(msgid="r"))
    driver = Driver(router)
    assert [(b"one", Ready(msgid="r"))] == driver.messages(1)
    assert router.send(b"one", Ready(msgid="s"))
    assert [Ready(msgid="s")] == Driver(wire).messages(1)
    assert "" == wire.failure

    wire.close()
    driver.until(lambda: driver.gone)
    assert [b"one"] == driver.gone


def test_a_client_without_a_key_is_told_at_once(context: Context, router: RouterWire) -> None:
    """A plain client to a CURVE broker learns within a second that it lacks keys, and nothing arrives."""
    wire = Wire(context, router.endpoint, identity=b"one")
    wire.send(Ready(msgid="r"))

    Driver(wire).until(lambda: wire.failure, timeout_s=1)

    assert "the handshake failed: it uses CURVE keys and this side none" in wire.failure
    assert not wire.connected
    assert [] == router.receive()


def test_a_client_with_an_unknown_key_is_told_at_once(
    context: Context, router: RouterWire, folder: Path
) -> None:
    """A client whose key the broker doesn't list learns within a second that it is refused."""
    (folder / "clients" / "client.pub").unlink()
    wire = Wire(context, router.endpoint, identity=b"one", keys=Keys.for_client(folder))

    Driver(wire).until(lambda: wire.failure, timeout_s=1)

    assert "it refused this side's CURVE key" == wire.failure


def test_a_client_that_knows_another_broker_is_told_at_once(
    context: Context, router: RouterWire, tmp_path: Path
) -> None:
    """A client with another broker's public key learns within a second that it is the wrong one."""
    new_keys(tmp_path / "other")
    wire = Wire(context, router.endpoint, identity=b"one", keys=Keys.for_client(tmp_path / "other"))

    Driver(wire).until(lambda: wire.failure, timeout_s=1)

    assert "not the public key that this side knows" in wire.failure
    assert not wire.connected


def test_a_client_with_keys_to_a_plain_broker_is_told_at_once(
    context: Context, listens: Callable[[], Router], folder: Path
) -> None:
    """A CURVE client to a broker without keys learns within a second that the broker uses none."""
    plain = listens()
    wire = Wire(context, plain.endpoint, identity=b"one", keys=Keys.for_client(folder))

    Driver(wire, plain).until(lambda: wire.failure, timeout_s=1)

    assert "it uses no CURVE keys" in wire.failure


def test_the_folder_is_read_at_each_connection(context: Context, router: RouterWire, folder: Path) -> None:
    """A client whose key is added while the broker runs is let in without a restart."""
    handout = add_client(folder, "late")
    listed = folder / "clients" / "late.pub"
    aside = shutil.move(listed, folder / "late.aside")
    early = Wire(context, router.endpoint, identity=b"late", keys=Keys.for_client(handout))
    Driver(early).until(lambda: early.failure)

    shutil.move(aside, listed)
    wire = Wire(context, router.endpoint, identity=b"late", keys=Keys.for_client(handout))
    Driver(wire).until(lambda: wire.connected)

    assert "" == wire.failure


def test_an_unreadable_folder_lets_nobody_in(
    context: Context, router: RouterWire, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When a file in the folder is no key, nobody is let in, and the log names the file."""
    (folder / "clients" / "bad.pub").write_text("nonsense")
    wire = Wire(context, router.endpoint, identity=b"one", keys=Keys.for_client(folder))

    Driver(wire).until(lambda: wire.failure, timeout_s=1)

    assert "bad.pub" in caplog.text


def test_without_its_gate_nobody_is_let_in(context: Context, folder: Path) -> None:
    """A protected socket lets nobody in once its gate is closed."""
    gate = Gate(context, Keys.for_broker(folder))
    router = RouterWire(context, "tcp://127.0.0.1:*", gate=gate)
    gate.close()
    wire = Wire(context, router.endpoint, identity=b"one", keys=Keys.for_client(folder))
    wire.send(Ready(msgid="r"))

    driver = Driver(router)
    driver.until(
        lambda: router.refused, timeout_s=20
    )  # one that met the closing gate is refused the next time

    assert [] == driver.received
    assert not wire.connected


def test_a_context_has_one_gate(context: Context, gate: Gate) -> None:
    """A second gate in the same context is refused with an error."""
    with pytest.raises(ConfigurationError, match="has an authenticator already"):
        Gate(context, gate.keys)
