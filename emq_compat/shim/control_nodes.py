"""The nodes of remote control, and what the broker tells in their stead."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from emq_compat.client import Client
from emq_compat.control_shapes import scheduled_shape
from emq_compat.errors import MessageError
from emq_compat.node_patterns import matches

__all__ = ["BROKER_TELLS", "Replies", "elected", "matching", "node_of", "nodes", "present"]

Replies = list[dict[str, Any]]

#: What ends the name under which the broker passes on the answer of a node that is no worker.
_NO_WORKER: Final = ".beside"
#: The longest that the broker waits for answers.
_LONGEST_S: Final = 60.0


def node_of(worker: str) -> str:
    """Return the node name of a worker, whose identity has a suffix."""
    return worker.rpartition(".")[0] or worker


def nodes(client: Client) -> list[str]:
    """Return the names of the workers that the broker knows."""
    return [node_of(worker["name"]) for worker in client.ask("workers") if not worker["stock"]]


def present(client: Client, among: Sequence[str] | None, timeout: float | None) -> list[str]:
    """Return the workers' nodes, of these or all, that answer in time."""
    answers = client.inspect("ping", None, among, waiting_s(timeout))
    return [node_of(worker) for worker in answers if not worker.endswith(_NO_WORKER)]


def waiting_s(timeout: float | None) -> float:
    """Return how long answers are waited for, in seconds."""
    return min(_LONGEST_S, 1.0 if timeout is None else timeout)


def matching(client: Client, pattern: str, matcher: Any) -> list[str]:
    """Return the nodes whose names match: ``glob`` (the default), ``pcre``, or a function(name, pattern).

    Raises:
        ValueError: there is no such matcher, or the pattern can't be used.
    """
    if callable(matcher):
        return [node for node in nodes(client) if matcher(node, pattern)]
    name = "glob" if matcher is None else str(matcher)
    try:
        matches("", pattern, name)  # whatever nodes there are
        return [node for node in nodes(client) if matches(node, pattern, name)]
    except MessageError as exc:
        raise ValueError(str(exc)) from exc


def elected(client: Client, election: str) -> list[str]:
    """Return the one node that wins an election: the same for one id while the workers are the same."""
    there = {node_of(w["name"]) for w in client.ask("workers") if w["present"] and not w["stock"]}
    ranked = sorted(there, key=lambda node: hashlib.sha256(f"{election}\0{node}".encode()).digest())
    return ranked[:1]


def _revoked(client: Client, told_by: Sequence[str], arguments: Mapping[str, Any]) -> Replies:
    ids = client.ask("revoked")
    return [{node: list(ids)} for node in told_by]


def _hello(client: Client, told_by: Sequence[str], arguments: Mapping[str, Any]) -> Replies:
    if revoked := [str(one) for one in arguments.get("revoked") or ()]:
        client.ask("revoke", ids=revoked)
    ids = client.ask("revoked")
    asking = arguments.get("from_node")
    return [{node: {"revoked": list(ids), "clock": int(time.time())}} for node in told_by if node != asking]


def _scheduled(client: Client, told_by: Sequence[str], arguments: Mapping[str, Any]) -> Replies:
    """Return what waits for its time, each message under one node: the first that listens on its queue."""
    teller: dict[str, str] = {}
    for worker in sorted(client.ask("workers"), key=lambda worker: str(worker["name"])):
        if worker["present"] and not worker["stock"]:
            for queue in worker["queues"]:
                teller.setdefault(queue, node_of(worker["name"]))
    told: dict[str, list[Any]] = {node: [] for node in told_by}
    for row in client.ask("delayed", queues=sorted(teller)) if told else ():
        node = teller[row["queue"]]
        if node in told:
            told[node].append(scheduled_shape(row, node))
    return [{node: rows} for node, rows in told.items()]


#: Commands whose answer the broker knows → what makes the replies of the nodes that are there.
BROKER_TELLS: Final[dict[str, Callable[[Client, Sequence[str], Mapping[str, Any]], Replies]]] = {
    "hello": _hello,
    "revoked": _revoked,
    "scheduled": _scheduled,
}
