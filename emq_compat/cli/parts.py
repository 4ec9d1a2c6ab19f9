"""``celery.bin.base``: what packages make commands of, that they add to Celery's or to ours."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import click

from emq_compat.cli.context import CLIContext
from emq_compat.errors import OperationalError
from emq_compat.shim.surface.command_error import CeleryCommandException
from emq_compat.shim.surface.text import str_to_list
from emq_compat.shim.surface.times import maybe_iso8601

if TYPE_CHECKING:
    TextType = click.ParamType[Any]
else:
    TextType = click.ParamType

__all__ = [
    "COMMA_SEPARATED_LIST",
    "ISO8601",
    "ISO8601_OR_FLOAT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LOG_LEVEL",
    "CLIContext",
    "CeleryCommand",
    "CeleryDaemonCommand",
    "CeleryOption",
    "CommaSeparatedList",
    "DaemonOption",
    "ISO8601DateTime",
    "ISO8601DateTimeOrFloat",
    "JsonArray",
    "JsonObject",
    "LogLevel",
    "handle_preload_options",
    "handle_remote_command_error",
]

#: What a command ends with when no broker answered.
_UNAVAILABLE = 69


class CeleryOption(click.Option):
    """An option that help lists under ``help_group``, and whose default may stand in ``ctx.obj``.

    Args:
        help_group: the heading.
        default_value_from_context: a key of ``ctx.obj`` under which the default is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.help_group: str | None = kwargs.pop("help_group", None)
        self.default_value_from_context: str | None = kwargs.pop("default_value_from_context", None)
        super().__init__(*args, **kwargs)

    def get_default(self, ctx: click.Context, *args: Any, **kwargs: Any) -> Any:
        """Return the default."""
        if self.default_value_from_context:
            self.default = ctx.obj[self.default_value_from_context]
        return super().get_default(ctx, *args, **kwargs)


class CeleryCommand(click.Command):
    """A command whose help lists the options under their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(option, "help_group", None) or "Options", []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class DaemonOption(CeleryOption):
    """An option of programs in the background; the app's setting ``COMMAND_OPTION`` is its default."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("help_group", "Daemonization Options")
        kwargs.setdefault("callback", self.daemon_setting)
        super().__init__(args, **kwargs)

    def daemon_setting(self, ctx: click.Context, opt: click.Parameter, value: Any) -> Any:
        """Return what was given, else the setting."""
        return value or getattr(ctx.obj.app.conf, f"{ctx.command.name}_{self.name}", None)


class CeleryDaemonCommand(CeleryCommand):
    """A command that has the options of programs in the background."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.extend(
            (
                DaemonOption("--logfile", "-f", help="Log here. [default: stderr]"),
                DaemonOption("--pidfile", help="Keep the pid here."),
                DaemonOption("--uid", help="Run as this user."),
                DaemonOption("--gid", help="Run as this group."),
                DaemonOption("--umask", help="Make files under this umask."),
                DaemonOption("--executable", help="Run under this Python."),
            )
        )


class CommaSeparatedList(TextType):
    """Texts joined by commas, as a list."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the list."""
        return str_to_list(value)


class _Json(TextType):
    kind: type
    noun: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return what the JSON text says."""
        if isinstance(value, self.kind):
            return value
        try:
            found = json.loads(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"{value} is no JSON {self.noun}", param, ctx)
        return found


class JsonArray(_Json):
    """A JSON array."""

    name, noun, kind = "json array", "array", list


class JsonObject(_Json):
    """A JSON object."""

    name, noun, kind = "json object", "object", dict


class ISO8601DateTime(TextType):
    """A time in ISO 8601."""

    name = "iso-8601"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | None:
        """Return the time."""
        try:
            return maybe_iso8601(value)
        except (TypeError, ValueError) as exc:
            self.fail(str(exc), param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A time in ISO 8601, or a number."""

    name = "iso-8601 or float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the time, or the number."""
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(TextType):
    """A level's name, as logging's number."""

    name = "level"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        number = logging.getLevelName(str(value).upper())
        if not isinstance(number, int):
            self.fail(f"{value!r} is none of debug, info, warning, error, critical, fatal", param, ctx)
        return number


JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
COMMA_SEPARATED_LIST = CommaSeparatedList()


def handle_preload_options(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function: preload options are told of for every command (cli/user_options.py)."""
    return f


def handle_remote_command_error(command: str, exc: Exception) -> NoReturn:
    """Raise, of what a command of remote control raised, an error that ends it with status 69.

    Raises:
        click.ClickException: ``exc``, if it is one.
        CeleryCommandException: otherwise.
    """
    if isinstance(exc, click.ClickException):
        raise exc
    told = str(exc) if isinstance(exc, OperationalError) else f"Unable to run `{command}`: {exc}"
    raise CeleryCommandException(told, _UNAVAILABLE) from exc
