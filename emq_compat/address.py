"""Where a broker is.

    emq://host:47291        our broker: the clients' port; the workers' is one lower, the admin's two up
    emq://host              the same with the default ports 47291, 47290, 47293
    emq+ipc:///run/emq      our broker on this machine: client.sock, worker.sock, admin.sock in that folder
    tcp://host:47291        a stock eventmq 0.3.13 router; also emq://host?stock=1
    memory://, memory://x   a broker in this very process, for tests: started by the first connection
    emq://one;emq://two     failover, in this order

Behind ``?``, joined by ``&``: ``worker_port=N``; ``keys=DIR`` (CURVE; else the variable EMQ_KEYS);
``stock=1``, or ``tcp://…?stock=0`` where our broker listens; ``ipv6=1`` for a name with IPv6 addresses only.

Where no address is given, EMQ_BROKER_ADDR holds it. There, as everywhere, ``tcp://`` means a stock router:
that is what eventmq's clients mean by it. Write ``emq://`` once our broker has taken the router's place.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from emq_compat.errors import AddressError, ConfigurationError

__all__ = ["DEFAULT_URL", "Address", "endpoint_is_loopback", "is_kombu"]

DEFAULT_URL = "emq://127.0.0.1:47291"
CLIENT_PORT = 47291

#: How long a resolver may take that is asked for the sake of a message.
_RESOLVER_S = 1.0
#: A unix socket's path: 108 bytes with its final NUL (unix(7)).
_SOCKET_PATH_BYTES = 107
#: Of that what the folder for temporary files may have, so that ``memory://`` with the longest name fits.
_LONGEST_PARENT_BYTES = 32
_EXAMPLES = "write emq://HOST:47291, emq+ipc://FOLDER, or tcp://HOST:47291 for a stock router"
# fmt: off
_KOMBU_SCHEMES = frozenset({
    "amqp", "amqps", "azureservicebus", "azurestoragequeues", "confluentkafka", "consul", "etcd",
    "filesystem", "gcpubsub", "librabbitmq", "mongodb", "pyamqp", "pyro", "qpid", "redis", "rediss",
    "sentinel", "slmq", "sqla", "sqlalchemy", "sqs", "zookeeper",
})
# fmt: on


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One broker's address.

    Attributes:
        url: the address as people should read it, without its options.
        host: its name or IP address (IPv6 without brackets); the folder for ``emq+ipc://``.
        client_endpoint, worker_endpoint, admin_endpoint: ZeroMQ endpoints to connect to.
        stock: it is a stock eventmq 0.3.13 router: no confirm, no results, only stock headers.
        keys_dir: folder of CURVE keys; None: no encryption (always for ipc: the folder's mode protects it).
        ipv6: ZeroMQ's IPV6 option is needed.
        is_loopback: reachable from this machine only (127.0.0.0/8, ::1, localhost, ipc).
        in_process: ``memory://``: the broker is this process's, or that of a process it was forked from.
    """

    url: str
    host: str
    client_endpoint: str
    worker_endpoint: str
    admin_endpoint: str
    stock: bool = False
    keys_dir: Path | None = None
    ipv6: bool = False
    is_loopback: bool = False
    in_process: bool = False

    def prepare(self) -> None:
        """Start the broker that is to be connected to, if it is this process's and doesn't run.

        Raises:
            OperationalError: it can't be started.
        """
        if self.in_process:
            # By its name: the broker stands above its addresses and knows them, not the other way round.
            importlib.import_module("emq_compat.broker.inprocess").begin(self.host)

    def __str__(self) -> str:
        return self.url

    def unresolved(self) -> str:
        """Say that its name doesn't resolve; empty: it does, or is no name, or the resolver is still at it
        after a second. For messages, once a connection has failed.
        """
        if not self.client_endpoint.startswith("tcp://") or _is_ip(self.host):
            return ""
        kind = "" if self.ipv6 else " to an IPv4 address"
        found: list[str] = []

        def resolve() -> None:
            try:
                socket.getaddrinfo(self.host, None, socket.AF_UNSPEC if self.ipv6 else socket.AF_INET)
            except (OSError, UnicodeError) as exc:
                why = getattr(exc, "strerror", None) or str(exc)
                found.append(f"the name {self.host} does not resolve{kind} ({why})")

        asking = threading.Thread(target=resolve, name="emq-resolve", daemon=True)
        asking.start()
        asking.join(_RESOLVER_S)
        return found[0] if found else ""

    @classmethod
    def parse(cls, text: str | None = None, environ: Mapping[str, str] | None = None) -> tuple[Address, ...]:
        """Read a URL, or several separated by ``;`` (failover, in this order).

        None or an empty text: EMQ_BROKER_ADDR, else DEFAULT_URL. ``environ`` is os.environ unless given.

        Raises:
            AddressError: it can't be used; the message says what is wrong and what to write.
            ConfigurationError: it names a broker that only kombu reaches.
        """
        environ = os.environ if environ is None else environ
        text = text or environ.get("EMQ_BROKER_ADDR") or DEFAULT_URL
        parts = [part.strip() for part in text.split(";") if part.strip()]
        if not parts:
            raise AddressError(f"the address {text!r} is empty: {_EXAMPLES}")
        addresses = tuple(_parse_one(part, environ) for part in parts)
        if len({address.stock for address in addresses}) > 1:
            raise AddressError(f"{text!r} mixes stock routers and emq-compat brokers: use one kind")
        return addresses


