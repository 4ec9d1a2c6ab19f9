"""What a task can do with signatures: make them of itself, be replaced by one, add one to its chord."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emq_compat.shim import later
from emq_compat.shim.exceptions import Ignore, ImproperlyConfigured

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery
    from emq_compat.shim.current import Frame
    from emq_compat.shim.request import Context

__all__ = ["CanvasMethods"]


class CanvasMethods:
    """Mixed into Task."""

    if TYPE_CHECKING:

        @property
        def app(self) -> Celery: ...
        @property
        def request(self) -> Context: ...
        def _frame(self) -> Frame | None: ...

    def signature(self, args: Sequence[Any] | None = None, *starargs: Any, **starkwargs: Any) -> Any:
        """Return a signature of this task; arguments are those of apply_async."""
        starkwargs.setdefault("app", self.app)
        return later.signature(self, args, *starargs, **starkwargs)

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """Return a signature with these arguments."""
        return later.Signature(self, args, kwargs, app=self.app)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """Return a signature with these arguments and no others: what comes before it is ignored."""
        return later.Signature(self, args, kwargs, app=self.app, immutable=True)

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Any:
        """Return the signature that sends a run's task again."""
        request = self.request if request is None else request
        options = {**request.as_execution_options(), **extra_options}
        info = request.delivery_info or {}
        if info.get("priority") is not None:
            options["priority"] = info["priority"]
        if queue or info.get("routing_key"):
            options["queue"] = queue or info["routing_key"]
        return self.signature(
            request.args if args is None else args,
            request.kwargs if kwargs is None else kwargs,
            **options,
        )

    subtask_from_request = signature_from_request

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """Return the signature that calls it with each of ``it``, ``n`` at a time."""
        return later.chunks(self.s(), it, n, app=self.app)

    def map(self, it: Iterable[Any]) -> Any:
        """Return the signature that calls it with each of ``it`` in one run."""
        return later.xmap(self.s(), it, app=self.app)

    def starmap(self, it: Iterable[Any]) -> Any:
        """Return the signature that calls it with the arguments in each of ``it``, in one run."""
        return later.xstarmap(self.s(), it, app=self.app)

    def replace(self, sig: Any) -> Any:
        """End this run and have ``sig`` run in its place: with its id, chord, callbacks and chain.

        The replacement is published in the transaction that ends this run. A group is replaced by the list
        of its values.

        Raises:
            Ignore: always, where a worker runs the task; nothing after the call is executed.
            ImproperlyConfigured: ``sig`` is part of a chord, or an empty chain.
        """
        request = self.request
        if "chord" in sig.options:
            raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
        if later.is_a("chain", sig) and not sig.tasks:
            raise ImproperlyConfigured("Cannot replace with an empty chain")
        if later.is_a("group", sig) or (later.is_a("chain", sig) and later.is_a("group", sig.tasks[-1])):
            # One value takes the place of one: a group's are a list.
            sig |= self.app.tasks["celery.accumulate"].s(index=0)
        for callback in request.callbacks or ():
            sig.link(callback)
        for errback in request.errbacks or ():
            sig.link_error(errback)
        if later.is_a("chain", sig) and sig.options.get("link"):
            # On its last step: more steps are about to follow.
            sig.tasks[-1].extend_list_option("link", sig.options.pop("link"))
        sig.freeze(request.id)
        nesting = (request.replaced_task_nesting or 0) + 1
        options: dict[str, Any] = {"replaced_task_nesting": nesting, "root_id": request.root_id}
        if request.chord:
            options["chord"] = request.chord
        if request.group:
            options.update(group_id=request.group, group_index=request.group_index)
        sig.set(**options)
        if later.is_a("chain", sig):
            for step in sig.tasks:
                step.set(replaced_task_nesting=nesting)
        for given in reversed(request.chain or ()):
            sig |= later.signature(given, app=self.app).set(replaced_task_nesting=nesting)
        return self.on_replace(sig)

    def on_replace(self, sig: Any) -> Any:
        """Called with the signature that takes this run's place; sends it and raises Ignore."""
        if self.request.is_eager:
            return sig.apply().get()
        with later.collected_into(self._frame()):
            sig.apply_async()
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Any, lazy: bool = False) -> Any:
        """Add a task to the chord that this run is a part of; its value comes behind this run's.

        It is published in the transaction that ends this run. ``lazy`` returns the signature, to be sent by
        hand before the run ends.

        Raises:
            ValueError: this run is not part of a chord.
        """
        request = self.request
        if not request.chord:
            raise ValueError("Current task is not member of any chord")
        if later.counted_by_backend(request.chord):
            self.app.backend.add_to_chord(request.group or "", None)
            place = request.chord
        else:
            place = later.place_in_chord(request)
        sig.set(
            group_id=request.group,
            group_index=request.group_index,
            chord=place,
            root_id=request.root_id,
        )
        result = sig.freeze()
        if lazy:
            return sig
        with later.collected_into(self._frame()):
            sig.apply_async()
        return result
