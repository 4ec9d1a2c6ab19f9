"""When which part of the fleet was away, by its diary."""

from __future__ import annotations

from collections.abc import Iterable

from tests.faults.mayhem.ledger import Line

__all__ = ["place_of", "spans", "spells"]

#: What never came back is counted as away for so long.
FOR_GOOD_S = 1e6


def spans(times: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Times from and until, those that overlap joined."""
    joined: list[tuple[float, float]] = []
    for since, until in sorted(times):
        if joined and since <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(until, joined[-1][1])
        else:
            joined.append((since, until))
    return joined


def spells(diary: list[Line], place: str) -> list[tuple[float, float]]:
    """From when until when the process of this place was held still, or did not work."""
    found: list[tuple[float, float]] = []
    since: float | None = None
    for line in diary:
        if (
            place_of(line.get("name", "")) != place
            or line.get("target", place.rstrip("0123456789")) == "child"
        ):
            continue
        if line["what"] == "deed":
            if line["hold_s"]:
                found.append((line["at"], line["at"] + line["hold_s"]))
            elif since is None:
                since = line["at"]
        elif line["what"] == "ended" and since is None:
            since = line["at"]
        elif line["what"] == "works" and since is not None:
            found.append((since, line["at"]))
            since = None
    if since is not None:
        found.append((since, since + FOR_GOOD_S))
    return found


def place_of(name: str) -> str:
    """The place in the fleet that a process of this name has."""
    return name.rpartition("g")[0]