def endpoint_is_loopback(endpoint: str) -> bool:
    """Tell whether a ZeroMQ endpoint, to bind or to connect to, is reachable from this machine only."""
    if not endpoint.startswith("tcp://"):
        return True
    return _is_loopback(endpoint[len("tcp://") :].rpartition(":")[0].strip("[]"))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if host.lower() in ("localhost", "localhost.localdomain"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_kombu(url: str) -> bool:
    """Tell whether an address (of several, the first) names a broker that is reached through kombu."""
    scheme = url.partition("://")[0].strip().lower()
    return scheme in _KOMBU_SCHEMES or scheme.partition("+")[0] in _KOMBU_SCHEMES


def _parse_one(text: str, environ: Mapping[str, str]) -> Address:
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise AddressError(f"the address {text!r} has no scheme: {_EXAMPLES}")
    if is_kombu(text):
        raise ConfigurationError(
            f"{scheme}:// is a broker that only kombu reaches, and one of ours is wanted here: {_EXAMPLES}"
        )
    if "@" in rest.partition("/")[0].partition("?")[0]:
        raise AddressError(f"an {scheme}:// address has no user and password: name a key folder, {scheme}://HOST?keys=DIR")
    rest, _, query = rest.partition("?")
    options = _options(text, query)
    if scheme in ("emq+ipc", "ipc"):
        return _parse_ipc(text, scheme, rest, options)
    if scheme in ("emq", "tcp"):
        return _parse_tcp(text, scheme, options, environ)
    if scheme == "memory":
        return _parse_memory(text, rest, options)
    raise AddressError(f"the scheme of {text!r} is unknown: {_EXAMPLES}")


def _options(text: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"worker_port", "keys", "stock", "ipv6"})
    if unknown:
        raise AddressError(
            f"{text!r} has the unknown option {unknown[0]!r}: known are worker_port, keys, stock and ipv6"
        )
    return options


def _flag(text: str, options: Mapping[str, str], name: str, default: bool) -> bool:
    value = options.get(name)
    if value is None:
        return default
    if value.lower() in ("1", "true", "yes", "on"):
        return True
    if value.lower() in ("0", "false", "no", "off"):
        return False
    raise AddressError(f"{text!r}: {name}={value} is neither on nor off: write {name}=1 or {name}=0")


def _parse_ipc(text: str, scheme: str, rest: str, options: Mapping[str, str]) -> Address:
    for name in options:
        if name != "stock":
            raise AddressError(f"{text!r}: {name} has no meaning for sockets in a folder: leave it out")
    if not rest:
        raise AddressError(f"{text!r} names no folder: write emq+ipc:///run/emq, with the folder's own slash")
    if scheme == "ipc" or _flag(text, options, "stock", False):
        raise AddressError(f"{text!r}: a stock router is reached by tcp://HOST:PORT; for ours write emq+ipc://FOLDER")
    folder = os.path.abspath(os.path.expanduser(unquote(rest)))
    longest = os.path.join(folder, "client.sock")
    size = len(os.fsencode(longest))
    if size > _SOCKET_PATH_BYTES:
        raise AddressError(
            f"the socket's path {longest!r} has {size} bytes, and the system allows {_SOCKET_PATH_BYTES}: "
            "choose a folder with a shorter path"
        )
    return Address(
        url=f"emq+ipc://{folder}",
        host=folder,
        client_endpoint=f"ipc://{folder}/client.sock",
        worker_endpoint=f"ipc://{folder}/worker.sock",
        admin_endpoint=f"ipc://{folder}/admin.sock",
        is_loopback=True,
    )


