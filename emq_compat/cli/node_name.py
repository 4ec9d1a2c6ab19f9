"""Names of workers, and of their files: Celery's ``name@host`` with ``%h``, ``%n``, ``%d`` and ``%i``."""

from __future__ import annotations

import re
import socket

from emq_compat.ids import plain_name

__all__ = ["file_name", "node_name"]

_PATTERN = re.compile(r"%(.)")


def node_name(written: str | None, host: str = "") -> str:
    """Return the name of a worker.

    Args:
        written: ``-n``: ``name@host``, ``@host`` or ``name``; in it ``%h`` is this host's full name, ``%n``
            its first part, ``%d`` the rest, ``%%`` a percent sign. None: ``celery@%h``.
        host: this host's name.

    What isn't printable ASCII, or is a blank, becomes ``_``: it is the same name in logs, events and answers.
    """
    host = host or socket.gethostname()
    name, at, place = (written or "").partition("@")
    if not at and written and "%h" in written:
        name, place = "", ""
        whole = written
    else:
        whole = f"{name or 'celery'}@{place or '%h'}"
    short, _, domain = host.partition(".")
    return plain_name(_expand(whole, {"h": host, "n": short, "d": domain, "i": "0", "I": ""}))


def file_name(written: str, node: str) -> str:
    """Return a file's path: ``%n`` and ``%h`` are the two parts of the worker's name, ``%p`` the whole.

    ``%i`` and ``%I``, by which Celery gives each child a log of its own, become ``0`` and nothing: our
    children append whole lines to one file.
    """
    name, _, host = node.rpartition("@")
    domain = host.partition(".")[2]
    return _expand(written, {"h": host, "n": name, "d": domain, "p": node, "i": "0", "I": ""})


def _expand(text: str, values: dict[str, str]) -> str:
    """Replace what is known; the rest stays as it is."""
    values = {**values, "%": "%"}
    return _PATTERN.sub(lambda found: values.get(found[1], found[0]), text)
