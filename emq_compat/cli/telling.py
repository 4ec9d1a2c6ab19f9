"""What went wrong, as the one line that a command ends with."""

from __future__ import annotations

import errno
import socket
import sys
from typing import Final

from emq_compat.errors import EmqError, OperationalError
from emq_compat.shim.exceptions import ImproperlyConfigured

__all__ = ["line_of"]

_START_ONE: Final = "; is one running? `emq-compat broker` starts one"
#: What the libraries of other brokers and stores raise where nobody answers: module, class. They are looked
#: for among the modules that are there, as importing one of them takes long.
_OF_LIBRARIES: Final = (
    ("kombu.exceptions", "OperationalError"),
    ("amqp.exceptions", "AMQPError"),
    ("redis.exceptions", "RedisError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
)


def line_of(exc: BaseException, where: str = "") -> str | None:
    """Return what is to be told; None: it is an error of this program, whose traceback is wanted.

    Args:
        exc: what a command raised.
        where: the address of the broker that it talks to, without its password.
    """
    if isinstance(exc, OperationalError) and exc.refused_here:
        return f"{exc}{_START_ONE}"
    if isinstance(exc, (EmqError, ImproperlyConfigured)):
        return str(exc)
    if _is_of_a_connection(exc):
        return f"{where or 'the broker'} can't be reached: {str(exc) or type(exc).__name__}"
    return None


def _is_of_a_connection(exc: BaseException) -> bool:
    if isinstance(exc, (ConnectionError, socket.gaierror)):
        return not isinstance(exc, BrokenPipeError)  # that is standard output's, which click looks after
    if isinstance(exc, OSError) and exc.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH):
        return True
    kinds = (getattr(sys.modules.get(module), name, None) for module, name in _OF_LIBRARIES)
    return any(isinstance(kind, type) and isinstance(exc, kind) for kind in kinds)
