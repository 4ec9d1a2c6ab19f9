"""Events as lines of text (``celery.events.dumper``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from emq_compat.shim import current
from emq_compat.shim.surface.functional import LRUCache

__all__ = ["Dumper", "JsonDumper", "evdump", "humanize_type"]

_SHOWN_AS = {
    "worker-offline": "shutdown",
    "worker-online": "started",
    "worker-heartbeat": "heartbeat",
}

#: What each event has and few want to read.
_UNSHOWN = frozenset({"type", "hostname", "timestamp", "local_received", "utcoffset"})


def humanize_type(type: str) -> str:  # noqa: A002 - Celery's name
    """Return an event's type for people: ``task succeeded``."""
    return _SHOWN_AS.get(type.lower()) or type.lower().replace("-", " ")


class Dumper:
    """Writes a line for each event."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self.out = out
        self._tasks: LRUCache[str, str] = LRUCache(4096)

    def say(self, msg: str) -> None:
        """Write a line, at once."""
        print(msg, file=self.out, flush=True)

    def on_event(self, ev: Mapping[str, Any]) -> None:
        """Write an event: who, when, what, and its fields; of a task, its name and arguments."""
        told = {name: ev[name] for name in sorted(ev) if name not in _UNSHOWN}
        when = datetime.fromtimestamp(ev.get("timestamp") or 0, timezone.utc)
        kind, hostname = str(ev["type"]).lower(), ev.get("hostname")
        if not kind.startswith("task-"):
            self._write(hostname, when, kind, "", told)
            return
        uuid = str(told.pop("uuid", "-"))
        if kind in ("task-received", "task-sent"):
            name, args, kwargs = (told.pop(field, None) for field in ("name", "args", "kwargs"))
            self._tasks[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
        self.format_task_event(hostname, when, kind, self._tasks.get(uuid, f"({uuid})"), told)

    def format_task_event(
        self,
        hostname: str | None,
        timestamp: datetime,
        type: str,  # noqa: A002 - Celery's name
        task: str,
        event: Mapping[str, Any],
    ) -> None:
        """Write the event of a task that is shown as ``task``."""
        self._write(hostname, timestamp, type, task, event)

    def _write(
        self, hostname: str | None, when: datetime, kind: str, task: str, told: Mapping[str, Any]
    ) -> None:
        fields = ", ".join(f"{name}={value}" for name, value in told.items())
        head = f"{hostname} [{when}] {humanize_type(kind)}"
        more = " ".join(part for part in (task, fields) if part)
        self.say(f"{head}: {more}" if more else head)


class JsonDumper(Dumper):
    """Writes each event as a JSON object in a line; what isn't one goes to standard error."""

    def say(self, msg: str) -> None:
        """Write a line for people, at once."""
        sys.stderr.write(f"{msg}\n")

    def on_event(self, ev: Mapping[str, Any]) -> None:
        """Write an event, with all its fields."""
        print(json.dumps(ev, default=repr), file=self.out, flush=True)


def evdump(app: Any = None, out: TextIO = sys.stdout, *, as_json: bool = False) -> None:
    """Write all events until Ctrl-C; where there is no broker it is tried again."""
    app = app or current.get_app()
    dumper = JsonDumper(out=out) if as_json else Dumper(out=out)
    dumper.say("-> evdump: starting capture...")
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": dumper.on_event})

        def tell(exc: BaseException, interval: float) -> None:
            dumper.say(f"-> no broker at {connection.as_uri()}: {exc}; trying again in {interval:g} s")

        receiver.on_connection_error = tell
        try:
            receiver.capture()
        except (KeyboardInterrupt, SystemExit):
            return
