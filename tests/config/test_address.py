"""Addresses: what may be written, what it means, and what the errors tell."""

from __future__ import annotations

import socket
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emq_compat.address import Address, endpoint_is_loopback, is_kombu
from emq_compat.errors import AddressError, ConfigurationError, EmqError

pytestmark = pytest.mark.unit


def one(text: str, **environ: str) -> Address:
    (address,) = Address.parse(text, environ)
    return address


@pytest.mark.parametrize(
    ("text", "client", "worker", "admin"),
    [
        ("emq://host", "tcp://host:47291", "tcp://host:47290", "tcp://host:47293"),
        ("emq://host:5000", "tcp://host:5000", "tcp://host:4999", "tcp://host:5002"),
        ("emq://host:5000?worker_port=6000", "tcp://host:5000", "tcp://host:6000", "tcp://host:5002"),
        ("emq://host//", "tcp://host:47291", "tcp://host:47290", "tcp://host:47293"),
        ("emq://", "tcp://127.0.0.1:47291", "tcp://127.0.0.1:47290", "tcp://127.0.0.1:47293"),
        ("emq://[::1]:9000", "tcp://[::1]:9000", "tcp://[::1]:8999", "tcp://[::1]:9002"),
        ("tcp://10.0.0.1:47291", "tcp://10.0.0.1:47291", "tcp://10.0.0.1:47290", "tcp://10.0.0.1:47293"),
    ],
)
def test_endpoints(text: str, client: str, worker: str, admin: str) -> None:
    """The workers' port is one below the clients' unless it is named; administration is two above."""
    address = one(text)

    found = (address.client_endpoint, address.worker_endpoint, address.admin_endpoint)
    assert (client, worker, admin) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h;redis://i", True),
        ("amqp://user:word@h//", True),
        ("SQS://", True),
        ("sqla+sqlite:///x", True),
        ("emq://h", False),
        ("emq+ipc:///tmp/x", False),
        ("memory://", False),
        ("", False),
    ],
)
def test_brokers_of_kombu(text: str, expected: bool) -> None:
    """An address tells by its scheme whether its broker is reached through kombu."""
    assert expected is is_kombu(text)


