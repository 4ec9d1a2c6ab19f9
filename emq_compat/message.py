"""What is published, run and answered: Job, Headers, Publish, Delivery, Outcome and Reply.

A Job is the object of eventmq's ``run`` request. An Outcome is what running it came to, still as
Python values; a Reply is the same, encoded, and is what travels: nothing between the child that
ran the job and the reader of the result decodes it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from emq_compat.errors import MessageError

__all__ = [
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

#: Bytes in a msgid, task id, verb, topic or cron text.
MAX_ID_BYTES = 1024

STARTED = "STARTED"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
RETRY = "RETRY"
REVOKED = "REVOKED"
#: The task asked that nothing be recorded (Celery's ``Ignore``).
IGNORED = "IGNORED"
#: The message is dropped to the dead letters (Celery's ``Reject``).
REJECTED = "REJECTED"
#: The message goes back to its queue and counts as a redelivery (``Reject(requeue=True)``, a lost child).
REQUEUED = "REQUEUED"
#: The message goes back to its queue, uncounted: its worker is shut down and the task acknowledges late.
RETURNED = "RETURNED"

#: States after which a result does not change any more.
FINAL_STATES = frozenset({SUCCESS, FAILURE, REVOKED})


def new_id() -> str:
    """Return a new identifier: a UUID of version 7 (RFC 9562), so that ids sort by the time they were made.

    Sorted ids keep the journal's indexes local: a million waiting messages don't slow a publish.
    """
    ms = time.time_ns() // 1_000_000
    rand = int.from_bytes(os.urandom(10), "big")
    value = (ms & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (rand >> 68 & 0xFFF) << 64
    value |= 0b10 << 62 | rand & (1 << 62) - 1
    h = f"{value:032x}"
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


C = TypeVar("C", bound=type)


def slots_of_base(cls: C) -> C:
    """Have a dataclass keep its fields in the slots of its base, so that both have the same layout.

    For a class decorated by ``@dataclass`` that says ``__slots__ = ()``: the defaults, which dataclass leaves
    as class attributes in front of the base's slots, are removed (``slots=True`` does so only from Python
    3.11 on; before, it makes the slots a second time).
    """
    for name in cls.__mro__[1].__dict__["__slots__"]:
        if name in cls.__dict__:
            delattr(cls, name)
    return cls


class _HeaderFields:
    """The slots of Headers, still writable.

    A frozen dataclass with 16 fields takes 4 µs to make; decoding fills these instead and then turns the
    object into Headers by assigning its class, which the equal layout allows.
    """

    __slots__ = (
        "attempt",
        "chord",
        "eta",
        "expires",
        "guarantee",
        "limit_s",
        "no_result",
        "priority",
        "redelivered",
        "reply_requested",
        "retries",
        "retry_count",
        "soft_limit_s",
        "task",
        "task_id",
        "timeout",
    )


@slots_of_base
@dataclass(frozen=True, kw_only=True)
class Headers(_HeaderFields):
    """The headers of a REQUEST: CSV on the wire, stock ones and ours.

    Stock eventmq matches its own by substring, so our names hold none of its words and values
    are percent-encoded: no comma, no blank. ``stock()`` gives what a stock peer may see.

    Attributes:
        guarantee: the publisher wants an ACK once the message is on disk (stock).
        reply_requested: the publisher wants the REPLY itself (stock).
        retry_count: how often a job that raised is tried again (stock; ours act on it).
        timeout: hard time limit in whole seconds (stock).
        task_id: Celery's task id; the key of the result. Empty: no result is kept.
        task: the task's name, for routing to a worker that has it; empty for a plain eventmq job.
        priority: 0 to 9, higher first.
        eta: unix time in seconds before which it isn't handed out; 0: at once.
        expires: unix time in seconds after which it isn't run any more; 0: never.
        no_result: the result isn't kept (Celery's ``ignore_result``).
        limit_s, soft_limit_s: time limits of this message in seconds; None: the task's own.
        attempt: which hand-out this is, from 1 (set by the broker).
        redelivered: an earlier hand-out was lost (set by the broker).
        retries: how many times the task asked for a retry before this message.
        chord: ``CHORD-ID:INDEX`` when the outcome counts for a chord.
    """

    __slots__ = ()

    guarantee: bool = False
    reply_requested: bool = False
    retry_count: int = 0
    timeout: int | None = None
    task_id: str = ""
    task: str = ""
    priority: int = 0
    eta: float = 0.0
    expires: float = 0.0
    no_result: bool = False
    limit_s: float | None = None
    soft_limit_s: float | None = None
    attempt: int = 0
    redelivered: bool = False
    retries: int = 0
    chord: str = ""

    def stock(self) -> str:
        """Return the CSV with only the headers that stock eventmq 0.3.13 knows."""
        return self._stock()[1:]

    def _stock(self) -> str:
        text = ""
        if self.reply_requested:
            text = ",reply-requested"
        if self.guarantee:
            text += ",guarantee"
        if self.retry_count:
            text += f",retry-count:{self.retry_count}"
        if self.timeout is not None:
            text += f",timeout:{self.timeout}"
        return text

    def encode(self) -> str:
        """Return the CSV that goes on the wire; ``Headers.decode`` is its inverse."""
        text = self._stock()
        if self.task_id:
            text += ",id:" + _quoted(self.task_id)
        if self.task:
            text += ",task:" + _quoted_name(self.task)
        if self.priority:
            text += f",priority:{self.priority}"
        if self.eta:
            text += f",eta:{self.eta!r}"
        if self.expires:
            text += f",expires:{self.expires!r}"
        if self.no_result:
            text += ",no-result"
        if self.limit_s is not None:
            text += f",limit:{self.limit_s!r}"
        if self.soft_limit_s is not None:
            text += f",soft-limit:{self.soft_limit_s!r}"
        if self.attempt:
            text += f",attempt:{self.attempt}"
        if self.redelivered:
            text += ",redelivered"
        if self.retries:
            text += f",retries:{self.retries}"
        if self.chord:
            text += ",chord:" + _quoted(self.chord)
        return text[1:]

    @classmethod
    def decode(cls, text: str) -> Headers:
        """Read the CSV of a REQUEST. Unknown headers are skipped, as stock eventmq does.

        Raises:
            MessageError: a known header has a value of the wrong kind; the message names it.
        """
        if not text:
            return _NO_HEADERS
        headers: Any = _HeaderFields()
        headers.guarantee = headers.reply_requested = headers.no_result = headers.redelivered = False
        headers.retry_count = headers.priority = headers.attempt = headers.retries = 0
        headers.task_id = headers.task = headers.chord = ""
        headers.eta = headers.expires = 0.0
        headers.timeout = headers.limit_s = headers.soft_limit_s = None
        parts = text.split(",")
        if " " in text or not text.isprintable():
            parts = [part.strip() for part in parts]
        for part in parts:
            name, _, value = part.partition(":")
            # The commonest by name: a table of readers costs twice as much.
            if name == "id":
                headers.task_id = value if "%" not in value and len(text) <= MAX_ID_BYTES else _task_id(value)
            elif name == "task":
                headers.task = unquote(value) if "%" in value else value
            elif name == "guarantee":
                headers.guarantee = True
            elif (reader := _READERS.get(name)) is not None:
                attribute, convert = reader
                try:
                    setattr(headers, attribute, True if convert is None else convert(value))
                except ValueError:
                    raise MessageError(
                        f"header {name!r} has the value {value[:64]!r}, which is not a number in its range"
                    ) from None
        headers.__class__ = Headers
        return headers  # type: ignore[no-any-return]


_PLAIN = re.compile(r"[A-Za-z0-9._~-]*").fullmatch


def _quoted(value: str) -> str:
    return value if _PLAIN(value) else quote(value, safe="")


_quoted_name = lru_cache(maxsize=1024)(_quoted)


def _task_id(value: str) -> str:
    task_id = unquote(value)
    if len(task_id.encode()) > MAX_ID_BYTES or not task_id.isprintable():
        raise MessageError(f"header 'id' has the value {task_id[:64]!a}, which is too long or unprintable")
    return task_id


def _whole(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 1 << 31:
        raise ValueError
    return number


def _priority(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 9:
        raise ValueError
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < 1e12:  # also refuses nan
        raise ValueError
    return number


_READERS: dict[str, tuple[str, Any]] = {
    "reply-requested": ("reply_requested", None),
    "retry-count": ("retry_count", _whole),
    "timeout": ("timeout", _whole),
    "priority": ("priority", _priority),
    "eta": ("eta", _seconds),
    "expires": ("expires", _seconds),
    "no-result": ("no_result", None),
    "limit": ("limit_s", _seconds),
    "soft-limit": ("soft_limit_s", _seconds),
    "attempt": ("attempt", _whole),
    "redelivered": ("redelivered", None),
    "retries": ("retries", _whole),
    "chord": ("chord", unquote),
}

_NO_HEADERS = Headers()


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
        for name in ("path", "callable"):
            if not isinstance(options.get(name), str) or not options[name]:
                raise MessageError(f"run needs {name!r} as a non-empty string, not {options.get(name)!r}")
        values: dict[str, Any] = {"path": options["path"], "callable": options["callable"]}
        for name, kind in _OPTION_KINDS.items():
            value = options.get(name)
            if value is None:
                continue
            if not isinstance(value, kind):
                kind_name = _KIND_NAMES[kind]
                raise MessageError(f"run needs {name!r} as {kind_name}, not a {type(value).__name__}")
            values[name] = value
        return cls(**values)


_OPTION_KINDS: dict[str, type] = {
    "args": list,
    "kwargs": dict,
    "class_args": list,
    "class_kwargs": dict,
    "celery": dict,
}
_KIND_NAMES: dict[type, str] = {list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """One message to be published: a REQUEST before it has met a socket.

    ``msgid`` names this one publish (never the task): the same msgid twice is one message.
    """

    queue: str
    headers: Headers
    payload: bytes
    msgid: str = field(default_factory=new_id)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception as data: enough to show it and, where its class is importable, to raise it again.

    Attributes:
        type, module: the class's qualified name and module.
        args: its arguments as JSON values (``repr`` where one is not JSON).
        message: ``str(exc)``, or what could be had of it.
        traceback: the formatted traceback, cut in the middle if it is too long; may be empty.
    """

    type: str
    module: str
    args: Sequence[Any] = ()
    message: str = ""
    traceback: str = ""


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
        return Reply(
            state=self.state, body=encoded, follow_ups=self.follow_ups, no_result=self.no_result
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An encoded Outcome.

    Attributes:
        state: as Outcome's.
        body: the reply's JSON object, UTF-8: ``{"value": …, "state": …, …}``; stored and delivered as it is.
        follow_ups: messages to be published in the transaction that stores it.
        no_result: don't keep it.
    """

    state: str
    body: bytes
    follow_ups: tuple[Publish, ...] = ()
    no_result: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyHeaders:
    """The frame of ours behind a REPLY's or UPDATE's msgid: CSV ``attempt:N,state:S[,no-result]``.

    A state may be any text (a task's own): it is percent-encoded.
    """

    attempt: int = 0
    state: str = ""
    no_result: bool = False

    def encode(self) -> str:
        """Return the CSV that goes on the wire."""
        text = f"attempt:{self.attempt},state:{_quoted(self.state)}"
        return text + ",no-result" if self.no_result else text

    @classmethod
    def decode(cls, text: str) -> ReplyHeaders:
        """Read the CSV; raises MessageError naming a header whose value is wrong."""
        attempt, state, no_result = 0, "", False
        for part in text.split(","):
            name, _, value = part.partition(":")
            if name == "attempt":
                try:
                    attempt = _whole(value)
                except ValueError:
                    raise MessageError(
                        f"header 'attempt' has the value {value[:64]!r}, which is not a number in its range"
                    ) from None
            elif name == "state":
                state = unquote(value)
            elif name == "no-result":
                no_result = True
        return cls(attempt=attempt, state=state, no_result=no_result)

