"""``celery.utils.nodenames``, and what ``celery.utils`` itself has."""

from __future__ import annotations

import os
import socket
from functools import cache

from emq_compat.message import new_id

__all__ = [
    "anon_nodename",
    "default_nodename",
    "gen_unique_id",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "uuid",
    "worker_direct",
]

uuid = gen_unique_id = new_id

gethostname = cache(socket.gethostname)


def nodename(name: str, hostname: str) -> str:
    """Return ``name@hostname``."""
    return f"{name}@{hostname}"


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """Return a node name of this process."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def nodesplit(name: str) -> tuple[str | None, str]:
    """Return the two parts of a node name; the first is None where there is no ``@``."""
    before, at, after = name.partition("@")
    return (before, after) if at else (None, before)


def default_nodename(hostname: str | None) -> str:
    """Return a whole node name from a part of one: ``celery@`` this host."""
    name, host = nodesplit(hostname or "")
    return nodename(name or "celery", host or gethostname())


def node_format(s: str, name: str, **extra: str) -> str:
    """Replace ``%p``, ``%n``, ``%h``, ``%d``, ``%i`` and ``%I`` by the parts of the node name ``name``."""
    short, host = nodesplit(name)
    return host_format(s, host, short or "celery", p=name, **extra)


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: str) -> str:
    """Replace ``%h`` by the host, ``%n`` by ``name`` or its first part, ``%d`` by the rest of it."""
    host = host or gethostname()
    first, _, domain = host.partition(".")
    known = {"h": host, "n": name or first, "d": domain, "i": "%i", "I": "%I", "%": "%", **extra}
    text, parts = "", s.split("%")
    text = parts.pop(0)
    while parts:
        part = parts.pop(0)
        if not part and parts:  # "%%"
            text += "%" + parts.pop(0)
        else:
            text += known.get(part[:1], "%" + part[:1]) + part[1:]
    return text


def worker_direct(hostname: str) -> object:
    """Return the queue of one worker (``worker_direct``), by its node name, as kombu's Queue."""
    from kombu.entity import Exchange, Queue  # noqa: PLC0415 - heavy

    if isinstance(hostname, Queue):
        return hostname
    return Queue(f"{hostname}.dq2", Exchange("C.dq2"), hostname)