@pytest.mark.parametrize(
    ("text", "stock"),
    [
        ("emq://h", False),
        ("emq://h?stock=1", True),
        ("tcp://h:47291", True),
        ("tcp://h:47291?stock=0", False),
        ("emq+ipc:///tmp/x", False),
    ],
)
def test_stock(text: str, stock: bool) -> None:
    """tcp:// and ?stock=1 mean a stock router."""
    assert stock is one(text).stock


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("host", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """127.0.0.0/8, ::1 and localhost are this machine alone."""
    assert loopback is one(f"emq://{host}").is_loopback
    assert loopback is endpoint_is_loopback(f"tcp://{host}:1")


@pytest.mark.parametrize("endpoint", ["tcp://*:5", "tcp://0.0.0.0:5", "tcp://[::]:5", "tcp://eth0:5"])
def test_wildcards_are_not_loopback(endpoint: str) -> None:
    """An endpoint that listens on every interface is open to other machines."""
    assert not endpoint_is_loopback(endpoint)


def test_ipv6_option() -> None:
    """An IPv6 address asks for ZeroMQ's IPV6 option, a name only when it is told so."""
    assert one("emq://[fe80::1]:1000").ipv6
    assert not one("emq://name").ipv6
    assert one("emq://name?ipv6=1").ipv6


def test_ipc() -> None:
    """emq+ipc:// names a folder that holds three sockets."""
    address = one("emq+ipc:///run/emq")

    assert "ipc:///run/emq/client.sock" == address.client_endpoint
    assert "ipc:///run/emq/worker.sock" == address.worker_endpoint
    assert "ipc:///run/emq/admin.sock" == address.admin_endpoint
    assert address.is_loopback


def test_relative_ipc_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative folder is taken from the working directory at that moment."""
    monkeypatch.chdir(tmp_path)

    assert f"ipc://{tmp_path}/run/client.sock" == one("emq+ipc://run").client_endpoint


@pytest.mark.parametrize("size", [107, 108])
def test_ipc_path_limit(size: int) -> None:
    """A socket's path may have 107 bytes; a longer one is refused with its length and the way out."""
    folder = "/" + "x" * (size - len("//client.sock"))
    if size == 107:
        assert 107 == len(one(f"emq+ipc://{folder}").client_endpoint.removeprefix("ipc://"))
    else:
        with pytest.raises(AddressError, match=r"108 bytes.*107.*shorter path"):
            one(f"emq+ipc://{folder}")


def test_failover() -> None:
    """``;`` separates addresses, tried in this order."""
    first, second = Address.parse("emq://one:5000; emq://two:6000?keys=/k", {})

    assert ("one", None) == (first.host, first.keys_dir)
    assert ("two", Path("/k")) == (second.host, second.keys_dir)


def test_keys_from_the_environment() -> None:
    """EMQ_KEYS is used where the address names no keys, but not for a stock router or sockets in a folder."""
    assert Path("/env") == one("emq://h", EMQ_KEYS="/env").keys_dir
    assert Path("/own") == one("emq://h?keys=/own", EMQ_KEYS="/env").keys_dir
    assert one("tcp://h", EMQ_KEYS="/env").keys_dir is None
    assert one("emq+ipc:///run", EMQ_KEYS="/env").keys_dir is None


def test_no_address_given() -> None:
    """EMQ_BROKER_ADDR holds the address where none is given, and tcp:// in it is a stock router's."""
    assert ("emq://127.0.0.1:47291", False) == (one("").url, one("").stock)
    address = one("", EMQ_BROKER_ADDR="tcp://127.0.0.1:47291")
    assert ("tcp://127.0.0.1:47291", True) == (address.url, address.stock)
    assert "emq://h:47291" == one("emq://h", EMQ_BROKER_ADDR="emq://other").url


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("host:47291", "no scheme: write emq://HOST:47291"),
        ("http://host", "scheme of 'http://host' is unknown"),
        ("emq://host:x", "can't be read"),
        ("emq://host:70000", "can't be read"),
        ("emq://host:1", r"workers' port 0 can't be used: write \?worker_port=N"),
        ("emq://host:5000?worker_port=5000", "workers' port 5000 can't be used"),
        ("emq://host:5000?worker_port=x", "is no port: write worker_port=4999"),
        ("emq://host?what=1", "unknown option 'what': known are"),
        ("emq://host/vhost", "goes on after its port: write emq://host:47291"),
        ("emq://host?stock=maybe", "neither on nor off"),
        ("tcp://host?keys=/k", "a stock router has no keys"),
        ("emq+ipc://", "names no folder"),
        ("emq+ipc:///x?keys=/k", "keys has no meaning"),
        ("ipc:///x", r"write emq\+ipc://FOLDER"),
        ("emq://*", "can't be connected to"),
        ("emq://[::1", "can't be read"),
        ("emq://a;tcp://b", "mixes stock routers"),
        (";", "is empty"),
    ],
)
def test_what_is_wrong(text: str, says: str) -> None:
    """An address that can't be used is refused with what is wrong and what to write."""
    with pytest.raises(AddressError, match=says):
        one(text)


def test_password_is_not_shown() -> None:
    """A password that has no place in an address is not repeated in the error."""
    with pytest.raises(AddressError, match=r"emq://HOST\?keys=DIR") as caught:
        one("emq://user:secret@host?what=1")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["redis://:secret@h:6379/0", "amqp://guest@h//", "sqla+sqlite:///x", "sqs://"])
def test_kombu_brokers(text: str) -> None:
    """A broker that only kombu reaches is a configuration error that says so."""
    with pytest.raises(ConfigurationError, match="only kombu reaches") as caught:
        one(text)

    assert "secret" not in str(caught.value)


@given(st.text(max_size=80) | st.text(alphabet="emqtcpip+:/;?=&[]@#%. 0123456789", max_size=60))
def test_no_text_raises_anything_else(text: str) -> None:
    """Whatever is written, it is an address or an error of ours."""
    try:
        addresses = Address.parse(text, {})
    except EmqError:
        return
    assert addresses


_NAMES = st.text(alphabet=string.ascii_lowercase + string.digits, min_size=1, max_size=20)


@given(st.lists(st.tuples(_NAMES, st.integers(2, 65533)), min_size=1, max_size=4))
def test_urls_are_read_again_as_themselves(parts: list[tuple[str, int]]) -> None:
    """An address's ``url`` leads to the same address."""
    addresses = Address.parse(";".join(f"emq://{host}:{port}" for host, port in parts), {})

    assert addresses == Address.parse(";".join(map(str, addresses)), {})


def test_only_a_name_can_fail_to_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """An IP address and a unix socket are not looked up; a known name says nothing, an unknown one why."""

    def look_up(host: str, *args: object) -> list[object]:
        if host == "known":
            return []
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    told = [
        Address.parse(url)[0].unresolved()
        for url in ("emq://192.0.2.1", "emq://[::1]", "emq+ipc:///run/emq", "emq://known", "emq://a?ipv6=1")
    ]
    assert ["", "", "", "", "the name a does not resolve (Name or service not known)"] == told
