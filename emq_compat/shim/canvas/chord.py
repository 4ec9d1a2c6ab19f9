"""chord: a group, the header, and a body that is called with the list of the header's values.

Our broker counts: the body's message goes first and is held until its parts have succeeded. Over other
brokers the result backend does (counting.py); what a part's message says of it stands in places.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.ids import new_id
from emq_compat.shim import current, later
from emq_compat.shim.canvas.composite import Composite, is_a, oldest, unrolled
from emq_compat.shim.canvas.counting import counting_of
from emq_compat.shim.canvas.group import group, stamp_each
from emq_compat.shim.canvas.launch import hold
from emq_compat.shim.canvas.member import Member
from emq_compat.shim.canvas.regen import Regen, as_list
from emq_compat.shim.canvas.shown import module_once
from emq_compat.shim.canvas.signature import Signature, maybe_signature, signature
from emq_compat.shim.canvas.stamping import StampingVisitor, merge_stamps

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["chord"]


@Signature.register_type("chord")
class chord(Composite):  # noqa: N801 - Celery's name
    """A header (signatures, a group, a generator of signatures) and its body."""

    tasks = Member("kwargs.header", "The header's tasks.")
    body = Member("kwargs.body", "The body.")

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Return the chord of a dict."""
        fields = {name: value for name, value in d.items() if name != "options"}
        inner = dict(fields.pop("kwargs"))
        header, body = inner.pop("header", ()), inner.pop("body", None)
        return cls(header, body, kwargs=inner, app=app, options=d.get("options"), **fields)

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            task,
            args,
            {
                **(kwargs or {"kwargs": {}}),
                "header": _header(header, app),
                "body": maybe_signature(body, app=app),
            },
            app=app,
            **options,
        )
        self["subtask_type"] = "chord"

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Publish it, with ``body`` as its body."""
        return self.apply_async((), {"body": body} if body else {}, **options)

    def _own_app(self, body: Any = None) -> Celery | None:
        """Return its app, or its body's (or that of ``body``), or its header's."""
        app: Celery | None = self._app
        body = self.body if body is None else body
        if app is None and body is not None:
            app = body._app
        if app is None and self.tasks:
            app = getattr(next(iter(self._members())), "_app", None)
        return app

    def _members(self) -> Any:
        tasks = self.tasks
        return tasks.tasks if isinstance(tasks, group) else tasks

    def header_group(self) -> Any:
        """Return its header as a group, which it is from here on."""
        if not isinstance(self.tasks, group):
            self.tasks = group(self.tasks, app=self._app)
        self.tasks._unshared = self._unshared
        return self.tasks

    def clone(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any
    ) -> Any:
        """Return a copy; its header and body are copies, too."""
        own = self.tasks
        copy = super().clone(args, kwargs, **opts)
        header = copy["kwargs"]["header"]
        if isinstance(header, group):
            copy["kwargs"]["header"] = header.clone()
        elif isinstance(header, Regen):
            header.map(lambda task: maybe_signature(task, clone=True))
        elif not (isinstance(own, (list, tuple)) and all(isinstance(task, Signature) for task in own)):
            # Of a list of signatures they are copies already.
            copy["kwargs"]["header"] = [maybe_signature(task, clone=True) for task in header]
        copy["kwargs"]["body"] = maybe_signature(copy["kwargs"]["body"], clone=True)
        return copy

    def __or__(self, other: Any) -> Any:
        other = unrolled(other) if isinstance(other, Signature) else other
        if isinstance(other, Signature) and not is_a("group", other) and not is_a("chain", other):
            joined = self.clone()
            joined.body = joined.body | other
            return joined
        return super().__or__(other)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Give the header and the body their ids; returns the body's result, whose parent is the header's."""
        header = self.header_group()
        # A copy that is frozen again keeps it, as its parts keep their group.
        own_id = header.options.get("task_id") or self.options.get("task_id") or new_id()
        header.options["task_id"] = own_id
        result = None
        if self.body is not None:
            result = self.body.freeze(
                _id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index
            )
        header_result = header.freeze(
            group_id=own_id,
            parent_id=parent_id,
            root_id=root_id,
            chord=counting_of(self.app).reference(own_id, self.body),
        )
        self.id = own_id
        if result is not None:
            oldest(result).parent = header_result
        return result

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Put stamps on the header's tasks, the body and the callbacks."""
        seen = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        headers = merge_stamps(headers, seen, self.options, append=append_stamps)
        self.stamp_links(visitor, append_stamps, **headers)
        header = self.tasks
        stamp_each(header if isinstance(header, group) else self, visitor, append_stamps, headers)
        if visitor is not None:
            visitor.on_chord_header_end(self, **headers)
        if self.body is not None:
            if visitor is not None:
                seen = visitor.on_chord_body(self, **headers) or {}
                headers = merge_stamps(headers, seen, self.options, append=append_stamps)
            self.body.stamp(visitor, append_stamps, **headers)
        return self

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        *,
        task_id: str | None = None,
        producer: object = None,
        publisher: object = None,
        connection: object = None,
        router: object = None,
        result_cls: object = None,
        add_to_parent: bool = True,
        **options: Any,
    ) -> Any:
        """Publish it; returns the body's result, whose parent is the header's. ``task_id`` is the body's."""
        given = dict(kwargs or {})
        body = given.pop("body", None) or self.body
        app = self._own_app(body) or current.get_app()
        if app.eager:
            return self.apply(args, given, body=body, task_id=task_id, **options)
        given = {**self.kwargs.get("kwargs", {}), **given}
        args = self._merge(args)[0]
        merged = {**self.options, **options}
        awaits = merged.pop("awaits", None)
        header_id = merged.pop("task_id", None)
        if awaits is not None:
            held = self.clone()
            held.body = body.clone()
            result = held.freeze(
                task_id,
                chord=merged.get("chord"),
                group_id=merged.get("group_id"),
                root_id=merged.get("root_id"),
            )
            hold(held, awaits, merged)
            return result
        if self._unshared:
            header = self.header_group()
        else:
            body = body.clone()
            if isinstance(self.tasks, group):
                header = self.tasks.clone()
                header._unshared = True
            else:
                header = group(self.tasks, app=app)
        if header_id and not header.options.get("task_id"):
            header.options["task_id"] = header_id
        result = self.run(header, body, args, app=app, task_id=task_id, kwargs=given, **merged)
        running = app.current_task
        if add_to_parent and running is not None:
            running.add_trail(result)
        return result

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Sequence[Any],
        app: Celery | None = None,
        interval: float | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Publish the header, and before it what has the body published in the end, as one bulk.

        Options go to both, but for ``chain``, ``chord``, ``link``, ``link_error`` and what says of which
        group and chord it is a part: these are the body's. ``interval`` and ``max_retries`` belong to
        polling a result backend that counts no chords, where the broker doesn't.
        """
        app = app or self._own_app(body) or current.get_app()
        counting = counting_of(app)
        own_id = header.options.get("task_id") or new_id()
        for callback in as_list(options.pop("link", None)):
            body.link(callback)
        for errback in as_list(options.pop("link_error", None)):
            body.link_error(errback)
        of_body = {name: options.pop(name) for name in _OF_THE_BODY if name in options}
        if countdown is not None:
            options["countdown"] = countdown
        body.options.update({**options, **of_body})
        root_id = body.options.get("root_id")
        result = body.freeze(
            task_id, group_id=of_body.get("group_id") or own_id, root_id=root_id, chord=of_body.get("chord")
        )
        if counting.streams and isinstance(header.tasks, Regen) and header.tasks.lazy:
            given = {**options, "task_id": own_id, "root_id": root_id}
            size, header_result = self._stream(app, header, partial_args, kwargs, given)
            if size:
                last = later.leaves(header_result)[-1].id
                parents = {"parent_id": last, "root_id": root_id or _running_root(app) or last}
                body.apply_async(awaits={"id": own_id, "size": size}, add_to_parent=False, **parents)
            else:
                body.apply_async(([],))
            oldest(result).parent = header_result
            return result
        ids = {"task_id": own_id, "root_id": root_id}
        header.options.update({name: value for name, value in ids.items() if value})
        if not header._unshared:
            header.tasks = list(header.members())
            header._unshared = True
        place = counting.reference(own_id, body)
        header_result = header.freeze(group_id=own_id, chord=place, root_id=root_id)
        size = self._descend(header)
        with app.pipeline():
            if not size:
                body.apply_async(([],))
            else:
                # Celery's body is a child of the header's task that ended last; here of the last one.
                last = header.tasks[-1].options["task_id"]
                told = {"parent_id": last, "root_id": root_id or _running_root(app) or last}
                polling = {"interval": interval, "max_retries": max_retries}
                counting.begin(app, own_id, body, header_result, size, {**told, **polling})
                header_result = header.publish_frozen(
                    header_result.results, partial_args, kwargs, {**options, "task_id": own_id}
                )
        oldest(result).parent = header_result
        return result

    def _stream(
        self,
        app: Celery,
        header: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: dict[str, Any],
    ) -> tuple[int, Any]:
        """Publish a header while its generator makes it; returns how many parts it has, and its result.

        What is made within _BULK_S is published as one bulk. The broker takes parts before their body.
        """
        own_id, root_id = options.pop("task_id"), options.get("root_id")
        results: list[Any] = []
        size = 0
        made = header.tasks.stream()
        more, until = True, 0.0
        while more:
            more = False
            with app.pipeline():
                for given in made:
                    for task in group([maybe_signature(given, app=app)], app=app).members():
                        index = len(results)
                        place = {"id": own_id, "index": str(index)}
                        results.append(
                            task.freeze(group_id=own_id, chord=place, root_id=root_id, group_index=index)
                        )
                        size += self._descend(task)
                        given_options = {**options, "chord": place, "group_id": own_id}
                        task.apply_async(args, kwargs, add_to_parent=False, **given_options)
                    if time.monotonic() >= until:
                        more = True
                        break
            until = time.monotonic() + _BULK_S
        return size, app.GroupResult(own_id, results)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run the header and then the body here; returns the body's result."""
        body = self.body if body is None else maybe_signature(body, app=self._app)
        header = self.tasks.clone() if isinstance(self.tasks, group) else group(self.tasks, app=self._app)
        given = {**self.kwargs.get("kwargs", {}), **(kwargs or {})}
        header_result = header.apply(self._merge(args)[0], given)
        result = body.apply((header_result.get(propagate=propagate),), **_eager(self.options, options))
        oldest(result).parent = header_result
        return result

    @classmethod
    def _descend(cls, sig: Any) -> int:
        """Return how many parts a signature is: the tasks that end it."""
        if isinstance(sig, dict) and not isinstance(sig, Signature):
            sig = Signature.from_dict(sig)
        if is_a("group", sig):
            return sum(map(cls._descend, sig.tasks))
        if is_a("chain", sig):
            return next((size for size in map(cls._descend, reversed(list(sig.tasks))) if size), 0)
        if isinstance(sig, chord):
            return cls._descend(sig.body)
        return 1 if isinstance(sig, Signature) else len(sig)

    def __length_hint__(self) -> int:
        """Return how many parts the header has."""
        return sum(map(self._descend, self._members()))

    def link(self, callback: Any) -> Any:
        """Link to the body."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Link to the body, and to the header's tasks with task_allow_error_cb_on_chord_header.

        A chord in the header needs no link of its own: its failure reaches the body, so that the callback is
        called once.
        """
        errback = maybe_signature(errback, app=self._app)
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for task in self._members():
                task.link_error(errback.clone())
        self.body.link_error(errback)
        return errback

    def set_immutable(self, immutable: bool) -> None:
        """Set it on the header's tasks, not on the body."""
        for task in self._members():
            task.set_immutable(immutable)

    def __repr__(self) -> str:
        if self.body is None:
            return f"<chord without body: {self.tasks!r}>"
        header = (tuple if isinstance(self.tasks, tuple) else list)(self._members())
        if not is_a("chain", self.body):
            return "%" + module_once(self.body["task"], self.body.reprcall(header))
        first, *rest = self.body.tasks
        links = " | ".join([first.reprcall(header), *map(repr, rest)])
        return module_once(first["task"], f"%({links})")


#: Options of a chord that say of what its body is a part, and what comes after it.
_OF_THE_BODY = ("chain", "chord", "group_id", "group_index", "replaced_task_nesting")


def _header(header: Any, app: Celery | None) -> Any:
    """Return what a chord keeps as its header: a group's or a chain's tasks, or signatures."""
    if isinstance(header, dict):
        header = signature(header, app=app)
    if is_a("group", header) or is_a("chain", header):
        return header.tasks
    if isinstance(header, Signature):
        return [header]
    if isinstance(header, (list, tuple)):
        return [signature(task, app=app) for task in header]
    return Regen(signature(task, app=app) for task in header)


#: What a generator makes within so many seconds is published as one.
_BULK_S = 0.05


def _running_root(app: Celery) -> str | None:
    running = app.current_task
    if running is None or running.request.id is None:
        return None
    return running.request.root_id or running.request.id


def _eager(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with which a body is run in place."""
    merged = {**own, **given}
    merged.pop("task_id", None)
    if given.get("task_id"):
        merged["task_id"] = given["task_id"]
    return merged
