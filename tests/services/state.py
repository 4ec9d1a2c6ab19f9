"""Which services run, on disk: written by `start`, read by the tests' fixtures and by `stop`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

STATE_FILE = Path(__file__).resolve().parents[2] / ".services" / "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A process that we started: a pid alone could be another process's by now."""

    pid: int
    create_time: float

    @classmethod
    def of(cls, pid: int) -> Owned:
        return cls(pid=pid, create_time=psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The living process, or None when it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < 1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A running service; `owned` is in the order in which its processes are to be ended."""

    name: str
    url: str
    folder: str
    owned: tuple[Owned, ...]

    def alive(self) -> bool:
        return self.owned[0].process() is not None


def read_state() -> dict[str, Service]:
    """The services that the state file names, living or not."""
    try:
        raw = json.loads(STATE_FILE.read_text())
    except FileNotFoundError:
        return {}
    return {
        name: Service(
            name=name,
            url=entry["url"],
            folder=entry["folder"],
            owned=tuple(Owned(**owned) for owned in entry["owned"]),
        )
        for name, entry in raw.items()
    }


def write_state(services: dict[str, Service]) -> None:
    """Replace the state file; with no service left, remove it."""
    if not services:
        STATE_FILE.unlink(missing_ok=True)
        return
    STATE_FILE.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = STATE_FILE.with_suffix(".new")
    fresh.write_text(json.dumps({name: asdict(service) for name, service in services.items()}, indent=1))
    os.replace(fresh, STATE_FILE)


def service_url(name: str) -> str | None:
    """The URL of a service that `start` has started and that still runs, or None."""
    service = read_state().get(name)
    return service.url if service and service.alive() else None
