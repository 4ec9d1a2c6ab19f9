"""What an expression of a code base stands for, as far as Celery goes: an app, a task, a result …

The rules are tables: what calling one of Celery's names gives, and what a method or an attribute of such an
object gives. Everything else means nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CALLED", "FIXTURES", "FOUND", "OWNERS", "Meaning", "attribute_of", "called", "method_called"]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an expression stands for.

    Attributes:
        what: ``module`` and ``name`` (of Celery's), ``app``, ``app class``, ``conf``, ``tasks``, ``task``,
            ``task class``, ``request``, ``signature``, ``result``, ``signal``, ``control``, ``inspect``,
            ``worker``.
        of: the module, ``module:name``, the path below an app, or the class of a signature or a result.
    """

    what: str
    of: str = ""


APP: Final = Meaning("app")
TASK: Final = Meaning("task")
SIGNATURE: Final = Meaning("signature", "Signature")

#: What Celery's names are by themselves.
FOUND: Final = {
    "celery:current_app": APP,
    "celery._state:current_app": APP,
    "celery.app:default_app": APP,
    "celery:current_task": TASK,
    "celery._state:current_task": TASK,
    "celery:Celery": Meaning("app class"),
    "celery.app:Celery": Meaning("app class"),
    "celery.app.base:Celery": Meaning("app class"),
    "celery:Task": Meaning("task class"),
    "celery.app.task:Task": Meaning("task class"),
    "celery.task:Task": Meaning("task class"),
    "celery.contrib.abortable:AbortableTask": Meaning("task class"),
    "celery.contrib.django.task:DjangoTask": Meaning("task class"),
}

#: What calling one of Celery's names gives.
CALLED: Final = {
    "celery.app:app_or_default": APP,
    "celery._state:get_current_app": APP,
    "celery._state:get_current_task": TASK,
    "celery.app.utils:find_app": APP,
    "celery.contrib.testing.app:TestApp": APP,
    "celery.app.control:Control": Meaning("control"),
    "celery.app.control:Inspect": Meaning("inspect"),
    "celery.contrib.abortable:AbortableAsyncResult": Meaning("result", "AsyncResult"),
    **{
        f"{module}:{name}": Meaning("signature", kind)
        for module in ("celery", "celery.canvas")
        for name, kind in {
            "chain": "chain", "group": "group", "chord": "chord", "chunks": "chunks", "xmap": "xmap",
            "xstarmap": "xstarmap", "signature": "Signature", "subtask": "Signature",
            "maybe_signature": "Signature", "Signature": "Signature",
        }.items()
    },
    **{
        f"celery.result:{name}": Meaning("result", name)
        for name in ("AsyncResult", "GroupResult", "ResultSet", "EagerResult")
    },
}  # fmt: skip

#: What an attribute of an object is: (what, attribute) → meaning.
ATTRIBUTES: Final = {
    ("app", "control"): Meaning("control"),
    ("app", "conf"): Meaning("conf"),
    ("app", "tasks"): Meaning("tasks"),
    ("app", "Task"): Meaning("task class"),
    ("app", "current_task"): TASK,
    ("app", "current_worker_task"): TASK,
    ("worker", "app"): APP,
    ("task", "app"): APP,
    ("task class", "app"): APP,
    ("task", "request"): Meaning("request"),
    ("task", "backend"): Meaning("app", "backend"),
    ("signature", "app"): APP,
    ("result", "app"): APP,
    ("result", "parent"): Meaning("result", "AsyncResult"),
    ("inspect", "app"): APP,
    ("control", "app"): APP,
}

#: What calling a method gives: (what, method) → meaning.
METHODS: Final = {
    ("app", "task"): TASK,
    ("app", "register_task"): TASK,
    ("app", "create_task_cls"): Meaning("task class"),
    ("app", "signature"): SIGNATURE,
    ("app", "AsyncResult"): Meaning("result", "AsyncResult"),
    ("app", "GroupResult"): Meaning("result", "GroupResult"),
    ("app", "ResultSet"): Meaning("result", "ResultSet"),
    ("app", "send_task"): Meaning("result", "AsyncResult"),
    ("control", "inspect"): Meaning("inspect"),
    ("tasks", "get"): TASK,
    ("task", "delay"): Meaning("result", "AsyncResult"),
    ("task", "apply_async"): Meaning("result", "AsyncResult"),
    ("task", "AsyncResult"): Meaning("result", "AsyncResult"),
    ("task", "apply"): Meaning("result", "EagerResult"),
    ("task", "chunks"): Meaning("signature", "chunks"),
    ("task", "map"): Meaning("signature", "xmap"),
    ("task", "starmap"): Meaning("signature", "xstarmap"),
    **{("task", name): SIGNATURE for name in ("s", "si", "signature", "subtask", "signature_from_request")},
}

#: What objects are → area of the list, the owner's name there, and the kind of what is found.
OWNERS: Final = {
    "app": ("app", "Celery", "app"),
    "app class": ("app", "Celery", "app"),
    "tasks": ("app", "Celery", "app"),
    "conf": ("app", "Celery", "app"),
    "control": ("control", "control", "control"),
    "inspect": ("control", "inspect", "control"),
    "task": ("task", "", "task"),
    "task class": ("task", "", "task"),
    "request": ("request", "", "request"),
    "signature": ("canvas", "Signature", "workflow"),
    "result": ("result", "AsyncResult", "result"),
    "signal": ("signal", "Signal", "signal"),
}

#: Fixtures of Celery's pytest plugin → what they are.
FIXTURES: Final[dict[str, Meaning | None]] = {
    "celery_app": APP,
    "celery_session_app": APP,
    "celery_worker": Meaning("worker"),
    "celery_session_worker": Meaning("worker"),
    "celery_config": None,
    "celery_parameters": None,
    "celery_includes": None,
    "celery_enable_logging": None,
    "celery_worker_parameters": None,
    "celery_worker_pool": None,
    "use_celery_app_trap": None,
    "depends_on_current_app": None,
}

#: Methods of a signature that give one of its own kind.
_SAME: Final = frozenset({"clone", "partial", "set", "replace", "link", "on_error", "set_immutable"})


def attribute_of(owner: Meaning, name: str) -> Meaning | None:
    """Return what ``owner.name`` stands for, where that is one of these objects, too."""
    if owner.what == "app" and owner.of:
        return Meaning("app", f"{owner.of}.{name}")
    found = ATTRIBUTES.get((owner.what, name))
    if found is None and owner.what == "app":
        return Meaning("app", name)
    return found


def called(function: Meaning) -> Meaning | None:
    """Return what calling an object gives."""
    if function.what == "name":
        return CALLED.get(function.of)
    if function.what == "app class":
        return APP
    if function.what == "task class":
        return TASK
    if function.what == "signature":
        return Meaning("result", "GroupResult" if function.of == "group" else "AsyncResult")
    return None


def method_called(owner: Meaning, name: str) -> Meaning | None:
    """Return what calling a method gives."""
    if owner.what == "app" and owner.of:
        return None
    if owner.what == "signature":
        if name in _SAME:
            return owner
        if name in ("delay", "apply_async"):
            return Meaning("result", "GroupResult" if owner.of == "group" else "AsyncResult")
        if name == "apply":
            return Meaning("result", "EagerResult")
        return None
    return METHODS.get((owner.what, name))
