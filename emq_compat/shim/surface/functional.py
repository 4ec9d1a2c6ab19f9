"""``celery.utils.functional``."""

from __future__ import annotations

import inspect
import itertools
import threading
from collections import OrderedDict, UserList
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

__all__ = [
    "LRUCache",
    "arity_greater",
    "chunks",
    "dictfilter",
    "first",
    "firstmethod",
    "fun_accepts_kwargs",
    "fun_takes_argument",
    "head_from_fun",
    "is_list",
    "lazy",
    "lookahead",
    "mattrgetter",
    "maybe",
    "maybe_evaluate",
    "maybe_list",
    "mlazy",
    "noop",
    "padlist",
    "regen",
    "seq_concat_item",
    "seq_concat_seq",
    "uniq",
]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class LRUCache(OrderedDict[K, V]):
    """A dict of at most ``limit`` items that forgets what wasn't asked for the longest; thread-safe."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.mutex = threading.RLock()
        super().__init__()

    def __getitem__(self, key: K) -> V:
        with self.mutex:
            value = super().__getitem__(key)
            self.move_to_end(key)
            return value

    def __setitem__(self, key: K, value: V) -> None:
        with self.mutex:
            super().__setitem__(key, value)
            self.move_to_end(key)
            while self.limit and len(self) > self.limit:
                super().__delitem__(next(iter(self)))

    def incr(self, key: K, delta: int = 1) -> int:
        """Add to a number that is kept as text; returns the sum."""
        with self.mutex:
            total = int(self[key]) + delta  # type: ignore[call-overload]
            self[key] = str(total)  # type: ignore[assignment]
            return int(total)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.limit,), None, None, iter(list(self.items()))


def is_list(
    obj: object, scalars: tuple[type, ...] = (Mapping, str), iters: tuple[type, ...] = (Iterable,)
) -> bool:
    """Return whether something is iterable and neither a text nor a mapping."""
    return isinstance(obj, iters) and not isinstance(obj, scalars or ())


def maybe_list(obj: Any, scalars: tuple[type, ...] = (Mapping, str)) -> Any:
    """Return a list of one thing; what is a list already, and None, as it is."""
    return obj if obj is None or is_list(obj, scalars) else [obj]


def dictfilter(d: Mapping[str, Any] | None = None, **keywords: Any) -> dict[str, Any]:
    """Return a dict without the keys whose value is None."""
    given = {**(d or {}), **keywords}
    return {key: value for key, value in given.items() if value is not None}


class lazy:  # noqa: N801 - Celery's name
    """A call that is made when it is asked for, each time."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._fun, self._args, self._kwargs = fun, args, kwargs

    def __call__(self) -> Any:
        return self.evaluate()

    def evaluate(self) -> Any:
        """Make the call."""
        return self._fun(*self._args, **self._kwargs)

    def __str__(self) -> str:
        return str(self())

    def __repr__(self) -> str:
        return repr(self())

    def __eq__(self, other: object) -> bool:
        return bool(self() == other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self._fun, *self._args, **self._kwargs), ()


class mlazy(lazy):  # noqa: N801 - Celery's name
    """A call that is made once, when it is first asked for."""

    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        """Make the call, unless it was."""
        if not self.evaluated:
            self._value = super().evaluate()
            self.evaluated = True
        return self._value


def maybe_evaluate(value: Any) -> Any:
    """Return what a lazy call returns; anything else as it is."""
    return value.evaluate() if isinstance(value, lazy) else value


def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing, whatever it is called with."""


def maybe(typ: Callable[[Any], T], val: Any) -> T | None:
    """Return ``typ(val)``; None as it is."""
    return typ(val) if val is not None else None


def first(predicate: Callable[[T], Any] | None, it: Iterable[T]) -> T | None:
    """Return the first item for which ``predicate`` is true (without one: that isn't None), else None."""
    wanted = predicate if predicate is not None else lambda item: item is not None
    return next((item for item in it if wanted(item)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Return a function that calls a method of each item of a list until one returns something."""

    def call(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for item in it:
            found = getattr(maybe_evaluate(item), method)
            answer = on_call(found, *args, **kwargs) if on_call else found(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return call


def chunks(it: Iterator[T], n: int) -> Iterator[list[T]]:
    """Cut an iterator into lists of ``n`` items; the last may be shorter."""
    for item in it:
        yield [item, *itertools.islice(it, n - 1)]


def padlist(container: Sequence[T], size: int, default: T | None = None) -> Iterator[T | None]:
    """Yield ``size`` items: those of a list, then the default."""
    return itertools.islice(itertools.chain(container, itertools.repeat(default)), size)


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """Return a function that gives named attributes of an object as a dict; a missing one is None."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """Yield each item once, in the order of the first."""
    return iter(dict.fromkeys(it))


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Yield pairs of an item and the next; None follows the last."""
    items = iter(it)
    try:
        item = next(items)
    except StopIteration:
        return
    for following in items:
        yield item, following
        item = following
    yield item, None


def regen(it: Iterable[T]) -> Iterable[T]:
    """Return what can be iterated again: a list or tuple as it is, else a list that fills itself."""
    return it if isinstance(it, (list, tuple)) else _Regen(it)


class _Regen(UserList[Any]):
    """A list whose items are taken from an iterator when they are asked for."""

    def __init__(self, it: Iterable[Any]) -> None:
        self._source = iter(it)
        self._taken: list[Any] = []

    @property
    def data(self) -> list[Any]:  # type: ignore[override]
        """All items; takes what is left."""
        self._taken.extend(self._source)
        return self._taken

    @property
    def fully_consumed(self) -> bool:
        """Whether the iterator gave what it has; takes one item to know."""
        return not self._more()

    def _more(self) -> bool:
        for item in self._source:
            self._taken.append(item)
            return True
        return False

    def __iter__(self) -> Iterator[Any]:
        index = 0
        while index < len(self._taken) or self._more():
            yield self._taken[index]
            index += 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and index >= 0:
            while index >= len(self._taken) and self._more():
                pass
            return self._taken[index]
        return self.data[index]

    def __bool__(self) -> bool:
        return bool(self._taken) or self._more()

    def __length_hint__(self) -> int:
        return len(self._taken)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.data,)


def arity_greater(fun: Callable[..., Any], n: int) -> bool:
    """Return whether a function takes more than ``n`` positional arguments."""
    spec = inspect.getfullargspec(fun)
    bound = 1 if inspect.ismethod(fun) else 0
    return spec.varargs is not None or len(spec.args) - bound > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> bool:
    """Return whether a function takes an argument of this name, or so many positional ones."""
    spec = inspect.getfullargspec(fun)
    if spec.varkw or spec.varargs:
        return True
    return name in spec.args if position is None else len(spec.args) >= position


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Return whether a function takes any keyword argument."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(fun).parameters.values())


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., None]:
    """Return a function that raises TypeError where ``fun`` could not be called with the same arguments."""
    signature = inspect.signature(fun)
    if bound:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])

    def head(*args: Any, **kwargs: Any) -> None:
        signature.bind(*args, **kwargs)

    head.__signature__ = signature  # type: ignore[attr-defined]
    return head


def seq_concat_item(seq: Sequence[Any], item: Any) -> Any:
    """Return a list or tuple with one more item."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Sequence[Any], b: Sequence[Any]) -> Any:
    """Return two sequences joined, as a sequence of the longer one's type (the first's, if equally long)."""
    kind = type(b) if len(b) > len(a) else type(a)
    return kind(itertools.chain(a, b))  # type: ignore[call-arg]
