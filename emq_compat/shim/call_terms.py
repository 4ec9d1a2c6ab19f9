"""Unique tasks, concurrency keys, shared paces: from a task's options and a call's to a message's headers.

The options are ours, not Celery's (docs/own_features.md). Keys are made here, where the arguments are known;
the broker keeps to them over all workers.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from string import Formatter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from emq_compat.shim.attributes import TERMS
from emq_compat.shim.checks import interval_of
from emq_compat.shim.codec import dumps
from emq_compat.shim.exceptions import ImproperlyConfigured
from emq_compat.terms import (
    DONE,
    ELAPSED,
    FAIL,
    FOLLOW,
    JOIN,
    NOTHING_SHARED,
    REFUSE,
    STARTED,
    Once,
    Share,
    Shares,
)

if TYPE_CHECKING:
    from emq_compat.shim.task import Task

__all__ = ["OPTIONS", "CallTerms", "call_terms", "shares_of"]

OPTIONS: Final = frozenset(TERMS)

#: Percent-encoded bytes of a key that is shown as it is; a digest stands for a longer one.
_SHOWN: Final = 240
_UNTIL: Final = (DONE, STARTED, ELAPSED)
_OF_A_KEY: Final = (("concurrency_limit", "concurrency_key"), ("global_rate_limit", "rate_limit_key"))
_KEYS: Final = ("unique_key", "concurrency_key", "rate_limit_key")
_ON_DUPLICATE: Final = (JOIN, REFUSE)


class CallTerms:
    """The terms of one call, or of all calls of a task; ``headers`` makes them into a message's."""

    __slots__ = ("_given", "_own", "_run", "_signature", "_task")

    def __init__(
        self, task: str, run: Callable[..., Any] | None, own: Mapping[str, Any], given: Mapping[str, Any]
    ) -> None:
        """``own`` are the task's options, ``given`` those of the call; ``run`` is the body, if it is known.

        Raises:
            ValueError, TypeError: an option is wrong; the message names it.
        """
        self._task = task
        self._run = run
        self._signature: inspect.Signature | None = None
        self._own = own
        self._given = given
        get = self._get
        _one_of("unique_until", get("unique_until"), _UNTIL)
        _one_of("on_duplicate", get("on_duplicate"), _ON_DUPLICATE)
        seconds = _seconds(get("unique_for"))
        if get("unique_until") == ELAPSED and not seconds:
            raise ValueError("unique_until='elapsed' needs unique_for, a number of seconds")
        _limit(get("concurrency_limit"))
        _rate(get("global_rate_limit"))
        for option in _KEYS:
            _names(option, get(option))
        for number, key in _OF_A_KEY:
            if given.get(number) is not None and get(key) is None:
                raise ValueError(f"{number} of a single call needs {key}: without it the task says it")

    def _get(self, name: str) -> Any:
        value = self._given.get(name)
        return self._own.get(name) if value is None else value

    def check_names(self, bound: bool) -> None:
        """Refuse keys of arguments that the body doesn't have, unless it takes any (``**kwargs``).

        Args:
            bound: the body's first argument is the task.

        Raises:
            ValueError: a key names such an argument.
        """
        wanted = [(option, name) for option in _KEYS for name in _names(option, self._get(option))]
        if not wanted or self._run is None:
            return
        parameters = list(inspect.signature(self._run).parameters.values())[bound:]
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
            return
        known = [one.name for one in parameters]
        for option, name in wanted:
            if name not in known:
                has = f"which the task doesn't have; it has: {', '.join(known) or 'none'}"
                raise ValueError(f"{option} names the argument {name!r}, {has}")

    def with_call(self, given: Mapping[str, Any]) -> CallTerms:
        """Return the terms of a call of this task with these options."""
        terms = CallTerms(self._task, self._run, self._own, given)
        terms._signature = self._signature
        return terms

    def headers(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], *, awaits: bool, known: bool, part: bool
    ) -> dict[str, str]:
        """Return the headers once, slots and pace of a call; not those that it has no terms for.

        Args:
            awaits: values come in front of the arguments that nobody knows yet.
            known: others know this message's id already (it is a step of a workflow, or collected): it can't
                be replaced by the first one's.
            part: it is part of a group or a chord, where a refusal would stop half of it.

        Raises:
            ValueError: a key can't be made of these arguments.
        """
        get = self._get
        if self._signature is None and self._run is not None:
            self._signature = inspect.signature(self._run)
        call = _Call(self._task, self._signature, (None, *args) if awaits else args, kwargs)
        found: dict[str, str] = {}
        key = get("unique_key")
        # Of a body that takes a chord's values all arguments aren't known: only what it names can be its key.
        if (get("unique_for") is not None or key is not None) and not (awaits and key is None):
            text = call.key("unique_key", key)
            joins = (get("on_duplicate") or JOIN) == JOIN
            if text is not None:
                found["once"] = Once(
                    key=self._short(text) or f"{self._task}({text})",
                    seconds=_seconds(get("unique_for")),
                    until=get("unique_until") or DONE,
                    mode=(FOLLOW if known else JOIN) if joins else (FAIL if part else REFUSE),
                ).encode()
        for header, name, number in (
            ("slots", "concurrency_key", _limit(self._given.get("concurrency_limit"))),
            ("pace", "rate_limit_key", _rate(self._given.get("global_rate_limit"))),
        ):
            if (key := get(name)) is not None and (text := call.key(name, key)) is not None:
                found[header] = Share(key=self._short(text) or text, number=number).encode()
        return found

    def _short(self, text: str) -> str | None:
        """Return what stands for a long key; None: it is shown as it is."""
        if len(quote(text, safe="")) <= _SHOWN:
            return None
        digest = blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return f"{self._task}#{digest}"


