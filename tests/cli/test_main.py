"""The command itself: its subcommands, its errors, how quickly it is there."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from emq_compat.celery_shim import Celery
from emq_compat.cli import plugins
from emq_compat.cli.context import CLIContext
from emq_compat.cli.main import COMMANDS, cli
from emq_compat.cli.user_options import with_user_options
from emq_compat.shim.current import given_app
from emq_compat.shim.signals import user_preload_options

COMMAND = Path(sys.executable).with_name("emq-compat")

pytestmark = pytest.mark.integration


def emq(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run([COMMAND, *argv], cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_where_the_table_says(name: str) -> None:
    """A subcommand is the click command of its module that has its name."""
    command = getattr(importlib.import_module(f"emq_compat.cli.{name}"), name)
    assert isinstance(command, click.Command)
    assert (command.help or "").strip()


def test_help_lists_the_commands_without_importing_them() -> None:
    """The list is there without a heavy library."""
    code = (
        "import sys\nfrom emq_compat.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as exc:\n    assert not exc.code\n"
        "heavy = {'zmq', 'kombu', 'celery', 'asyncio', 'multiprocessing', 'sqlite3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 0 == done.returncode, done.stderr
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("wroker",), "no command 'wroker'; is worker meant?"),
        (("queues",), "no command 'queues'; is status meant?"),
        (("--nonsense",), "No such option"),
        (("worker",), "worker needs the app: -A proj"),
        (("beat",), "beat needs the app: -A proj"),
        (("worker", "-A", "proj", "-l", "loud"), "'loud' is none of debug, info"),
        (("worker", "-A", "proj", "-c", "some"), "'some' is not a valid integer"),
        (("jobmanager", "-c", "0"), "0 is not in the range"),
    ],
)
def test_a_wrong_call_is_a_usage_error(argv: tuple[str, ...], message: str) -> None:
    """What was called wrongly is told in one message, with exit status 2."""
    done = emq(*argv)
    assert 2 == done.returncode
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    """--version tells name and number."""
    assert emq("--version").stdout.startswith("emq-compat 0.")


def test_python_m(tmp_path: Path) -> None:
    """``python -m emq_compat`` is the same command."""
    argv = [sys.executable, "-m", "emq_compat", "wroker"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert 2 == done.returncode
    assert "emq-compat" in done.stderr


GLOBAL = ("APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment, in which nothing of Celery's is set, and is put back after the test."""
    for name in GLOBAL:
        monkeypatch.setenv(f"CELERY_{name}", "")
        monkeypatch.delenv(f"CELERY_{name}")
    monkeypatch.setenv("NO_COLOR", "")
    return dict(os.environ)


@pytest.mark.unit
def test_global_options_are_in_the_environment(environment: dict[str, str], tmp_path: Path) -> None:
    """What stands before the command is told to apps, and to processes started here, by the environment."""
    seen: dict[str, str | None] = {}

    @cli.command("look", hidden=True)
    @click.pass_obj
    def look(obj: CLIContext) -> None:
        seen.update({name: os.environ.get(f"CELERY_{name}") for name in GLOBAL[1:]})
        seen["quiet"], seen["color"] = str(obj.quiet), obj.style("red", fg="red")

    here = os.getcwd()
    monkey = pytest.MonkeyPatch()
    try:
        monkey.setattr("emq_compat.cli.main.plugin_command", {"look": look}.get)
        monkey.setattr("emq_compat.cli.main.plugin_names", lambda but: {"look": "here"})
        options = (
            "-b", "emq://there", "--result-backend", "cache+memory://", "--loader", "proj:Loader", "--config",
            "proj.conf", "--skip-checks", "-q", "-C", "--workdir", str(tmp_path),
        )  # fmt: skip
        result = CliRunner().invoke(cli, [*options, "look"])
    finally:
        monkey.undo()
        os.chdir(here)
        del cli.commands["look"]
    assert 0 == result.exit_code, result.output
    assert [
        "emq://there", "cache+memory://", "proj:Loader", "proj.conf", "true", "True", "red",
    ] == list(seen.values())  # fmt: skip


