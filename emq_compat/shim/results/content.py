"""What a stored result holds, as Python objects."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emq_compat.shim import states
from emq_compat.shim.codec import revive
from emq_compat.shim.exceptions import TaskRevokedError
from emq_compat.shim.own_packages import own_modules_of
from emq_compat.shim.remote_error import exception_from
from emq_compat.stored import StoredResult

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["exception_of", "value_of"]


def exception_of(stored: StoredResult, app: Celery) -> BaseException:
    """Return the exception of a failed, revoked or retried task, by its class where the app allows it."""
    reply = stored.reply
    error = reply.get("error")
    value = reply.get("value")
    if isinstance(value, BaseException):
        return value
    if not isinstance(error, Mapping):
        if isinstance(value, Mapping) and "exc_type" in value:
            # What update_state(state="FAILURE", meta=…) must say in Celery.
            said = value.get("exc_message")
            args = list(said) if isinstance(said, (list, tuple)) else [said]
            error = {"type": value["exc_type"], "module": value.get("exc_module"), "args": args}
        elif stored.state == states.REVOKED:
            return TaskRevokedError(str(value or "revoked"))
        else:
            text = error or value
            error = {"type": "Exception", "args": [text], "message": str(text)}
    if "args" in error:
        # Of arguments that can't be read the exception has what stands for them: it is raised all the same.
        with suppress(Exception):
            error = {**error, "args": revive(error["args"])}
    traceback = str(reply.get("traceback") or "")
    return exception_from(error, traceback, may_import=own_modules_of(app))


def value_of(stored: StoredResult, app: Celery) -> Any:
    """Return the value; the exception where there is one; what update_state set in other states."""
    if stored.state in states.EXCEPTION_STATES:
        return exception_of(stored, app)
    conf = app.conf
    return revive(stored.reply.get("value"), conf.result_accept_content or conf.accept_content)
