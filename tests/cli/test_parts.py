"""What other packages make commands of (celery.bin.base)."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from emq_compat.cli import parts
from emq_compat.cli.context import CLIContext
from emq_compat.errors import OperationalError
from emq_compat.shim.surface.command_error import CeleryCommandException

pytestmark = pytest.mark.unit


def test_help_has_groups_of_options() -> None:
    """A command lists its options under their groups; one for the background has Celery's."""

    @click.command(cls=parts.CeleryDaemonCommand)
    @click.option("--port", cls=parts.CeleryOption, help_group="Own", help="The port.")
    def serve(**options: Any) -> None: ...

    told = CliRunner().invoke(serve, ["--help"]).output
    assert "Own:\n  --port TEXT  The port.\n" in told
    assert "Daemonization Options:\n  -f, --logfile TEXT" in told


def test_defaults_from_the_context_and_the_app() -> None:
    """A default may stand in ctx.obj, and that of a daemon's option in the setting COMMAND_OPTION."""
    seen: dict[str, Any] = {}

    @click.command("serve")
    @click.option("--level", cls=parts.CeleryOption, default_value_from_context="level")
    def serve(level: str, pidfile: str | None) -> None:
        seen.update(level=level, pidfile=pidfile)

    serve.params.append(parts.DaemonOption("--pidfile"))
    app = SimpleNamespace(conf=SimpleNamespace(serve_pidfile="run.pid"))

    class Told(dict[str, Any]):
        app: Any = None

    obj = Told(level="info")
    obj.app = app
    assert 0 == CliRunner().invoke(serve, [], obj=obj).exit_code
    assert {"level": "info", "pidfile": "run.pid"} == seen


@pytest.mark.parametrize(
    ("kind", "written", "expected"),
    [
        (parts.COMMA_SEPARATED_LIST, "a,b", ["a", "b"]),
        (parts.JSON_ARRAY, "[1]", [1]),
        (parts.JSON_OBJECT, '{"a": 1}', {"a": 1}),
        (parts.ISO8601_OR_FLOAT, "2.5", 2.5),
        (parts.LOG_LEVEL, "info", logging.INFO),
    ],
)
def test_kinds_of_values(kind: Any, written: str, expected: object) -> None:
    """Values are read as Celery's commands read them."""
    assert expected == kind.convert(written, None, None)
    assert 2026 == parts.ISO8601.convert("2026-01-02T03:04:05", None, None).year


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (parts.JSON_ARRAY, "{}"),
        (parts.JSON_OBJECT, "{"),
        (parts.ISO8601_OR_FLOAT, "soon"),
        (parts.LOG_LEVEL, "loud"),
    ],
)
def test_values_of_a_wrong_kind(kind: Any, written: str) -> None:
    """What can't be read is a usage error."""
    with pytest.raises(click.BadParameter):
        kind.convert(written, None, None)


def test_errors_of_remote_control() -> None:
    """Whatever went wrong in asking workers ends a command with 69, but for click's own errors."""
    for exc, told in ((OperationalError("no broker"), "no broker"), (KeyError("x"), "Unable to run `ping`")):
        with pytest.raises(CeleryCommandException, match=told) as raised:
            parts.handle_remote_command_error("ping", exc)
        assert 69 == raised.value.exit_code
    with pytest.raises(click.UsageError):
        parts.handle_remote_command_error("ping", click.UsageError("wrong"))


def test_answers_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The context prints answers as Celery's: in colours, or not; with an arrow, unless it is quiet."""
    plain, colours = CLIContext(None, no_color=True, quiet=True), CLIContext(None)
    assert ("OK", "    pong") == plain.pretty({"ok": "pong"})
    assert ("ERROR", "    * 1\n    * 2") == plain.pretty({"error": [1, 2]})
    assert ("OK", '{\n    "a": 1\n}') == plain.pretty({"a": 1})
    assert ("OK", "- empty -") == plain.pretty([])
    assert ("OK", "None") == plain.pretty(None)
    assert "\x1b[32m" in colours.OK
    plain.say_chat("<-", "asked")
    plain.say_chat("->", "node: OK", "body", show_body=True)
    plain.secho("said", fg="red")
    plain.error("wrong", fg="red")
    told = capsys.readouterr()
    assert (" node: OK\nbody\nsaid\n", "wrong\n") == (told.out, told.err)