def _parse_memory(text: str, rest: str, options: Mapping[str, str]) -> Address:
    """Read ``memory://NAME``; no name, ``localhost`` and ``/`` are one broker, as with kombu's transport."""
    for name in options:
        raise AddressError(f"{text!r}: {name} has no meaning for a broker in this process: leave it out")
    name = rest.strip("/")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,32}", name):
        raise AddressError(f"{text!r}: a broker in this process has a name of letters and digits, 32 at most")
    name = "" if name == "localhost" else name
    folder = f"{_memory_folders()}-{name}" if name else _memory_folders()
    sockets = _parse_ipc(text, "emq+ipc", folder, {})
    return replace(sockets, url=f"memory://{name}", in_process=True)


@functools.cache
def _memory_folders() -> str:
    """Return how the folders of this process's brokers begin; the same in processes forked from it."""
    from tempfile import gettempdir  # noqa: PLC0415 - for tests only

    parent = gettempdir()
    if len(os.fsencode(parent)) > _LONGEST_PARENT_BYTES:
        parent = "/tmp"  # noqa: S108 - the folder in there is made with mode 0700, and must be new
    return os.path.join(parent, f"emq-memory-{os.getpid()}-{os.urandom(6).hex()}")


def _parse_tcp(text: str, scheme: str, options: Mapping[str, str], environ: Mapping[str, str]) -> Address:
    try:
        split = urlsplit(text)
        host, port = split.hostname or "127.0.0.1", split.port
    except ValueError as exc:
        raise AddressError(f"the address {text!r} can't be read ({exc}): {_EXAMPLES}") from None
    if split.path.strip("/") or split.fragment:
        raise AddressError(f"{text!r} goes on after its port: write {scheme}://{host}:{port or CLIENT_PORT}")
    if host == "*" or any(c.isspace() or not c.isprintable() for c in host):
        raise AddressError(f"the host {host!r} can't be connected to: {_EXAMPLES}")
    port = CLIENT_PORT if port is None else port
    worker_port = _worker_port(text, port, options)
    stock = _flag(text, options, "stock", scheme == "tcp")
    if stock and "keys" in options:
        raise AddressError(f"{text!r}: a stock router has no keys: leave them out, or write emq:// for ours")
    keys = options.get("keys") or ("" if stock else environ.get("EMQ_KEYS", ""))
    quoted = f"[{host}]" if ":" in host else host
    return Address(
        url=f"{'tcp' if stock else 'emq'}://{quoted}:{port}",
        host=host,
        client_endpoint=f"tcp://{quoted}:{port}",
        worker_endpoint=f"tcp://{quoted}:{worker_port}",
        admin_endpoint=f"tcp://{quoted}:{port + 2}",
        stock=stock,
        keys_dir=Path(keys).expanduser().absolute() if keys else None,
        ipv6=_flag(text, options, "ipv6", ":" in host),
        is_loopback=_is_loopback(host),
    )


def _worker_port(text: str, port: int, options: Mapping[str, str]) -> int:
    given = options.get("worker_port")
    if given is None:
        worker_port = port - 1
    elif given.isascii() and given.isdigit():
        worker_port = int(given)
    else:
        raise AddressError(f"{text!r}: worker_port={given} is no port: write worker_port={port - 1}")
    if not 1 <= port <= 65533:
        raise AddressError(f"{text!r}: the port is not between 1 and 65533 (administration is two above it)")
    if not 1 <= worker_port <= 65535 or worker_port == port:
        raise AddressError(
            f"{text!r}: the workers' port {worker_port} can't be used: write ?worker_port=N, "
            f"N from 1 to 65535 and not {port}"
        )
    return worker_port
