"""Chords of a genuine app, counted in our broker: their bodies are held there, their parts' ends counted.

A body that is one task is held as its own message. Any other (a group, a chain …), and one whose countdown
counts from then, is held as a message of the builtin task ``celery.emq_chord_body``, which publishes it as
Celery's other backends do.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from celery import states
from celery._state import get_current_task
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import ChordError, ImproperlyConfigured
from celery.signals import before_task_publish
from celery.utils.abstract import CallableSignature
from celery.utils.functional import _regen
from kombu.utils.uuid import uuid

from emq_compat.genuine import chord_marks
from emq_compat.genuine.backend_record import exception_record, reply_of
from emq_compat.genuine.capture import current
from emq_compat.genuine.concluding import add_conclude_task

if TYPE_CHECKING:
    from emq_compat.genuine.backend import EmqBackend

__all__ = ["BODY_TASK", "Chords"]

logger = logging.getLogger("celery.emq_compat.chords")

BODY_TASK: Final = "celery.emq_chord_body"
#: What the broker's ChordError begins with.
_DEPENDENCY: Final = re.compile(r"Dependency (\S+) raised ")
#: Chords that are begun and whose size isn't known yet, at most.
_BEGUN: Final = 1000


class Chords:
    """The chords that one backend's app begins and takes part in."""

    def __init__(self, backend: EmqBackend) -> None:
        self._backend = weakref.proxy(backend)
        self._app = backend.app
        self._begun: dict[str, tuple[Any, Any]] = {}
        before_task_publish.connect(chord_marks.tell_broker, dispatch_uid="emq_compat.chords")
        _add_body_task(self._app)
        add_conclude_task(self._app)

    @property
    def are_counted(self) -> bool:
        """Whether the app's messages go over our broker: only there can it count parts and hold bodies."""
        conf = self._app.conf
        url = conf.broker_write_url or conf.broker_url or ""
        first = url[0] if isinstance(url, (list, tuple)) and url else url
        return str(first).partition("://")[0] in ("emq", "emq+ipc")

    def begin(self, header_result_args: Any, body: Any) -> None:
        """Take a chord in, before its parts are published: they have its mark from ``body``."""
        chord_id, results = header_result_args[0], header_result_args[1]
        # A generator's tasks are made while they are published, not before.
        known = None if isinstance(results, _regen) else results
        chord_marks.mark(body, chord_id, known)
        while len(self._begun) >= _BEGUN:
            del self._begun[next(iter(self._begun))]
        self._begun[chord_id] = (body, results)

    def hold(self, chord_id: str, size: int) -> None:
        """Publish the body of a chord that has begun, to be held until ``size`` parts have succeeded."""
        body, results = self._begun.pop(chord_id, (None, None))
        if body is None:  # a group within a header: its members are parts of that header's chord
            return
        inherited = self._inherited(body, results)
        if self._is_one_message(body):
            with chord_marks.held(body.id, chord_id, size, immutable=bool(body.immutable)):
                # What stands for the values never reaches the broker.
                args: tuple[Any, ...] = () if body.immutable else ([],)
                body.apply_async(args, add_to_parent=False, **inherited)
            return
        route = _first_task(body)
        task_id = uuid()
        with chord_marks.held(task_id, chord_id, size, immutable=False):
            self._app.send_task(
                BODY_TASK,
                ([], body, inherited),
                task_id=task_id,
                route_name=route.get("task"),
                queue=(route.get("options") or {}).get("queue"),
                priority=(route.get("options") or {}).get("priority"),
                ignore_result=True,
                add_to_parent=False,
                **inherited,
            )

    def _inherited(self, body: Any, results: Any) -> dict[str, Any]:
        """Return the ids that a body has from its chord: one of the parts is its parent, as in Celery."""
        root = body.options.get("root_id")
        current = get_current_task()
        if root is None and current is not None:
            root = current.request.root_id or current.request.id
        last = results[-1] if results else None
        while last is not None and getattr(last, "results", None):
            last = last.results[-1]
        parent = None if last is None else last.id
        ids = {"root_id": root or parent, "parent_id": parent}
        return {name: value for name, value in ids.items() if value is not None}

    def _is_one_message(self, body: Any) -> bool:
        options = body.options
        if body.get("subtask_type") or options.get("countdown"):
            return False
        if isinstance(options.get("expires"), (int, float)) or not options.get("task_id"):
            return False
        conf, task = self._app.conf, self._app._tasks.get(body.task)
        serializer = options.get("serializer") or getattr(task, "serializer", None) or conf.task_serializer
        compression = (
            options.get("compression") or getattr(task, "compression", None) or conf.task_compression
        )
        # What stands for the values can be taken out of plain JSON only.
        return (serializer in ("json", "application/json") and not compression) or bool(body.immutable)

    def grow(self, chord_id: str, result: Any) -> None:
        """Have the running task's chord await ``result``, once that is published.

        Raises:
            ImproperlyConfigured: the chord isn't counted in our broker.
        """
        current = get_current_task()
        request = None if current is None else current.request
        own = None if request is None else chord_marks.part_of(request.chord, request.id, request.group_index)
        if request is None or own is None:
            raise ImproperlyConfigured(f"the chord {chord_id} is not counted by the result backend emq://")
        added = request.__dict__["_emq_added"] = getattr(request, "_emq_added", 0) + 1
        # A retry adds its own.
        chord_marks.add_place(request.chord, own, result.id, 1000 * (request.retries or 0) + added)

    def count(self, request: Any, state: str, result: Any) -> None:
        """Have the end of a part be counted.

        That of a run of our worker counts with its outcome. Any other, and one that stores nothing, is told
        by a settled message of no task.
        """
        part = chord_marks.part_of(request.chord, request.id, request.group_index)
        if part is None:
            return
        capture = current()
        if capture is not None and capture.task_id == request.id and capture.state == state:
            return
        backend = self._backend
        meta: dict[str, Any] = {
            "status": state, "result": backend.encode_result(result, state), "date_done": None,
            "traceback": None, "children": None,
        }  # fmt: skip
        if isinstance(meta["result"], BaseException):
            exc = meta["result"]
            meta["result"] = exception_record(exc, backend.prepare_exception(exc, serializer="json"))
        reply = {**reply_of(meta, backend.carrier), "cause": request.id}
        backend.settle("", state, reply, chord=part.rstrip("+"))

    def fail_body_of(self, request: Any, exc: BaseException) -> None:
        """Do what follows when a task that publishes a chord's body failed: the tasks of that body fail."""
        if request is None or getattr(request, "task", None) != BODY_TASK or not request.args:
            return
        callback = maybe_signature(request.args[-2], app=self._app)
        exc.__cause__ = exc.__cause__ or self._cause_of(exc)
        try:
            raise exc
        except BaseException:  # noqa: BLE001 - Celery looks for the exception that is being handled
            self._backend.chord_error_from_stack(callback, exc)
        chord = callback.options.get("chord")
        if chord:  # of the chord around it, the body was a part
            part = Context(callback)
            part.update(callback.options, id=callback.id, group_index=callback.options.get("group_index"))
            self.count(part, states.FAILURE, exc)

    def _cause_of(self, exc: BaseException) -> BaseException | None:
        """Return what the part raised that a ChordError names: the tasks of a group fail with that."""
        named = _DEPENDENCY.match(str(exc))
        if named is None:
            return None
        try:
            cause = self._backend.get_task_meta(named[1]).get("result")
        except Exception as error:  # noqa: BLE001 - it only says more
            logger.debug("the result of %s can't be read: %s", named[1], error)
            return None
        return cause if isinstance(cause, Exception) else None


