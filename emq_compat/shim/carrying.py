"""What a task returned, as text for its reply: plain JSON, or packed as result_serializer says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emq_compat.shim.codec import dumps
from emq_compat.shim.exceptions import EncodeError
from emq_compat.shim.packing import MARKER, pack
from emq_compat.shim.result import ResultBase
from emq_compat.shim.run_plan import run_plan_of

if TYPE_CHECKING:
    from emq_compat.shim.task import Task

__all__ = ["result_text"]


def result_text(task: Task[..., Any], value: Any) -> str:
    """Return the JSON text of a result.

    Raises:
        EncodeError: it can't be carried.
    """
    hint = ""
    try:
        if isinstance(value, ResultBase):  # its name can be carried, in Celery's form
            value = value.as_tuple()
        if run_plan_of(task, task.app).plain_result:
            hint = "; return what JSON has (texts, numbers, lists, dicts …), or set result_serializer"
            return dumps(value)
        conf = task.app.conf
        packed = pack(value, conf.result_serializer, conf.result_compression)
        return dumps({"__type__": MARKER, "__value__": packed})
    except (TypeError, ValueError, RecursionError) as exc:
        raise EncodeError(f"the result of {task.name} can't be carried: {exc}{hint}") from exc
