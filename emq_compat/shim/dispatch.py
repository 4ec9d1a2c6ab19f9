"""Signal: something happened, and whoever connected a function to it is called."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ["Signal"]

Receiver = Callable[..., Any]

#: Pauses, in seconds, between the tries of a receiver connected with ``retry=True``: the first, what each
#: adds, and the longest.
_RETRY_FIRST_S = 2.0
_RETRY_STEP_S = 2.0
_RETRY_MAX_S = 30.0


class Signal:
    """A named event (Celery's Signal).

    Sending costs one look at ``receivers`` where nobody has connected. A receiver that raises is logged, with
    its name and the signal's, and the others are still called.

    Args:
        providing_args: names of the arguments that it is sent with, for readers only.
        use_caching: has no effect.
        name: for logs.

    Attributes:
        receivers: pairs of a key and a receiver (or a weak reference to it), in the order of connecting. The
            list is replaced, never changed, so that sending needs no lock.
    """

    def __init__(
        self, providing_args: Iterable[str] | None = None, use_caching: bool = False, name: str | None = None
    ) -> None:
        self.providing_args = frozenset(providing_args or ())
        self.use_caching = use_caching
        self.name = name
        self.receivers: list[tuple[tuple[Hashable, Hashable], Any]] = []
        self._lock = threading.Lock()

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Have a function called when the signal is sent: ``@signal.connect``, or ``signal.connect(fun)``.

        Args:
            receiver: takes keyword arguments; among them are ``signal`` and ``sender``.
            sender: call it only where this object (of strings: an equal one) sends; None: always.
            weak: keep only a weak reference: a receiver that nobody else holds is forgotten. The default.
            dispatch_uid: of receivers connected with the same one (and sender) the first counts.
            retry: call it again, with growing pauses, until it doesn't raise; it is never held weakly.

        Returns the receiver; without one a decorator.

        Raises:
            TypeError: the receiver isn't callable.
            ValueError: it doesn't take ``**kwargs``.
        """
        if args and callable(args[0]):
            return self._connect(*args, **kwargs)
        return lambda receiver: self._connect(receiver, *args, **kwargs)

    def _connect(
        self,
        receiver: Receiver,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Hashable = None,
        retry: bool = False,
    ) -> Receiver:
        if not callable(receiver):
            raise TypeError(f"a receiver must be callable, {receiver!r} isn't")
        if not _takes_keywords(receiver):
            raise ValueError(f"the receiver {_name_of(receiver)} must accept keyword arguments (**kwargs)")
        key = _key_of(receiver, sender, dispatch_uid)
        held: Any = receiver
        if retry:
            held = _Tried(receiver)
        elif weak:
            bound = isinstance(receiver, MethodType)
            held = weakref.WeakMethod(receiver) if bound else weakref.ref(receiver)
        with self._lock:
            living = [entry for entry in self.receivers if _living(entry[1]) is not None]
            if key not in (known for known, _ in living):
                living.append((key, held))
            self.receivers = living
        return receiver

    def disconnect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Hashable = None,
    ) -> bool:
        """Undo ``connect`` with this receiver (or dispatch_uid) and sender; returns whether there was one."""
        if weak is not None:
            warnings.warn("disconnect's argument weak has no effect", DeprecationWarning, stacklevel=2)
        key = _key_of(receiver, sender, dispatch_uid)
        with self._lock:
            living = [entry for entry in self.receivers if _living(entry[1]) is not None]
            kept = [entry for entry in living if entry[0] != key]
            self.receivers = kept
        return len(kept) < len(living)

    def has_listeners(self, sender: Any = None) -> bool:
        """Return whether a receiver would be called if ``sender`` sent the signal."""
        return bool(self.receivers) and bool(self._receivers_for(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call the receivers of this sender, and of any, with ``signal``, ``sender`` and ``named``.

        Returns a list of pairs (receiver, what it returned); for one that raised, the exception.
        """
        if not self.receivers:
            return []
        answers: list[tuple[Receiver, Any]] = []
        for receiver in self._receivers_for(sender):
            try:
                answer = receiver(signal=self, sender=sender, **named)
            except Exception as exc:  # noqa: BLE001 - the edge around user code; logged
                name = _name_of(receiver)
                _logger().exception("receiver %s of the signal %s raised: %r", name, self.name, exc)
                answer = exc
            answers.append((receiver, answer))
        return answers

    send_robust = send

    def _receivers_for(self, sender: Any) -> list[Receiver]:
        found = []
        wanted = (None, _identity(sender))
        for (_, sender_key), held in self.receivers:
            if sender_key in wanted:
                receiver = _living(held)
                if receiver is not None:
                    found.append(receiver)
        return found

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={sorted(self.providing_args)}>"


class _Tried:
    """A receiver that is called until it doesn't raise."""

    def __init__(self, receiver: Receiver) -> None:
        self.__wrapped__ = receiver

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                return self.__wrapped__(*args, **kwargs)
            except Exception as exc:  # noqa: BLE001 - around user code; logged
                name, signal = _name_of(self.__wrapped__), getattr(kwargs.get("signal"), "name", None)
                _logger().error(
                    "receiver %s of the signal %s raised %r; again in %gs", name, signal, exc, pause_s
                )
            time.sleep(pause_s)
            pause_s = min(pause_s + _RETRY_STEP_S, _RETRY_MAX_S)


def _living(held: Any) -> Receiver | None:
    """Return the receiver that an entry holds; None: it is gone."""
    return held() if isinstance(held, weakref.ref) else held


def _key_of(receiver: Receiver | None, sender: Any, dispatch_uid: Hashable) -> tuple[Hashable, Hashable]:
    if dispatch_uid is not None:
        return dispatch_uid, _identity(sender)
    if isinstance(receiver, MethodType):
        return (id(receiver.__self__), id(receiver.__func__)), _identity(sender)
    return id(receiver), _identity(sender)


def _identity(sender: Any) -> Hashable:
    """Return what a sender is known by: None itself, a text as it is, of a proxy what it stands for."""
    if sender is None or isinstance(sender, (str, bytes)):
        return sender
    stands_for = getattr(type(sender), "_get_current_object", None)
    return id(sender if stands_for is None else stands_for(sender))


def _takes_keywords(receiver: Receiver) -> bool:
    import inspect  # noqa: PLC0415 - a heavy one, and many programs connect nothing

    try:
        parameters = inspect.signature(receiver).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _logger() -> logging.Logger:
    """Return the logger of receivers that raise."""
    import logging  # noqa: PLC0415 - as above

    return logging.getLogger("celery.utils.dispatch.signal")


def _name_of(receiver: Receiver) -> str:
    if isinstance(receiver, _Tried):
        receiver = receiver.__wrapped__
    module, name = getattr(receiver, "__module__", None), getattr(receiver, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(receiver)