def _first_task(sig: Any) -> Mapping[str, Any]:
    """Return the first task of a signature: where it goes, its launcher goes."""
    kwargs = sig.get("kwargs") or {}
    inner: Any = None
    if sig.get("subtask_type") in ("chain", "group"):
        inner = kwargs.get("tasks")
    elif sig.get("subtask_type") == "chord":
        inner = kwargs.get("header")
    if isinstance(inner, Mapping):
        return _first_task(inner)
    if isinstance(inner, (list, tuple)) and inner and isinstance(inner[0], Mapping):
        return _first_task(inner[0])
    return sig  # type: ignore[no-any-return]


def _add_body_task(app: Any) -> None:
    """Register the task that publishes a body that is more than one message."""
    if BODY_TASK in app._tasks:
        return

    @app.task(name=BODY_TASK, bind=True, shared=False, lazy=False, ignore_result=True, typing=False)  # type: ignore[untyped-decorator]
    def chord_body(self: Any, values: list[Any], body: Any, inherited: dict[str, Any]) -> None:
        callback = maybe_signature(body, app=self.app)
        assert isinstance(callback, CallableSignature)
        try:
            self.app.amqp._retry_publish(callback.apply_async, (values,), add_to_parent=False, **inherited)
        except Exception as exc:  # what Celery's backends do with it
            logger.exception("Chord callback %r can't be published", callback)
            self.backend.chord_error_from_stack(callback, ChordError(f"Callback error: {exc!r}"))
