"""What is published, run and answered: Job, Headers, Publish, Delivery, Outcome and Reply.

A Job is the object of eventmq's ``run`` request. An Outcome is what running it came to, still as
Python values; a Reply is the same, encoded, and is what travels: nothing between the child that
ran the job and the reader of the result decodes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emq_compat.errors import MessageError
from emq_compat.frozen import quickly_made
from emq_compat.headers import MAX_ID_BYTES, Headers, ReplyHeaders, slots_of_base
from emq_compat.ids import new_id

__all__ = [
    "ACKNOWLEDGED",
    "FAILURE",
    "FINAL_STATES",
    "IGNORED",
    "MAX_ID_BYTES",
    "REJECTED",
    "REQUEUED",
    "RETRY",
    "RETURNED",
    "REVOKED",
    "STARTED",
    "SUCCESS",
    "Delivery",
    "Failure",
    "Headers",
    "Job",
    "Outcome",
    "Publish",
    "Reply",
    "ReplyHeaders",
    "new_id",
    "slots_of_base",
]

STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
RETRY = "RETRY"
REVOKED = "REVOKED"
#: The task asked that nothing be recorded (Celery's ``Ignore``).
IGNORED = "IGNORED"
#: The message is done, and whoever ran it has told what became of it in another way: nothing follows from it.
ACKNOWLEDGED = "ACKNOWLEDGED"
#: The message is dropped to the dead letters (Celery's ``Reject``).
REJECTED = "REJECTED"
#: The message goes back to its queue and counts as a redelivery (``Reject(requeue=True)``, a lost child).
REQUEUED = "REQUEUED"
#: The message goes back to its queue, uncounted: its worker is shut down and the task acknowledges late.
RETURNED = "RETURNED"

#: States after which a result does not change any more.
FINAL_STATES = frozenset({SUCCESS, FAILURE, REVOKED})


_decode = json.JSONDecoder().decode


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The object of a ``run`` request: what to call, and with what.

    Attributes:
        path: ``module`` or ``module:Class``.
        callable: the function's, or the method's, name.
        args, kwargs: the call's arguments.
        class_args, class_kwargs: those of the instance when ``path`` names a class.
        celery: what Celery adds (task, id, retries, root_id, parent_id, group, callbacks, …); a stock
            job manager ignores it.
    """

    path: str
    callable: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    class_args: Sequence[Any] = ()
    class_kwargs: Mapping[str, Any] = field(default_factory=dict)
    celery: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the REQUEST's payload, JSON ``["run", {...}]``.

        Raises:
            MessageError: something in it is not JSON.
        """
        body: dict[str, Any] = {
            "path": self.path,
            "callable": self.callable,
            "args": list(self.args),
            "kwargs": dict(self.kwargs),
            "class_args": list(self.class_args),
            "class_kwargs": dict(self.class_kwargs),
        }
        if self.celery:
            body["celery"] = dict(self.celery)
        try:
            return json.dumps(["run", body], separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise MessageError(f"the job {self.path}.{self.callable} is not JSON: {exc}") from exc

    @classmethod
    def decode(cls, payload: bytes) -> Job:
        """Read a REQUEST's payload.

        Raises:
            MessageError: it is not ``["run", {...}]`` with members of the right kinds; it says which.
        """
        try:
            if payload[:6] == b'["run"':  # it is UTF-8: json.loads would look which encoding it is
                document = _decode(payload.decode("utf-8", "surrogatepass"))
            else:
                document = json.loads(payload)
        except (ValueError, RecursionError) as exc:
            raise MessageError(f"the payload is not JSON: {exc}") from exc
        if not isinstance(document, list) or len(document) != 2 or not isinstance(document[1], dict):
            raise MessageError('the payload is not ["run", {…}]')
        subcommand, options = document
        if subcommand != "run":
            raise MessageError(f"the subcommand {subcommand!r} is unknown; known: 'run'")
        return cls.from_options(options)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Job:
        """Make a Job of the decoded options of ``run``; raises MessageError as ``decode`` does."""
        get = options.get
        path, function, args, kwargs = get("path"), get("callable"), get("args"), get("kwargs")
        class_args, class_kwargs, celery = get("class_args"), get("class_kwargs"), get("celery")
        if not (
            type(path) is str
            and type(function) is str
            and (path and function)
            and (args is None or type(args) is list)
            and (kwargs is None or type(kwargs) is dict)
            and (class_args is None or type(class_args) is list)
            and (class_kwargs is None or type(class_kwargs) is dict)
            and (celery is None or type(celery) is dict)
        ):
            raise MessageError(_what_is_wrong(options))
        return cls(
            path=path,
            callable=function,
            args=() if args is None else args,
            kwargs={} if kwargs is None else kwargs,
            class_args=() if class_args is None else class_args,
            class_kwargs={} if class_kwargs is None else class_kwargs,
            celery={} if celery is None else celery,
        )


_OPTION_KINDS: dict[str, type] = {
    "args": list,
    "kwargs": dict,
    "class_args": list,
    "class_kwargs": dict,
    "celery": dict,
}
_KIND_NAMES: dict[type, str] = {list: "a list", dict: "an object"}


def _what_is_wrong(options: Mapping[str, Any]) -> str:
    """Return the first thing that is wrong with the options of ``run``."""
    for name in ("path", "callable"):
        if type(options.get(name)) is not str or not options[name]:
            return f"run needs {name!r} as a non-empty string, not {options.get(name)!r}"
    for name, kind in _OPTION_KINDS.items():
        value = options.get(name)
        if value is not None and type(value) is not kind:
            return f"run needs {name!r} as {_KIND_NAMES[kind]}, not a {type(value).__name__}"
    raise AssertionError("nothing is wrong with them")


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """One message to be published: a REQUEST before it has met a socket.

    ``msgid`` names this one publish (never the task): the same msgid twice is one message.
    """

    queue: str
    headers: Headers
    payload: bytes
    msgid: str = field(default_factory=new_id)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as a worker gets it from an upstream; ``(msgid, attempt)`` names this hand-out."""

    msgid: str
    queue: str
    headers: Headers
    payload: bytes

    @property
    def attempt(self) -> int:
        """Which hand-out this is, from 1; 0 from a stock router."""
        return self.headers.attempt


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception as data: enough to show it and, where its class is importable, to raise it again.

    Attributes:
        type, module: the class's qualified name and module.
        args: its arguments as JSON values (``repr`` where one is not JSON).
        message: ``str(exc)``, or what could be had of it.
        traceback: the formatted traceback, cut in the middle if it is too long; may be empty.
        shown: its ``repr()``; doesn't travel.
    """

    type: str
    module: str
    args: Sequence[Any] = ()
    message: str = ""
    traceback: str = ""
    shown: str = field(default="", compare=False)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a job came to, as a value: ending a task needs no socket and no callback.

    Attributes:
        state: SUCCESS, FAILURE, RETRY, REVOKED, IGNORED, REJECTED, REQUEUED or RETURNED.
        value: the returned value, JSON (only for SUCCESS).
        failure: what was raised (FAILURE, RETRY, REVOKED).
        follow_ups: messages to be published in the same transaction (a retry, the next link, callbacks).
        extra: further members of the reply's JSON object (children, name … as ``result_extended`` wants).
        no_result: don't keep the result, whatever the message's header says.
    """

    state: str
    value: Any = None
    failure: Failure | None = None
    follow_ups: tuple[Publish, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    no_result: bool = False

    def encode(self) -> Reply:
        """Return the Reply that travels.

        Raises:
            MessageError: the value is not JSON.
        """
        body: dict[str, Any] = {"value": self.value, "state": self.state}
        if self.failure is not None:
            f = self.failure
            body["value"] = f.message
            body["error"] = {"type": f.type, "module": f.module, "args": list(f.args), "message": f.message}
            body["traceback"] = f.traceback
        body.update(self.extra)
        try:
            encoded = json.dumps(body, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise MessageError(f"the result is not JSON: {exc}") from exc
        return Reply(state=self.state, body=encoded, follow_ups=self.follow_ups, no_result=self.no_result)


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An encoded Outcome.

    Attributes:
        state: as Outcome's.
        body: the reply's JSON object, UTF-8: ``{"value": …, "state": …, …}``; stored and delivered as it is.
        follow_ups: messages to be published in the transaction that stores it.
        no_result: don't keep it.
        unattended: the task had no word in it (its process was lost, it was revoked …): what follows from it
            is still to be done, see Headers.epilogue.
        told: JSON for the job manager's onlooker, from the program that ran it; goes no further.
        keep_s: seconds that the result is kept, 0: without end; None: as its message or the broker says.
    """

    state: str
    body: bytes
    follow_ups: tuple[Publish, ...] = ()
    no_result: bool = False
    unattended: bool = False
    told: str = ""
    keep_s: float | None = None
