"""map, starmap and chunks: one task over many arguments, in one run or in a few."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from emq_compat.shim.canvas.composite import make
from emq_compat.shim.canvas.regen import regen
from emq_compat.shim.canvas.signature import Signature

if TYPE_CHECKING:
    from emq_compat.shim.app import Celery

__all__ = ["chunks", "xmap", "xstarmap"]


class _Map(Signature):
    """One run of a task over all items; the value is the list of its values."""

    _task_name: ClassVar[str]

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Return the signature of a dict."""
        return cls(d["kwargs"]["task"], d["kwargs"]["it"], app=app, **d["options"])

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__(
            self._task_name, (), {"task": task, "it": regen(it)}, immutable=True, **options
        )
        self["subtask_type"] = type(self).__name__

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish it, to where its task goes; arguments have no place in it."""
        self.kwargs["it"] = list(self.kwargs["it"])
        return super().apply_async((), {}, route_name=_name(self.kwargs["task"]), **options)


@Signature.register_type()
class xmap(_Map):  # noqa: N801 - Celery's name
    """``[task(item) for item in it]``."""

    _task_name = "celery.map"

    def __repr__(self) -> str:
        return f"[{_name(self.kwargs['task'])}(x) for x in {self.kwargs['it']!r:.100}]"


@Signature.register_type()
class xstarmap(_Map):  # noqa: N801 - Celery's name
    """``[task(*item) for item in it]``."""

    _task_name = "celery.starmap"

    def __repr__(self) -> str:
        return f"[{_name(self.kwargs['task'])}(*x) for x in {self.kwargs['it']!r:.100}]"


@Signature.register_type()
class chunks(Signature):  # noqa: N801 - Celery's name
    """A group of starmaps over ``n`` items each."""

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Return the signature of a dict."""
        return cls(*(d["kwargs"][name] for name in ("task", "it", "n")), app=app, **d["options"])

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        super().__init__(
            "celery.chunks", (), {"task": task, "it": regen(it), "n": n}, immutable=True, **options
        )
        self["subtask_type"] = "chunks"

    def __call__(self, **options: Any) -> Any:
        """Publish it."""
        return self.apply_async(**options)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> Any:
        """Publish its group; returns a GroupResult."""
        return self.group().apply_async(args, kwargs, **options)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run its group here."""
        return self.group().apply(args, kwargs, **options)

    def group(self) -> Any:
        """Return it as a group."""
        task, items, n = self.kwargs["task"], iter(self.kwargs["it"]), self.kwargs["n"]
        parts = iter(lambda: list(islice(items, n)), [])
        return make("group", [xstarmap(task, part, app=self._app) for part in parts], app=self._app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Celery | None = None) -> Any:
        """Publish ``task`` over ``it`` in chunks of ``n``."""
        return cls(task, it, n, app=app)()


def _name(task: Any) -> str:
    """Return the name of a task or a signature, or of a signature's dict."""
    return str(task["task"] if isinstance(task, dict) else getattr(task, "name", task))
