"""Exceptions as data: a Failure of whatever was raised, and the Reply of a job that ended by it."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from emq_compat.errors import MessageError
from emq_compat.message import FAILURE, Failure, Outcome, Reply

__all__ = ["TEXT_LIMIT", "cut", "failed", "failure_of", "reply_of"]

#: No text of a Failure (message, one argument, all arguments together) is longer, in characters; the
#: traceback may have twice as many. What is longer is cut in its middle.
TEXT_LIMIT = 32_768


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return ``text`` safe for UTF-8 and for stores that refuse NUL, and at most ``limit`` characters long.

    Both ends are kept, with a note of what was left out between them. A lone surrogate and a NUL become
    their Python escapes (``\\udc80``, ``\\x00``).
    """
    if len(text) > limit:
        half = max(limit // 2 - 32, 0)
        tail = text[len(text) - half :]
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{tail}"
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\x00", "\\x00") if "\x00" in text else text


def failure_of(exc: BaseException, *, jsonable: Callable[[Any], Any] | None = None) -> Failure:
    """Return ``exc`` as data. Survives whatever the exception's own methods do.

    ``jsonable`` turns a value into JSON values or raises (the shim's: dates, UUIDs …); without it only what
    JSON holds by itself is kept as it is. Frames of emq_compat at the top of the traceback are left out.
    """
    cls = type(exc)
    args: list[Any] = []
    left = TEXT_LIMIT
    raw = _attempt(lambda: tuple(BaseException.args.__get__(exc)), ())  # type: ignore[attr-defined]
    for arg in raw[:100]:
        value, size = _argument(arg, max(left, 256), jsonable)
        left -= size
        args.append(value)
    message = _attempt(lambda: str(exc), None)
    if not isinstance(message, str):
        message = ", ".join(str(arg) for arg in args) or f"<{cls.__name__} whose text can't be had>"
    return Failure(
        type=cut(_attempt(lambda: str(cls.__qualname__), "Exception"), 512),
        module=cut(_attempt(lambda: str(cls.__module__), ""), 512),
        args=args,
        message=cut(message),
        traceback=cut(_attempt(lambda: _traceback(exc), ""), 2 * TEXT_LIMIT),
        shown=_shown(exc),
    )


def _shown(exc: BaseException) -> str:
    text = _attempt(lambda: repr(exc), None)
    return cut(text, 4096) if isinstance(text, str) else f"<{type(exc).__name__} whose repr() failed>"


def _attempt(read: Callable[[], Any], default: Any) -> Any:
    """Return what ``read`` returns, or ``default``: user code such as ``__str__`` may do anything."""
    try:
        return read()
    except BaseException:  # noqa: BLE001 - a hostile __str__ must not take the failure's report with it
        return default


_UNSAFE = re.compile(r"\\u0000|\\ud[89a-f]")


def _argument(arg: Any, limit: int, jsonable: Callable[[Any], Any] | None) -> tuple[Any, int]:
    """Return an exception's argument as a JSON value within ``limit`` characters, and its size."""
    if type(arg) is str:
        text = cut(arg, limit)
        return text, len(text)
    try:
        value = jsonable(arg) if jsonable is not None else arg
        document = json.dumps(value)
        if len(document) <= limit:
            plain = json.loads(document)
            return _clean(plain) if _UNSAFE.search(document) else plain, len(document)
    except BaseException:  # noqa: BLE001, S110 - not JSON, or its conversion fails: the repr will do
        pass
    text = _attempt(lambda: repr(arg), None)
    if not isinstance(text, str):
        text = f"<{type(arg).__name__} whose repr() failed>"
    text = cut(text, limit)
    return text, len(text)


def _clean(value: Any) -> Any:
    """Return a JSON value with every string in it made safe as ``cut`` does."""
    if isinstance(value, str):
        return cut(value, len(value))
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {cut(key, len(key)): _clean(item) for key, item in value.items()}
    return value


def _traceback(exc: BaseException) -> str:
    """Return the formatted traceback, beginning with the first frame that isn't ours."""
    start: TracebackType | None = exc.__traceback__
    while start is not None and str(start.tb_frame.f_globals.get("__name__", "")).startswith("emq_compat."):
        start = start.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, start or exc.__traceback__))
    except Exception:  # noqa: BLE001 - the text of the exception, or of one it is chained to, can't be had
        return "".join(traceback.format_tb(start or exc.__traceback__)) + f"{type(exc).__name__}\n"


def failed(exc: BaseException) -> Reply:
    """Return the Reply of a job that ended with ``exc`` outside of what a task can attend to itself.

    It is ``unattended``: where the message asks for an epilogue, what follows from it is done by that.
    """
    return replace(reply_of(Outcome(state=FAILURE, failure=failure_of(exc))), unattended=True)


def reply_of(outcome: Outcome) -> Reply:
    """Encode an Outcome; a value that JSON can't hold makes it a FAILURE that says so, unattended."""
    try:
        return outcome.encode()
    except MessageError as exc:
        return replace(Outcome(state=FAILURE, failure=failure_of(exc)).encode(), unattended=True)
