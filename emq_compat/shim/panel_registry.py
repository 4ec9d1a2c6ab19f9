"""The registry of remote control's commands, and how a project adds its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from emq_compat.shim.app import Celery

__all__ = [
    "Panel",
    "State",
    "control_command",
    "controller_info_t",
    "inspect_command",
    "nok",
    "ok",
]

Command = Callable[..., Any]


class controller_info_t(NamedTuple):  # noqa: N801 - Celery's name
    """What is known of a command besides its function.

    Attributes:
        alias: another name of it.
        type: ``inspect`` (it only looks) or ``control``.
        visible: whether the command line lists and takes it.
        default_timeout: seconds that its answers may take.
        help: one line of what it does.
        signature: its arguments as the command line shows them.
        args: (name, type) of each argument, in the order in which the command line takes them.
        variadic: the argument that takes all that come after those.
    """

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str | None
    signature: str | None
    args: Any
    variadic: str | None


class State:
    """What a command gets first: the app, the worker's node name, and the worker.

    Attributes:
        app: the app.
        hostname: the node name.
        consumer: the worker's consumer, as signals have it.
        worker: the job manager.
    """

    def __init__(self, app: Celery, hostname: str, consumer: Any, worker: Any) -> None:
        self.app = app
        self.hostname = hostname
        self.consumer = consumer
        self.worker = worker
        self.tset = set


class Panel:
    """The registry of commands: name → function in ``data``, name → controller_info_t in ``meta``."""

    data: ClassVar[dict[str, Command]] = {}
    meta: ClassVar[dict[str, controller_info_t]] = {}

    @classmethod
    def register(cls, *args: Command, **kwargs: Any) -> Any:
        """Add a function: ``@Panel.register``, or ``@Panel.register(name=…, alias=…, type=…)``."""
        if args:
            return cls._register(**kwargs)(args[0])
        return cls._register(**kwargs)

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",  # noqa: A002 - Celery's name
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,  # noqa: A002 - Celery's name
        signature: str | None = None,
        args: Any = None,
        variadic: str | None = None,
    ) -> Callable[[Command], Command]:
        def registered(fun: Command) -> Command:
            known_as = name or fun.__name__
            said = help or (fun.__doc__ or "").strip().split("\n")[0]
            cls.data[known_as] = fun
            cls.meta[known_as] = controller_info_t(
                alias, type, visible, default_timeout, said, signature, args, variadic
            )
            if alias:
                cls.data[alias] = fun
            return fun

        return registered


def control_command(**kwargs: Any) -> Callable[[Command], Command]:
    """Add a command that changes something: ``@control_command(name=…)``."""
    return Panel._register(type="control", **kwargs)


def inspect_command(**kwargs: Any) -> Callable[[Command], Command]:
    """Add a command that only looks."""
    return Panel._register(type="inspect", **kwargs)


def ok(value: Any) -> dict[str, Any]:
    """Return a command's answer."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """Return a command's answer: it went wrong."""
    return {"error": value}
