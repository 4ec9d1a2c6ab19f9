"""Signature: a call that can be passed around: a dict in Celery's own JSON layout.

Composite signatures (chain, group, chord …) are classes of their own, known here by their ``subtask_type``
through ``Signature.TYPES``: importing this module imports none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from emq_compat.ids import new_id
from emq_compat.shim import current, later
from emq_compat.shim.canvas.launch import hold, must_be_launched
from emq_compat.shim.canvas.member import Member
from emq_compat.shim.canvas.regen import as_list
from emq_compat.shim.canvas.stamping import StampingVisitor, merge_stamps

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.results.single import AsyncResult as Result
    from emq_compat.shim.task import Task

__all__ = ["Signature", "maybe_signature", "signature"]

S = TypeVar("S", bound="type[Signature]")


class _Types(dict[str, "type[Signature]"]):
    """Kinds of signatures; a lookup of one that isn't there yet loads those of kinds.py. Else a KeyError."""

    def __missing__(self, kind: str) -> type[Signature]:
        return later.KINDS[kind]


class Signature(dict[str, Any]):
    """A call of a task: its name, arguments and options.

    Args:
        task: a task, or its name; or a signature's dict, and then nothing else counts.
        args, kwargs: arguments; what it is applied to comes in front of ``args``, unless it is ``immutable``.
        options: those of apply_async.
    """

    #: subtask_type → the class of such signatures.
    TYPES: ClassVar[dict[str, type[Signature]]] = _Types()
    #: Options that stay as they are once they are set: another value would leave somebody waiting.
    _IMMUTABLE_OPTIONS: ClassVar[frozenset[str]] = frozenset({"group_id", "stamped_headers"})

    _app: Any = None
    _type: Any = None

    name = Member("task", "The task's name.")
    task = Member("task", "The task's name.")
    args = Member("args", "Its positional arguments.")
    kwargs = Member("kwargs", "Its keyword arguments.")
    options = Member("options", "Options of apply_async.")
    subtask_type = Member("subtask_type", "Which kind of canvas it is; None: one task.")
    immutable = Member("immutable", "Whether it takes no further arguments.")
    id = Member("options.task_id", "The task's id, once it is frozen.")
    parent_id = Member("options.parent_id", "The parent's id.")
    root_id = Member("options.root_id", "The root's id.")

    #: Nobody else has it, nor what it is made of: to publish it may use it up, where else that takes a copy.
    _unshared = False

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[S], S]:
        """Return a class decorator that registers a kind of signature under ``name``, or the class's name."""

        def register(subclass: S) -> S:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Return the signature of a dict, of the class that its ``subtask_type`` names."""
        kind = d.get("subtask_type")
        if kind:
            target = cls.TYPES[kind]
            if target is not cls:
                return target.from_dict(d, app=app)
        return Signature(d, app=app)

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,  # noqa: A002 - Celery's name
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celery | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        if isinstance(task, dict):
            super().__init__(task)
            return
        name = getattr(task, "name", task)
        if name is not task:
            self._type = task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options={**(options or {}), **ex},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    @property
    def type(self) -> Task[..., Any]:
        """The task; raises NotRegistered where the app has none of this name."""
        return self._type or self.app.tasks[self["task"]]

    @property
    def app(self) -> Celery:
        """The app that it is sent by."""
        return self._app or current.get_app()

    @app.setter
    def app(self, app: Celery) -> None:
        self._app = app

    def AsyncResult(self, task_id: str, **kwargs: Any) -> Result[Any]:  # noqa: N802 - Celery's name
        """Return the result of the call ``task_id``."""
        try:
            return self.type.AsyncResult(task_id, **kwargs)
        except KeyError:
            return self.app.AsyncResult(task_id, **kwargs)

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Call the task here and now, as a plain function."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        return self.type(*args, **kwargs)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """Publish it with more arguments."""
        return self.apply_async(partial_args, partial_kwargs)

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """``delay`` for coroutines: the loop goes on until the broker has confirmed."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """``apply_async`` for coroutines, with what a whole workflow publishes at once; the same options."""
        app = self.app
        policy = app.tries(options)
        return await later.published(app, lambda: self.apply_async(args, kwargs, **options), policy)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run it here, as a worker would."""
        given = {name: value for name, value in options.items() if value is not None}
        args, kwargs, given = self._merge(args, kwargs, given)
        return self.type.apply(args, kwargs, **given)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish it with more arguments and options; returns its result and raises as Task.apply_async."""
        given = {name: value for name, value in options.items() if value is not None}
        if args or kwargs or given:
            args, kwargs, given = self._merge(args, kwargs, given)
        else:
            args, kwargs, given = self["args"], self["kwargs"], self["options"]
        if route_name is not None:
            given = {**given, "route_name": route_name}
        if "awaits" in given:
            if must_be_launched(given):
                result = self.freeze(given.get("task_id"))
                hold(self.clone(args, kwargs), given["awaits"], given)
                return result
            given = {**given, "immutable": self["immutable"]}
        task = self._type or self.app.tasks.get(self["task"])
        if task is None:
            return self.app.send_task(self["task"], args, kwargs, **given)
        return task.apply_async(args, kwargs, **given)

    def election(self) -> Any:
        """Have one of the workers send it, chosen by the call's id (``app.control.election``).

        Returns its result; nothing is told where no worker is there.
        """
        task_id = self["options"].get("task_id") or new_id()
        self.app.control.election(task_id, "task", self.clone(task_id=task_id))
        return self.AsyncResult(task_id)

    def _merge(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Return its arguments and options with those added; ``force`` adds to an immutable one, too."""
        own: dict[str, Any] = self["options"]
        if options:
            fixed = self._IMMUTABLE_OPTIONS
            if "stamped_headers" in own:
                fixed = fixed.union(own["stamped_headers"] or ())
            own = {**own, **{k: v for k, v in options.items() if k not in fixed or k not in own}}
        if self["immutable"] and not force:
            return self["args"], self["kwargs"], own
        return (
            (*args, *self["args"]) if args else self["args"],
            {**self["kwargs"], **kwargs} if kwargs else self["kwargs"],
            own,
        )

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> Any:
        """Return a copy with more arguments and options; its options, callbacks included, are its own."""
        args, kwargs, options = self._merge(args, kwargs, opts)
        fields = {
            "task": self["task"],
            "args": tuple(args),
            "kwargs": dict(kwargs),
            "options": _copy_of(options),
            "subtask_type": self["subtask_type"],
            "immutable": self["immutable"],
        }
        copy = Signature.from_dict(fields, app=self._app)
        copy._type = self._type
        return copy

    partial = clone

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it an id, if it has none, and return its result before it is sent. Send it once.

        ``chord`` is the chord's reference (``{"id": …, "index": "3.0"}``) when it is a part of one.
        """
        options = self["options"]
        task_id = options.get("task_id")
        if not task_id:
            task_id = options["task_id"] = _id or new_id()
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        if group_id:
            options.setdefault("group_id", group_id)
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        app = self.app
        if app._over_kombu and app.reply_to:
            options.setdefault("reply_to", app.reply_to)
        return self.AsyncResult(task_id)

    _freeze = freeze

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return a copy with other args, kwargs or options; None: as they are."""
        copy = self.clone()
        for name, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                copy[name] = value
        return copy

    def set(self, immutable: bool | None = None, **options: Any) -> Any:
        """Set options; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether it takes no further arguments."""
        self["immutable"] = immutable

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Put stamps on it and on its callbacks: those given, and the visitor's."""
        self.stamp_links(visitor, append_stamps, **headers)
        seen = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**merge_stamps(headers, seen, self["options"], append=append_stamps))

    def stamp_links(
        self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Put stamps on its callbacks and errbacks."""
        for option, look in (("link", "on_callback"), ("link_error", "on_errback")):
            if not self["options"].get(option):
                continue
            stamped = []
            for given in as_list(self["options"][option]):
                link = maybe_signature(given, app=self._app)
                seen = None if visitor is None else getattr(visitor, look)(link, **headers) or {}
                link.stamp(visitor, append_stamps, **merge_stamps(headers, seen, None, append=append_stamps))
                stamped.append(link)
            self["options"][option] = stamped

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add ``value`` to a list option, if it isn't there; returns it."""
        items = self["options"][key] = as_list(self["options"].get(key))
        if _as_sent(value) not in map(_as_sent, items):
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add one value or several to a list option."""
        self["options"][key] = as_list(self["options"].get(key)) + as_list(value)

    def link(self, callback: Any) -> Any:
        """Have ``callback`` called with the value once it succeeds; returns the callback."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Have ``errback`` called if it fails; returns the errback."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Any:
        """Do as link_error, and return itself."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Any]:
        """Return itself and all callbacks, depth first."""
        found = [self]
        for link in as_list(self["options"].get("link")):
            found += maybe_signature(link, app=self._app).flatten_links()
        return found

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        kind: Any = self.TYPES["chain"]
        return kind.of_two(self, other)

    def __ior__(self, other: Any) -> Any:
        return self | other

    def __invert__(self) -> Any:
        """Publish it and wait for its value."""
        return self.apply_async().get()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return the call as text."""
        shown, named, _ = self._merge(args, kwargs, None, force=True)
        texts = [*map(repr, shown), *(f"{name}={value!r}" for name, value in named.items())]
        return f"{self['task']}({', '.join(texts)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = memo[id(self)] = self.clone()
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """Return a signature: a copy of one, that of a dict, or a new one of a task (or its name) as Signature.

    Keyword arguments are those of Signature; ``app`` is the app that sends it.
    """
    if isinstance(varies, dict):
        if isinstance(varies, Signature):
            return varies.clone()
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Celery | None = None, clone: bool = False) -> Any:
    """Return a signature as it is (or a copy), a dict as a signature, anything else unchanged."""
    if d is None:
        return None
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
    elif isinstance(d, dict):
        d = Signature.from_dict(d, app=app)
    if app is not None and isinstance(d, Signature):
        d._app = app
    return d


def _as_sent(link: Any) -> Any:
    """Return a callback as a message has it: its arguments are a list there."""
    return {**link, "args": list(link.get("args") or ())} if isinstance(link, dict) else link


def _copy_of(value: Any) -> Any:
    """Return a copy of a signature's options: dicts, lists and signatures in them are copied, too."""
    if isinstance(value, Signature):
        return value.clone()
    if isinstance(value, dict):
        return {
            key: _copy_of(item) if isinstance(item, (dict, list)) else item for key, item in value.items()
        }
    if isinstance(value, list):
        return list(map(_copy_of, value))
    return value
