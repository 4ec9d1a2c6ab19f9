"""``celery.exceptions.CeleryCommandException``: apart from the others, since it needs click."""

from __future__ import annotations

import click

__all__ = ["CeleryCommandException"]


class CeleryCommandException(click.ClickException):
    """A command of a project's own ends with this message and exit status."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message=message)
        self.exit_code = exit_code  # type: ignore[misc] # click has it of the class