def call_terms(
    task: Task[..., Any] | None, name: str, given: Mapping[str, Any] | None = None
) -> CallTerms | None:
    """Return the terms of a task, or of a call by its name alone; None: there are none.

    Raises:
        ImproperlyConfigured: an option of the task is wrong; the message names both.
    """
    own = {} if task is None else {term: value for term in TERMS if (value := _raw(task, term)) is not None}
    given = {} if given is None else {term: given[term] for term in TERMS if given.get(term) is not None}
    if not own and not given:
        return None
    run = None if task is None else task.run
    if given:
        return CallTerms(name, run, own, given)
    try:
        return CallTerms(name, run, own, {})
    except (TypeError, ValueError) as exc:
        raise ImproperlyConfigured(f"task {name}: {exc}") from None


def shares_of(task: Task[..., Any]) -> Shares:
    """Return what a task's messages share over all workers; raises ImproperlyConfigured as ``call_terms``."""
    terms = call_terms(task, task.name)
    if terms is None:
        return NOTHING_SHARED
    get = terms._get
    by_key, rate_by_key = get("concurrency_key") is not None, get("rate_limit_key") is not None
    slots = int(_limit(get("concurrency_limit")) or (1 if by_key else 0))
    pace_s = _rate(get("global_rate_limit")) or 0.0
    return Shares(slots, by_key and bool(slots), pace_s, rate_by_key and bool(pace_s))


class _Call:
    """A call's arguments by the names of the body's parameters, worked out once."""

    def __init__(
        self, task: str, signature: inspect.Signature | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        self._task, self._signature, self._args, self._kwargs = task, signature, args, kwargs
        self._named: dict[str, Any] | None = None

    def key(self, option: str, key: Any) -> str | None:
        """Return the key that an option makes of the arguments; None: the project's function says none."""
        text = self._key(option, key)
        if text == "":
            raise ValueError(f"{option} of {self._task} is empty for this call")
        return text

    def _key(self, option: str, key: Any) -> str | None:
        try:
            if isinstance(key, str):
                return key.format_map(self._arguments()) if "{" in key else key
            if callable(key):
                value = key(*self._args, **self._kwargs)
                return None if value is None else _text(value)
            if key is None:
                return _text(self._arguments())
            return ",".join(f"{name}={_text(self._arguments()[name])}" for name in key)
        except KeyError as exc:
            names = ", ".join(self._arguments()) or "none"
            raise ValueError(
                f"{option} of {self._task} names the argument {exc.args[0]!r}, which this call doesn't have; "
                f"it has: {names}"
            ) from None
        except (TypeError, ValueError, AttributeError, LookupError) as exc:
            raise ValueError(f"{option} of {self._task} can't be made of these arguments: {exc}") from exc

    def _arguments(self) -> dict[str, Any]:
        if self._named is None:
            named: dict[str, Any] = {}
            if self._signature is None:
                named = {**{str(place): value for place, value in enumerate(self._args)}, **self._kwargs}
            else:
                bound = self._signature.bind(*self._args, **self._kwargs)
                bound.apply_defaults()
                for name, value in bound.arguments.items():
                    if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                        named.update(value)
                    else:
                        named[name] = value
            self._named = named
        return self._named


def _text(value: Any) -> str:
    """Return a value as a key: text as it is, else its JSON with sorted names."""
    if isinstance(value, str):
        return value
    return json.dumps(json.loads(dumps(value)), sort_keys=True, separators=(",", ":"))


def _raw(task: Task[..., Any], name: str) -> Any:
    """Return an option as it was given: a function of a class would come as a method of the task."""
    value = inspect.getattr_static(task, name, None)
    if isinstance(value, staticmethod):
        return value.__func__
    if inspect.isfunction(value) and next(iter(inspect.signature(value).parameters), "") == "self":
        return getattr(task, name)
    return value


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")


def _names(option: str, key: Any) -> list[str]:
    """Return the arguments that a key names; raises ValueError where it is none of the three kinds of key."""
    if key is None or callable(key):
        return []
    if isinstance(key, (list, tuple)) and key and all(isinstance(name, str) for name in key):
        return list(key)  # a set has another order in each process
    if not isinstance(key, str) or not key:
        kinds = "a text with names of arguments in braces, a tuple of names, or a function"
        raise ValueError(f"{option} must be {kinds}, not {key!r}")
    if "{" not in key:
        return []
    try:
        fields = [field for _, field, _, _ in Formatter().parse(key) if field is not None]
    except ValueError as exc:
        raise ValueError(f"{option} is {key!r}, whose braces don't hold names of arguments: {exc}") from None
    names = [re.split(r"[.\[]", field)[0] for field in fields]
    if any(not name or name.isdigit() for name in names):
        raise ValueError(f"{option} is {key!r}: braces hold the names of arguments, not their places")
    return names


def _seconds(value: Any) -> float:
    """Return ``unique_for`` as a header has it: 0 where there is no end."""
    if value is None or value == math.inf:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e9:
        raise ValueError(f"unique_for must be a number of seconds above 0, or math.inf, not {value!r}")
    return float(value)


def _limit(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1_000_000:
        raise ValueError(f"concurrency_limit must be a whole number above 0, not {value!r}")
    return value


def _rate(value: Any) -> float | None:
    try:
        return interval_of(value)
    except ValueError as exc:
        raise ValueError(str(exc).replace("rate_limit", "global_rate_limit", 1)) from None
