"""Subcommands of other packages: entry points in Celery's group ``celery.commands``, such as flower's."""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

import click

from emq_compat.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["plugin_command", "plugin_names"]

_GROUP = "celery.commands"


@functools.cache
def _found() -> Mapping[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - heavy, and not for commands of our own

    return {point.name: point for point in entry_points(group=_GROUP)}


def plugin_names(but: Container[str]) -> dict[str, str]:
    """Return the names of the subcommands that packages add, each with its package, without importing any."""
    return {
        name: point.dist.name if point.dist is not None else point.value
        for name, point in sorted(_found().items())
        if name not in but
    }


def plugin_command(name: str) -> click.Command | None:
    """Return a package's subcommand; None: there is none of this name.

    Raises:
        ConfigurationError: it can't be imported, or is no click command.
    """
    point = _found().get(name)
    if point is None:
        return None
    try:
        command = point.load()
    except Exception as exc:
        raise ConfigurationError(
            f"the command {name} ({point.value}) can't be imported: {type(exc).__name__}: {exc}"
        ) from exc
    if not isinstance(command, click.Command):
        raise ConfigurationError(f"the command {name} ({point.value}) is no click command")
    return command
