"""eventmq's shapes of what a job manager is given: requests, queues, addresses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emq_compat.address import Address
from emq_compat.errors import ConfigurationError, MessageError
from emq_compat.manager.settings import DEFAULT_WEIGHT, EventmqSettings
from emq_compat.message import SUCCESS, Delivery, Headers, Job

__all__ = ["delivery_of", "message_of", "state_in", "weighted", "worker_addresses", "workers_address"]


def message_of(delivery: Delivery) -> list[str]:
    """Return ``[queue, headers, payload]`` as text, as eventmq's ``on_request`` is given it."""
    return [delivery.queue, delivery.headers.encode(), delivery.payload.decode("utf-8", "replace")]


def delivery_of(msgid: str, msg: Sequence[Any]) -> Delivery:
    """Make a delivery of ``[queue, headers, payload]`` or ``[subcommand, options]``.

    Raises:
        MessageError: it is not a ``run`` with what that needs, or a header is wrong.
    """
    if len(msg) == 2 and isinstance(msg[1], Mapping):
        queue, headers = "", Headers()
        payload = json.dumps([msg[0], dict(msg[1])], default=repr).encode()
    elif len(msg) >= 3:
        queue, headers = str(msg[0]), Headers.decode(str(msg[1]))
        payload = msg[2] if isinstance(msg[2], bytes) else str(msg[2]).encode()
    else:
        raise MessageError("a request is [queue, headers, payload] or [subcommand, {options}]")
    Job.decode(payload)
    return Delivery(msgid=msgid, queue=queue, headers=headers, payload=payload)


def state_in(body: bytes) -> str:
    """Return the state that a reply's JSON names; a plain ``{"value": …}`` is a success."""
    try:
        state = json.loads(body).get("state")
    except (ValueError, AttributeError):
        return SUCCESS
    return state if isinstance(state, str) else SUCCESS


def weighted(queues: str | Sequence[str | Sequence[Any]]) -> tuple[tuple[int, str], ...]:
    """Return (weight, name) of each queue; a bare name gets eventmq's default weight.

    Raises:
        ConfigurationError: an entry is neither a name nor (weight, name).
    """
    found: list[tuple[int, str]] = []
    for queue in (queues,) if isinstance(queues, str) else queues:
        if isinstance(queue, str):
            found.append((DEFAULT_WEIGHT, queue))
            continue
        try:
            weight, name = tuple(queue)
            found.append((int(weight), str(name)))
        except (TypeError, ValueError):
            raise ConfigurationError(f"{queue!r} is neither a queue's name nor (weight, name)") from None
    return tuple(found)


def worker_addresses(settings: EventmqSettings) -> tuple[Address, ...]:
    """Return eventmq's WORKER_ADDR and, where it is another one, WORKER_ADDR_FAILOVER."""
    found = workers_address(settings.worker_addr)
    if settings.worker_addr_failover and settings.worker_addr_failover != settings.worker_addr:
        found += workers_address(settings.worker_addr_failover)
    return found


def workers_address(text: str) -> tuple[Address, ...]:
    """Read an address of ours, or eventmq's way to name the workers' endpoint itself (``tcp://host:47290``).

    Whether a stock router or our broker listens there shows in the session.

    Raises:
        ConfigurationError: it is neither.
    """
    if not text.startswith("tcp://"):
        return Address.parse(text)
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65535):
        raise ConfigurationError(f"the workers' address {text!r} is not tcp://HOST:PORT")
    client = f"tcp://{host}:{int(port) + 1}"
    return (
        Address(
            url=text,
            host=host.strip("[]"),
            client_endpoint=client,
            worker_endpoint=text,
            admin_endpoint=f"tcp://{host}:{int(port) + 3}",
            ipv6=host.startswith("["),
        ),
    )
