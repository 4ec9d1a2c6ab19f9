"""chain: tasks one after the other, each called with what the one before it returned.

Only the first step is published; the rest travels in its message (``chain``, in reverse, each with its id),
and what follows a step is published in the transaction that ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from emq_compat.ids import new_ids
from emq_compat.shim.canvas.composite import (
    Composite,
    chaining,
    in_full,
    is_a,
    is_empty,
    make,
    oldest,
    unrolled,
)
from emq_compat.shim.canvas.member import Member
from emq_compat.shim.canvas.regen import as_list, regen
from emq_compat.shim.canvas.shown import module_once
from emq_compat.shim.canvas.signature import Signature, maybe_signature
from emq_compat.shim.canvas.stamping import StampingVisitor, merge_stamps
from emq_compat.shim.states import IGNORED, REJECTED

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["_chain", "chain"]


@Signature.register_type("chain")
class _chain(Composite):  # noqa: N801 - Celery's name
    """A chain as ``a | b`` makes it."""

    tasks = Member("kwargs.tasks", "Its steps.")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Return the chain of a dict."""
        tasks = [maybe_signature(task, app=app) for task in d["kwargs"]["tasks"] or ()]
        made = cls(tasks, app=app, **d["options"])
        made["args"] = tuple(d.get("args") or ())
        made["immutable"] = bool(d.get("immutable"))
        return made

    @classmethod
    def of_two(cls, first: Any, second: Any) -> Any:
        """Return ``first | second`` of a first one that is no chain, group or chord."""
        if is_a("chain", second):
            return make("chain", first, *second.unchain_tasks(), app=first._app)
        return make("chain", first, unrolled(second), app=first._app)

    def __init__(self, *tasks: Any, **options: Any) -> None:
        steps = regen(tasks[0]) if len(tasks) == 1 and _iterable(tasks[0]) else list(tasks)
        super().__init__("celery.chain", (), {"tasks": steps}, **options)
        self["subtask_type"] = "chain"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Publish it."""
        return self.apply_async(args, kwargs) if self.tasks else None

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> Any:
        """Return a copy; its steps are copies, too."""
        copy = super().clone(args, kwargs, **opts)
        copy["kwargs"]["tasks"] = [
            maybe_signature(task, app=self._app, clone=True) for task in copy["kwargs"]["tasks"]
        ]
        return copy

    def unchain_tasks(self) -> list[Any]:
        """Return copies of its steps, with its callbacks on the last one and its errbacks on all of them."""
        tasks = [maybe_signature(task, app=self._app).clone() for task in self.tasks]
        if tasks:
            for callback in as_list(self.options.get("link")):
                tasks[-1].link(callback)
        for errback in as_list(self.options.get("link_error")):
            for task in tasks:
                task.link_error(errback)
        return tasks

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        other = unrolled(other)
        if is_a("group", other):
            tasks = self.unchain_tasks()
            if not tasks:
                return other
            if is_a("chord", tasks[-1]):
                tasks[-1].body = tasks[-1].body | other
                return type(self)(tasks, app=self._app)
            return type(self)([*tasks, other], app=self._app)
        if is_a("chain", other):
            return reduce(chaining, other.unchain_tasks(), self)
        last = self.tasks[-1] if self.tasks else None
        if last is not None and is_a("group", last):
            # A chord's body is one step; what would be two chords in a row is the first one's longer body.
            joined = self.clone()
            joined.tasks[-1] = make("chord", joined.tasks[-1], other, app=self._app)
            if len(joined.tasks) > 1 and is_a("chord", joined.tasks[-2]):
                joined.tasks[-2].body = joined.tasks[-2].body | joined.tasks[-1]
                joined.tasks = joined.tasks[:-1]
            return joined
        if last is not None and is_a("chord", last) and not is_a("chord", other):
            joined = self.clone()
            joined.tasks[-1].body = joined.tasks[-1].body | other
            return joined
        return type(self)([*self.unchain_tasks(), other], app=self._app)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish it; returns the last step's result, whose ``parent`` is that of the step before."""
        app = self.app
        if app.eager:
            return self.apply(args, kwargs, **options)
        return self.run(args, kwargs, app=app, **{**self.options, **options})

    def run(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: object = None,
        producer: object = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        app: Celery | None = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """Publish its first step with the others in its message.

        ``task_id``, ``group_id``, ``chord`` and ``link`` concern the last step, ``link_error`` and
        ``priority`` each of them, all other options the first one.
        """
        app = app or self.app
        args = (*(args or ()), *self.args) if args and not self.immutable else self.args
        steps, results = self.prepare_steps(
            args, kwargs or {}, self.tasks, root_id, parent_id, link_error, app, task_id, group_id, chord,
            group_index=group_index,
        )  # fmt: skip
        if not results:
            return None
        if link:
            steps[0].extend_list_option("link", link)
        if options.get("priority") is not None:
            for step in steps:
                step.options.setdefault("priority", options["priority"])
        first = steps.pop()
        later = [*as_list(options.pop("chain", None)), *steps]
        result = first.apply_async(chain=later or None, root_id=root_id, parent_id=parent_id, **options)
        # Of one step the real result: a group's is filled when it is published.
        return results[0] if steps else result

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give each step its id; returns the last one's result."""
        _, results = self.prepare_steps(
            (), {}, self.tasks, root_id, parent_id, None, self.app, _id, group_id, chord,
            clone=False, group_index=group_index,
        )  # fmt: skip
        return results[0] if results else None

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Put stamps on each step and on the callbacks."""
        seen = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        headers = merge_stamps(headers, seen, self.options, append=append_stamps)
        self.stamp_links(visitor, append_stamps, **headers)
        self.tasks = [maybe_signature(task, app=self._app) for task in self.tasks]
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)
        return self

    def prepare_steps(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Celery | None = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Any = Signature.from_dict,
        group_index: int | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """Return its steps, frozen, and their results, both from the last to the first.

        Chains inside are spliced in, groups of one unrolled, empty groups left out, and a group in front of
        another step becomes a chord with that step as its body. ``clone=False`` freezes the steps themselves,
        so that they keep their ids.
        """
        app = app or self.app
        flat = list(self._flat(tasks, args, kwargs, clone, from_dict, app))
        flat = [step for step in flat if not is_empty(step)] or [g for g in flat[:1] if is_a("group", g)]
        steps: list[Any] = []
        results: list[Any] = []
        # Of each step the result whose parent is the step before it.
        heads: list[Any] = []
        # Steps travel in each other's messages: ids that have little in common would fill these.
        ids = iter(new_ids(len(flat)))
        for given in reversed(flat):
            step = given
            if is_a("group", step) and steps:
                results.pop(), heads.pop()
                step = make("chord", step, body=steps.pop(), root_id=root_id, app=app)
            own_id = None if step["subtask_type"] else next(ids)
            if steps:
                result = step.freeze(own_id, root_id=root_id)
                heads[-1].parent = result
            else:
                result = step.freeze(
                    last_task_id or own_id,
                    root_id=root_id,
                    group_id=group_id,
                    chord=chord_body,
                    group_index=group_index,
                )
            for errback in as_list(link_error):
                step.link_error(errback)
            steps.append(step)
            results.append(result)
            heads.append(oldest(result) if is_a("chord", step) else result)
        if results:
            self.id = results[0].id
        return steps, results

    def _flat(
        self,
        tasks: Iterable[Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        clone: bool,
        from_dict: Any,
        app: Celery,
    ) -> Iterator[Any]:
        """Iterate over the steps with chains spliced in; the first one gets the arguments."""
        first = True
        for given in tasks:
            task = given if isinstance(given, Signature) else from_dict(given, app=app)
            task = unrolled(in_full(task))
            if is_empty(task):
                yield task
                continue
            if clone:
                task = task.clone(args, kwargs) if first else task.clone()
            first = False
            if is_a("chain", task):
                inner = task.unchain_tasks() if clone else task.tasks
                yield from self._flat(inner, task.args, {}, clone, from_dict, app)
            else:
                yield task

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run its steps here, one after the other; returns the last one's result."""
        last = None
        args = (*(args or ()), *self.args) if not self.immutable else self.args
        given: tuple[Any, Any] = (args, kwargs or {})
        steps = self.unchain_tasks()
        for callback in as_list(options.pop("link", None)):
            steps[-1].link(callback)
        errbacks = as_list(options.pop("link_error", None))
        own = {name: value for name, value in self.options.items() if name not in _OF_THE_STEPS}
        options = {**own, **options}
        for task in steps:
            for errback in errbacks:
                task.link_error(errback)
            result = task.clone(*given).apply((last.get(),) if last is not None else (), **options)
            oldest(result).parent = last
            last, given = result, ((), {})
            if getattr(result, "state", None) in (IGNORED, REJECTED):
                break
        return last

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        return module_once(self.tasks[0]["task"], " | ".join(map(repr, self.tasks)))


class chain(_chain):  # noqa: N801 - Celery's name
    """Make a chain of steps, or of an iterable of them: the same as ``a | b | c``.

    It is what the operator comes to: a group in front of a task, say, is a chord.
    """

    def __new__(cls, *tasks: Any, **kwargs: Any) -> Any:
        """Return what the operator makes of the steps."""
        if tasks and not kwargs and (len(tasks) != 1 or _iterable(tasks[0])):
            steps = list(tasks[0] if len(tasks) == 1 else tasks)
            if all(type(step) is Signature and not step.subtask_type for step in steps):
                joined: Any = _chain([*(step.clone() for step in steps[:-1]), *steps[-1:]])
            else:
                joined = reduce(chaining, steps, _chain())
            if cls is not chain and is_a("chain", joined) and not isinstance(joined, cls):
                return super().__new__(cls, joined.tasks)
            return joined
        return super().__new__(cls, *tasks, **kwargs)


#: Options of a chain that its steps have already.
_OF_THE_STEPS = frozenset({"link", "link_error", "task_id"})


def _iterable(value: Any) -> bool:
    """Return whether it is steps rather than a step."""
    return isinstance(value, Iterable) and not isinstance(value, (dict, str, bytes))
