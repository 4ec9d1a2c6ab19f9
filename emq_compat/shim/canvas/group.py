"""group: tasks side by side. It is published as one bulk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.ids import new_id
from emq_compat.shim import later
from emq_compat.shim.canvas.composite import Composite, in_full, is_a, is_empty, make
from emq_compat.shim.canvas.launch import hold
from emq_compat.shim.canvas.member import Member
from emq_compat.shim.canvas.places import group_of_parts, place
from emq_compat.shim.canvas.regen import Regen, regen
from emq_compat.shim.canvas.shown import module_once
from emq_compat.shim.canvas.signature import Signature, maybe_signature
from emq_compat.shim.canvas.stamping import StampingVisitor, merge_stamps

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["group"]


@Signature.register_type("group")
class group(Composite):  # noqa: N801 - Celery's name
    """A group of signatures, given one by one or as an iterable, which may be a generator."""

    tasks = Member("kwargs.tasks", "Its members.")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Return the group of a dict."""
        given = d["kwargs"]["tasks"]
        if isinstance(given, Regen) and given.lazy:
            members: Any = Regen(maybe_signature(task, app=app) for task in given)
        else:
            members = [maybe_signature(task, app=app) for task in given]
        made = cls(members, app=app, **d["options"])
        made["args"] = tuple(d.get("args") or ())
        made["immutable"] = bool(d.get("immutable"))
        return made

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = tasks[0]
            if isinstance(members, group):
                members = members.tasks
            elif isinstance(members, Signature):
                members = [members.clone()]
            members = regen(members)
        super().__init__("celery.group", (), {"tasks": members}, **options)
        self["subtask_type"] = "group"

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        """Publish it."""
        return self.apply_async(partial_args, **options)

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> Any:
        """Return a copy; its members are copies, too."""
        copy = super().clone(args, kwargs, **opts)
        members = copy["kwargs"]["tasks"]
        if isinstance(members, Regen):
            members.map(lambda task: maybe_signature(task, app=self._app, clone=True))
        else:
            copy["kwargs"]["tasks"] = [task.clone() for task in members]
        return copy

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        body: Any = other
        if is_a("group", body) and not body.tasks:
            return self
        return make("chord", self, body=other, app=self._app)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Any:
        """Have its members start one after the other, each ``step`` seconds later, until ``stop``."""
        countdown = start
        for task in self.tasks:
            task.set(countdown=countdown)
            if stop is None or countdown + step <= stop:
                countdown += step
        return self

    def members(self) -> Iterator[Any]:
        """Iterate over copies of its members, with the members of groups in place of those.

        Where it is unshared they are no copies, and unshared, too.
        """
        unshared = self._unshared
        for given in self.tasks:
            task = in_full(maybe_signature(given, app=self._app))
            task._unshared = task._unshared or unshared
            if is_a("group", task):
                for inner in task.members():
                    yield inner.clone(task.args) if task.args else inner
            elif not is_empty(task):
                yield task if unshared else task.clone()

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        *,
        add_to_parent: bool = True,
        producer: object = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Publish its members as one bulk; returns a GroupResult, empty for an empty group.

        Raises:
            TypeError: link or link_error is given: a group has no end of its own; a chord has one.
        """
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        if link_error is not None:
            raise TypeError("Cannot add link to group: do that on individual tasks")
        app = self.app
        if app.eager:
            return self.apply(args, kwargs, **options)
        args = (*(args or ()), *self.args)
        awaits = options.pop("awaits", None)
        if awaits is not None:
            result = self.freeze(chord=options.get("chord"))
            hold(self, awaits, options)
            return result
        if not self.tasks:
            return self.freeze()
        result = self._publish(self.members(), args, kwargs, options)
        running = app.current_task
        if add_to_parent and running is not None:
            running.add_trail(result)
        return result

    def publish_frozen(
        self,
        results: Sequence[Any],
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> Any:
        """Publish its members, which ``freeze`` gave it and these results, once; returns a GroupResult."""
        args = (*(args or ()), *self.args)
        return self._publish(self.tasks, args, kwargs, options, results)

    def _publish(
        self,
        members: Iterable[Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        results: Sequence[Any] = (),
    ) -> Any:
        given, group_id = self._with_group_id(options)
        given.pop("group_index", None)
        chord = given.pop("chord", None)
        root_id = given.get("root_id")
        made = list(results)
        app = self.app
        with app.pipeline():
            for index, task in enumerate(members):
                task._unshared = True  # a copy, or it was that before
                if not results:
                    made.append(task.freeze(group_id=group_id, root_id=root_id, group_index=index))
                part = task.options.get("chord") or place(chord, index)
                task.apply_async(args, kwargs, add_to_parent=False, chord=part, **given)
        if len(made) == 1 and isinstance(made[0], later.GroupResult):
            # A group of one chain that ends in a group.
            return made[0]
        return app.GroupResult(group_id, made)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run its members here; returns a GroupResult."""
        if not self.tasks:
            return self.freeze()
        args = (*(args or ()), *self.args)
        options, group_id = self._with_group_id(options)
        results = []
        for index, task in enumerate(self.members()):
            task.freeze(group_id=group_id, root_id=options.get("root_id"), group_index=index)
            results.append(task.apply(args, kwargs, **options))
        return self.app.GroupResult(group_id, results)

    def _with_group_id(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the options of its members, and the group's id: what would be its task id."""
        own = self.options
        merged = {
            **own,
            **{k: v for k, v in options.items() if k not in self._IMMUTABLE_OPTIONS or k not in own},
        }
        group_id: str = merged.pop("task_id", None) or new_id()
        merged["group_id"] = group_id
        return merged, group_id

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give it and its members their ids; returns a GroupResult."""
        options = self.options
        own_id = options.get("task_id") or _id or new_id()
        options["task_id"] = own_id
        if group_id:
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        root_id = options.setdefault("root_id", root_id)
        parent_id = options.setdefault("parent_id", parent_id)
        members = list(self.members())
        results = [
            task.freeze(
                group_id=group_of_parts(chord, own_id, group_id),
                chord=place(chord, index),
                root_id=root_id,
                parent_id=parent_id,
                group_index=index,
            )
            for index, task in enumerate(members)
        ]
        self.tasks = members
        return self.app.GroupResult(own_id, results)

    _freeze = freeze

    def _freeze_group_tasks(self, **kwargs: Any) -> tuple[str, list[Any]]:
        result = self.freeze(**kwargs)
        return result.id, result.results

    def set_immutable(self, immutable: bool) -> None:
        """Set it on each member."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Put stamps on each member and on the callbacks."""
        seen = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        headers = merge_stamps(headers, seen, self.options, append=append_stamps)
        self.stamp_links(visitor, append_stamps, **headers)
        stamp_each(self, visitor, append_stamps, headers)
        if visitor is not None:
            visitor.on_group_end(self, **headers)
        return self

    def link(self, callback: Any) -> Any:
        """Link to the first member, with no argument: it may run before the others have ended."""
        callback = maybe_signature(callback, app=self._app).clone().set(immutable=True)
        return self.tasks[0].link(callback)

    def link_error(self, errback: Any) -> Any:
        """Link to each member; returns what was linked.

        Errbacks among the group's own options take the place of its members', so that it goes there, too.
        """
        errback = maybe_signature(errback, app=self._app)
        if self.options.get("link_error"):
            self.append_to_list_option("link_error", errback.clone())
        return tuple(task.link_error(errback.clone()) for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        return module_once(self.tasks[0]["task"], f"group({self.tasks!r})")


def stamp_each(
    sig: Any,
    visitor: StampingVisitor | None,
    append_stamps: bool,
    headers: Mapping[str, Any],
) -> None:
    """Stamp the signatures of a group or a header, those of a generator once they are made."""

    def stamped(given: Any) -> Any:
        task = maybe_signature(given, app=sig._app)
        task.stamp(visitor, append_stamps, **headers)
        return task

    tasks: Iterable[Any] = sig.tasks
    if isinstance(tasks, Regen):
        tasks.map(stamped)
    else:
        sig.tasks = [stamped(task) for task in tasks]

