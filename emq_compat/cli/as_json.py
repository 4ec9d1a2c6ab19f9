"""``--json``: what a command lists, for programs; one option for all commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["json_option", "one_line", "tell"]

F = TypeVar("F", bound=Callable[..., Any])


def json_option(what: str = "Print it as one JSON object.") -> Callable[[F], F]:
    """Add ``-j`` and ``--json``, which Celery's commands have, too; it comes as ``as_json``."""
    return click.option("-j", "--json", "as_json", is_flag=True, help=what)


def tell(document: object, *, default: Callable[[Any], Any] | None = None) -> None:
    """Print a document in one line, as ``one_line`` makes it."""
    click.echo(one_line(document, default=default))


def one_line(document: object, *, default: Callable[[Any], Any] | None = None) -> str:
    """Return a document as JSON in one line; characters that standard output can't write are escaped.

    Args:
        document: what ``json`` can write.
        default: makes something of what it can't.
    """
    text = json.dumps(document, ensure_ascii=False, default=default)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):  # half a surrogate pair, or a terminal of another time
        text = json.dumps(document, default=default)
    return text