@pytest.mark.unit
def test_options_come_from_the_environment(environment: dict[str, str]) -> None:
    """CELERY_APP is -A, CELERY_WORKER_CONCURRENCY the worker's -c; CELERY_VERSION, of images, is none."""
    given = {"CELERY_APP": "no.such.module", "CELERY_VERSION": "5.7.0", "CELERY_MULTI_X": "1"}
    result = CliRunner().invoke(cli, ["worker"], env=given)
    assert "no module 'no.such.module'" in result.stderr
    refused = CliRunner().invoke(cli, ["-A", "x", "worker"], env={"CELERY_WORKER_CONCURRENCY": "many"})
    assert "'many' is not" in refused.stderr


@pytest.mark.unit
def test_without_a_command_help_is_shown() -> None:
    """As with Celery, calling it with nothing shows the help and is no error."""
    result = CliRunner().invoke(cli, [])
    assert 0 == result.exit_code
    assert "Commands:" in result.stdout


class _Point:
    """An entry point, as importlib.metadata has it."""

    name, value, dist = "bloom", "bloom.command:bloom", None

    def __init__(self, found: object) -> None:
        self._found = found

    def load(self) -> object:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


@pytest.mark.unit
def test_commands_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point in the group celery.commands is a command, whose ctx.obj has the app."""
    app = Celery("bloom", set_as_current=False)

    @click.command()
    @click.option("--port", type=int)
    @click.pass_context
    def bloom(ctx: click.Context, port: int) -> None:
        """Bloom."""
        ctx.obj.echo(f"{ctx.obj.app.main} {port} {ctx.obj.OK}")

    monkeypatch.setattr(plugins, "_found", lambda: {"bloom": _Point(bloom)})
    token = given_app.set(app)
    try:
        assert "bloom 5 OK\n" == CliRunner().invoke(cli, ["bloom", "--port", "5"]).stdout
    finally:
        given_app.reset(token)
    assert "Commands of other packages:\n  bloom" in CliRunner().invoke(cli, ["--help"]).stdout
    assert "is bloom meant?" in CliRunner().invoke(cli, ["blom"]).stderr
    for found, why in ((ImportError("no rose"), "ImportError: no rose"), (3, "is no click command")):
        monkeypatch.setattr(plugins, "_found", lambda found=found: {"bloom": _Point(found)})
        assert why in str(CliRunner().invoke(cli, ["bloom"]).exception)


@pytest.mark.unit
def test_options_that_an_app_adds(
    write: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """user_options are options of their command; preload ones of every command, told by a signal first."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write(
        "optional.py",
        "from click import Option\nfrom emq_compat.celery_shim import Celery\n"
        "app = Celery('optional')\n"
        "app.user_options['plain'].add(Option(('--own',)))\n"
        "app.user_options['preload'].add(Option(('-Z', '--template'), default='none'))\n",
    )
    told: list[object] = []
    ran: list[object] = []

    @click.command()
    @click.option("-A", "--app")
    def plain(app: str, own: str | None = None) -> None:
        ran.append((app, own))

    @user_preload_options.connect
    def receive(
        sender: object = None, app: Celery | None = None, options: object = None, **_: object
    ) -> None:
        assert app is not None
        told.append((app.main, options))

    words = ["-A", "optional", "--own", "1", "--template", "t"]
    try:
        command = with_user_options(plain, "plain", None, words)
        assert 0 == CliRunner().invoke(command, words).exit_code
        assert 2 == CliRunner().invoke(plain, words).exit_code
        other = with_user_options(plain, "other", "optional", [])
        assert ["app", "template"] == [option.name for option in other.params]
    finally:
        user_preload_options.disconnect(receive)
        sys.modules.pop("optional", None)
    assert [("optional", {"template": "t"})] == told
    assert [("optional", "1")] == ran
    assert with_user_options(plain, "plain", "no.such.module", []) is plain
