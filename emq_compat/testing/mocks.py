"""``celery.contrib.testing.mocks``: messages as Celery's workers get them, for code that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

from emq_compat.ids import new_id

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig"]


def TaskMessage(  # noqa: N802 - Celery's name
    name: str,
    id: str | None = None,  # noqa: A002 - Celery's name
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Any:
    """Return a mock of a message in Celery's protocol 2; ``options`` are further headers."""
    task_id = id or new_id()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = {"id": task_id, "task": name, "shadow": shadow, **options}
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain}
    message.payload = (args, kwargs or {}, embed)
    _serialize(message)
    return message


def TaskMessage1(  # noqa: N802 - Celery's name
    name: str,
    id: str | None = None,  # noqa: A002 - Celery's name
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """Return a mock of a message in Celery's protocol 1; ``options`` are further members of its body."""
    task_id = id or new_id()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.headers = {}
    message.payload = {
        "task": name,
        "id": task_id,
        "args": args,
        "kwargs": kwargs or {},
        "callbacks": callbacks,
        "errbacks": errbacks,
        **options,
    }
    _serialize(message)
    return message


def _serialize(message: Any) -> None:
    message.content_type, message.content_encoding = "application/json", "utf-8"
    message.body = json.dumps(message.payload)


def task_message_from_sig(
    app: Celery, sig: Any, utc: bool = True, TaskMessage: Callable[..., Any] = TaskMessage  # noqa: N803
) -> Any:
    """Return a mock of the message that a signature would be published as, made by ``TaskMessage``."""
    sig.freeze()
    options = dict(sig.options)
    callbacks, errbacks = options.pop("link", None), options.pop("link_error", None)
    countdown, eta = options.pop("countdown", None), options.pop("eta", None)
    if countdown:
        eta = app.now() + timedelta(seconds=countdown)
    expires = options.pop("expires", None)
    if isinstance(expires, (int, float)):
        expires = app.now() + timedelta(seconds=expires)
    options.pop("task_id", None)
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=_as_dicts(callbacks),
        errbacks=_as_dicts(errbacks),
        eta=_as_text(eta),
        expires=_as_text(expires),
        utc=utc,
        **options,
    )


def _as_dicts(signatures: Any) -> list[dict[str, Any]] | None:
    if not signatures:
        return None
    return [dict(one) for one in (signatures if isinstance(signatures, (list, tuple)) else [signatures])]


def _as_text(at: Any) -> Any:
    return at.isoformat() if isinstance(at, datetime) else at


class _ContextMock(Mock):
    """A mock with the methods of a ``with`` statement, which are looked up in the class."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


def ContextMock(*args: Any, **kwargs: Any) -> Any:  # noqa: N802 - Celery's name
    """Return a Mock that can stand in a ``with`` statement, and is what it gives."""
    mock = _ContextMock(*args, **kwargs)
    mock.attach_mock(_ContextMock(return_value=mock), "__enter__")
    mock.attach_mock(_ContextMock(return_value=None), "__exit__")
    return mock
