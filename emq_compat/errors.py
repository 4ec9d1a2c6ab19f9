"""Every exception that emq-compat raises itself.

The class docstring is the default message. Mistakes of a peer, mistakes of the caller and
conditions of the world are told apart by their base class.
"""

from __future__ import annotations

__all__ = [
    "AddressError",
    "BrokerRefused",
    "ConfigurationError",
    "DuplicateTask",
    "EmqError",
    "JournalDamaged",
    "JournalError",
    "JournalUnwritable",
    "LocalProtocolError",
    "MessageError",
    "NotAllowed",
    "NotConfirmed",
    "NotDeclared",
    "NotEquivalent",
    "NotPermitted",
    "NotPublished",
    "NotResolved",
    "OperationalError",
    "ProtocolError",
    "QueueFull",
    "RemoteProtocolError",
]


class EmqError(Exception):
    """An error of emq-compat."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message if message is not None else (type(self).__doc__ or "").splitlines()[0])


class ConfigurationError(EmqError):
    """A setting, option or address is wrong."""


class AddressError(ConfigurationError):
    """A broker address can't be used."""


class ProtocolError(EmqError):
    """A message breaks eMQP/1.0."""


class RemoteProtocolError(ProtocolError):
    """The peer sent a message that breaks eMQP/1.0.

    ``command`` and ``msgid`` name the message as far as they could be read, so that its sender can be told.
    """

    def __init__(self, message: str | None = None, *, command: str = "", msgid: str = "") -> None:
        super().__init__(message)
        self.command = command
        self.msgid = msgid


class LocalProtocolError(ProtocolError):
    """This side tried to send a message that breaks eMQP/1.0."""


class MessageError(EmqError):
    """A job's payload or headers can't be understood."""


class NotDeclared(EmqError):
    """There is no such exchange or queue."""


class NotEquivalent(EmqError):
    """An exchange is declared anew as another one."""


class NotAllowed(EmqError):
    """The path is neither a registered task nor allowed."""


class NotResolved(EmqError):
    """The path names nothing that can be called."""


class OperationalError(EmqError):
    """The broker can't be reached, or does not answer in time.

    ``refused_here``: each of its addresses is this machine's alone, and nobody listens there.
    """

    refused_here = False


class NotConfirmed(OperationalError):
    """The broker did not confirm a message: it may have it, so that it must not be sent again."""


class BrokerRefused(OperationalError):
    """The broker refused the request.

    ``kind``: the type of its error, where no exception here is of it; else empty.
    """

    kind = ""


class JournalUnwritable(BrokerRefused):
    """The broker answers and changes nothing until its journal can be written again."""


class QueueFull(BrokerRefused):
    """The queue holds as many messages as its limit allows."""


class NotPermitted(BrokerRefused):
    """The key of this connection doesn't open that."""


class DuplicateTask(BrokerRefused):
    """Another message holds the unique key of this one.

    ``first`` is the task id of the one that is there (a msgid where it has none).
    """

    def __init__(self, message: str | None = None, *, first: str = "") -> None:
        super().__init__(message)
        self.first = first


class NotPublished(OperationalError):
    """Some messages of a bulk publish were not confirmed.

    ``msgids`` lists those that were not; every other one of the call is on the broker's disk.
    """

    def __init__(self, message: str | None = None, *, msgids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.msgids = msgids


class JournalError(EmqError):
    """The broker's journal can't be opened or written."""


class JournalDamaged(JournalError):
    """The broker's journal is damaged, or a part of it is missing."""
