"""The signals around a publish: before_task_publish, after_task_publish and task_sent.

Receivers get a message in the shapes of Celery's protocol 2: ``headers`` (a dict), ``body`` ``(args, kwargs,
embed)``, ``properties``. What before_task_publish changes in args, kwargs, further headers and the priority
goes into the message. Nothing of this is made where nobody listens.

Celery has no signal for a publish that comes to nothing after before_task_publish; ``not_published`` is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from emq_compat.chain_steps import steps_of
from emq_compat.message import Publish
from emq_compat.shim.codec import dumps, loads
from emq_compat.shim.dispatch import Signal
from emq_compat.shim.events.event import Event
from emq_compat.shim.exceptions import EncodeError
from emq_compat.shim.options import priority_of
from emq_compat.shim.request import iso_of
from emq_compat.shim.signals import after_task_publish, before_task_publish, task_sent
from emq_compat.shim.surface.saferepr import saferepr

if TYPE_CHECKING:
    from emq_compat.shim.events.system import Events

__all__ = ["Announcement", "announced", "not_published"]

#: Sent in the place of after_task_publish, with the same ``sender`` and ``headers``. ``exception``: why;
#: None: it is a unique task that joins another.
not_published = Signal(name="not_published", providing_args=("headers", "exception"))

_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


def announced(
    message: Publish, retry_policy: Mapping[str, Any] | None = None, events: Events | None = None
) -> Announcement | None:
    """Send before_task_publish for a message; None: nobody listens to any of the three, or it is no task's.

    ``events`` is what an event task-sent is sent by, too; None: it isn't.

    Raises:
        EncodeError: what a receiver has put into the message can't be carried.
        ValueError: the priority that it has set is none.
    """
    if not (
        events is not None
        or before_task_publish.receivers
        or after_task_publish.receivers
        or task_sent.receivers
    ):
        return None
    headers = message.headers
    if not headers.task or headers.settled or headers.concludes:
        return None
    return Announcement(message, retry_policy, events)


class Announcement:
    """A message that is being published; ``message``: what is to be published."""

    def __init__(
        self, message: Publish, retry_policy: Mapping[str, Any] | None, events: Events | None = None
    ) -> None:
        self._events = events
        # The event is sent last and is of now: what a worker tells of the task comes after it.
        self._now = {} if events is None else {"clock": events.app.clock.forward(), "timestamp": time.time()}
        self._queue = message.queue
        self._name = message.headers.task
        document = json.loads(message.payload)
        options = document[1]
        celery = options.get("celery") or {}
        args, kwargs = loads(dumps([options.get("args") or [], options.get("kwargs") or {}]))
        embedded = {name: celery.get(name) for name in _EMBEDDED}
        self._body = (args, kwargs, {**embedded, "chain": steps_of(celery)})
        self._headers = _protocol_2(message, celery, args, kwargs)
        self._headers.update(celery.get("headers") or {})
        self.message = message
        if before_task_publish.receivers:
            try:
                self._send_before(message, document, retry_policy)
            except Exception as exc:
                self.dropped(exc)
                raise

    def _send_before(
        self, message: Publish, document: list[Any], retry_policy: Mapping[str, Any] | None
    ) -> None:
        standard = set(_protocol_2(message, {}, (), {}))
        headers_before = dumps(self._headers)
        body_before = dumps([*self._body[:2]])
        priority = message.headers.priority
        properties: dict[str, Any] = {
            "correlation_id": message.headers.task_id,
            "reply_to": "",
            "priority": priority,
        }
        before_task_publish.send(
            sender=self._name,
            body=self._body,
            exchange="",
            routing_key=self._queue,
            declare=[],
            headers=self._headers,
            properties=properties,
            retry_policy=retry_policy,
        )
        if properties.get("priority") not in (None, priority):
            changed = replace(message.headers, priority=priority_of(properties["priority"]))
            message = replace(message, headers=changed)
        try:
            headers_text, body_text = dumps(self._headers), dumps([*self._body[:2]])
            if (headers_text, body_text) != (headers_before, body_before):
                options = document[1]
                options["args"], options["kwargs"] = self._body[:2]
                own = {key: value for key, value in self._headers.items() if key not in standard}
                if own:
                    options.setdefault("celery", {})["headers"] = own
                message = replace(message, payload=dumps(document).encode())
        except (TypeError, ValueError, RecursionError) as exc:
            raise EncodeError(
                f"{self._name}: what before_task_publish has put in can't be carried: {exc}"
            ) from exc
        self.message = message

    def published(self) -> None:
        """Send after_task_publish, Celery's older task_sent, and the event task-sent."""
        args, kwargs, _ = self._body
        if after_task_publish.receivers:
            after_task_publish.send(
                sender=self._name,
                body=self._body,
                headers=self._headers,
                exchange="",
                routing_key=self._queue,
            )
        if task_sent.receivers:
            task_sent.send(
                sender=self._name,
                task_id=self._headers["id"],
                task=self._name,
                args=args,
                kwargs=kwargs,
                eta=self._headers["eta"],
                taskset=self._headers["group"],
            )
        if self._events is not None:
            self._send_event(self._events)

    def dropped(self, exception: BaseException | None = None) -> None:
        """Send not_published."""
        if not_published.receivers:
            not_published.send(sender=self._name, headers=self._headers, exception=exception)

    def _send_event(self, events: Events) -> None:
        headers = self._headers
        with events.default_dispatcher() as dispatcher:
            dispatcher.send(
                "task-sent",
                Event=lambda type_, **fields: Event(type_, {**fields, **self._now}),
                uuid=headers["id"],
                name=headers["shadow"] or self._name,
                args=headers["argsrepr"],
                kwargs=headers["kwargsrepr"],
                queue=self._queue,
                exchange="",
                routing_key=self._queue,
                **{name: headers[name] for name in ("root_id", "parent_id", "retries", "eta", "expires")},
            )


def _protocol_2(message: Publish, celery: Mapping[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
    headers = message.headers
    return {
        "lang": "py",
        "task": headers.task,
        "id": headers.task_id,
        "shadow": celery.get("shadow"),
        "eta": iso_of(headers.eta),
        "expires": iso_of(headers.expires),
        "group": celery.get("group"),
        "group_index": celery.get("group_index"),
        "retries": headers.retries,
        "timelimit": [headers.limit_s, headers.soft_limit_s],
        "root_id": celery.get("root_id") or headers.task_id,
        "parent_id": celery.get("parent_id"),
        "argsrepr": celery.get("argsrepr") or saferepr(tuple(args), 1024),
        "kwargsrepr": celery.get("kwargsrepr") or saferepr(kwargs, 1024),
        "origin": celery.get("origin"),
        "ignore_result": headers.no_result,
        "replaced_task_nesting": celery.get("replaced_task_nesting", 0),
        "stamped_headers": celery.get("stamped_headers"),
        "stamps": celery.get("stamps") or {},
    }

