"""Whether each process has ended as it was made to."""

from __future__ import annotations

from collections import Counter
from signal import SIGKILL, SIGTERM

from tests.faults.mayhem.ledger import Line

__all__ = ["wrong_exits"]


def wrong_exits(diary: list[Line]) -> list[str]:
    """The ends that nothing that was done to a process explains."""
    done: dict[str, Counter[str]] = {}
    faults = []
    for line in diary:
        if line["what"] in ("deed", "told to end"):
            word = "TERM" if line["what"] == "told to end" else f"{line['target']} {line['deed']}"
            word = word.removeprefix(f"{line.get('role') or _role(line['name'])} ").removesuffix(" all")
            done.setdefault(line["name"], Counter())[word] += 1
        elif line["what"] == "ended" and line["code"] not in _allowed(line["role"], done.get(line["name"])):
            after = dict(done.get(line["name"], {}))
            faults.append(f"{line['name']} ended with {line['code']} after {after}")
    return faults


def _role(name: str) -> str:
    kind = name.rpartition("g")[0].rstrip("0123456789")
    return {"w": "worker"}.get(kind, kind)


def _allowed(role: str, done: Counter[str] | None) -> set[int]:
    done = done or Counter()
    codes = set()
    if done["KILL"]:
        codes.add(-SIGKILL)
    if done["TERM"]:
        codes |= {0, -SIGTERM}  # the latter before it has a handler, and of a client always
    if role == "worker" and (done["TERM"] > 1 or done["zygote KILL"] > 1):
        codes.add(1)  # what ran was cut off
    if role == "client" and not done["KILL"] and not done["TERM"]:
        codes.add(0)
    return codes
