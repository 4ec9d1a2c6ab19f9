"""Who counts a chord's parts, from the side that starts it: our broker, or the result backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from emq_compat.shim.canvas.launch import leaves
from emq_compat.shim.results.groups import GroupResult

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["ByBackend", "ByBroker", "Counting", "counting_of"]


class Counting(Protocol):
    """What starting a chord differs in.

    Attributes:
        streams: a header's tasks may be published before it is known how many there are.
    """

    streams: bool

    def reference(self, chord_id: str, body: Any) -> Any:
        """Return the option ``chord`` of the header's tasks; the body has its ids already."""
        ...

    def begin(
        self, app: Celery, chord_id: str, body: Any, header: Any, size: int, options: Mapping[str, Any]
    ) -> None:
        """Have the body published once ``size`` parts have ended; called before they are published.

        Args:
            header: the header's result.
            options: parent_id and root_id of the body; of the polling ``interval``, ``max_retries``.
        """
        ...


class ByBroker:
    """The body's message goes first, and our broker holds it."""

    streams = True

    def reference(self, chord_id: str, body: Any) -> Any:
        return {"id": chord_id}

    def begin(
        self, app: Celery, chord_id: str, body: Any, header: Any, size: int, options: Mapping[str, Any]
    ) -> None:
        parents = {name: options.get(name) for name in ("parent_id", "root_id")}
        body.apply_async(awaits={"id": chord_id, "size": size}, add_to_parent=False, **parents)


class ByBackend:
    """Each part has the body with it; who ends the last one publishes it, be it Celery's worker or ours."""

    streams = False

    def reference(self, chord_id: str, body: Any) -> Any:
        return body

    def begin(
        self, app: Celery, chord_id: str, body: Any, header: Any, size: int, options: Mapping[str, Any]
    ) -> None:
        backend = app.backend
        backend.ensure_chords_allowed()
        chords = backend.store.chords
        if chords is not None:
            nested = any(isinstance(result, GroupResult) for result in header.results)
            backend._told(lambda: chords.begin(chord_id, size, header.as_tuple() if nested else None))
            return
        _poll(app, chord_id, body, header.results, options)


def _poll(
    app: Celery, chord_id: str, body: Any, results: Sequence[Any], options: Mapping[str, Any]
) -> None:
    """Publish the task that asks until all parts have ended, as Celery does."""
    first = next(leaves(body), body)
    task = app.tasks.get(first["task"])
    given = {name: first["options"].get(name) for name in ("queue", "priority", "exchange", "routing_key")}
    if given["queue"] is None and task is not None:
        given["queue"] = task.queue
    app.send_task(
        "celery.chord_unlock",
        (chord_id, body),
        {
            "interval": options.get("interval"),
            "max_retries": options.get("max_retries"),
            "result": [result.as_tuple() for result in results],
        },
        countdown=options.get("countdown") or 1,
        ignore_result=True,
        route_name=first["task"],
        add_to_parent=False,
        **{name: value for name, value in given.items() if value is not None},
    )


_BY_BROKER, _BY_BACKEND = ByBroker(), ByBackend()


def counting_of(app: Celery) -> Counting:
    """Return who counts the chords that an app starts."""
    return _BY_BACKEND if app.over_kombu else _BY_BROKER
