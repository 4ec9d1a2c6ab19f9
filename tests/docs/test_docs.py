"""The documents say what is there."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from emq_compat.broker import asks
from emq_compat.cli.main import COMMANDS, cli
from emq_compat.manager import control
from emq_compat.manager.settings import EventmqSettings
from emq_compat.shim.settings_effect import DIFFERENT, WITHOUT_EFFECT
from emq_compat.shim.settings_table import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])

pytestmark = [pytest.mark.unit]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link names a file that is there, and its anchor a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_can_be_copied(document: Path) -> None:
    """Each block of Python is some, and what it imports of emq-compat is there."""
    for block in re.findall(r"^```python\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL):
        tree = ast.parse(block)
        wanted = [
            (node.module, name.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emq_compat")
            for name in node.names
        ]
        missing = [(module, name) for module, name in wanted if not hasattr(import_module(module), name)]
        assert [] == missing


def test_settings_are_all_listed_once() -> None:
    """docs/settings.md has each of Celery's settings once, and each of eventmq's that a job manager reads."""
    text = (ROOT / "docs/settings.md").read_text()
    celery, _, eventmq = text.partition("## eventmq's settings")
    celery = celery[celery.index("## Celery's settings") : celery.index("## Options of")]
    listed = re.findall(r"(?:^\| |\* |, |  )`([a-z_0-9]+)`", celery, re.MULTILINE)
    assert sorted(SETTINGS) == sorted(listed)
    missing = [name for name in EventmqSettings.__dataclass_fields__ if f"`{name}`" not in eventmq]
    assert ["super_debug"] == missing


def test_settings_have_the_effect_that_is_said() -> None:
    """docs/settings.md tells of each of Celery's settings what it does: the same, another, or nothing."""
    text = (ROOT / "docs/settings.md").read_text()
    text = text[text.index("## Celery's settings that") : text.index("## Options of")]
    with_effect, _, without = text.partition("## Celery's settings without effect")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| (.*?) ?\|$", with_effect, re.MULTILINE))
    mark = "**different:** "
    assert DIFFERENT == {name: note.removeprefix(mark) for name, note in rows.items() if mark in note}
    assert sorted(set(SETTINGS) - set(WITHOUT_EFFECT)) == sorted(rows)
    bullet = r"^- \*(.+?):\* (.+?)$(?=\n- |\n\n)"
    said = {
        name: reason
        for reason, names in re.findall(bullet, without, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert {n: r.lower() for n, r in WITHOUT_EFFECT.items()} == {
        n: " ".join(r.split()).lower() for n, r in said.items()
    }


def test_options_are_all_listed() -> None:
    """docs/settings.md has every option of broker, worker, beat and job manager."""
    text = (ROOT / "docs/settings.md").read_text()
    for name in ("broker", "worker", "beat", "jobmanager"):
        command = cli.get_command(
            cli.make_context("emq-compat", [name, "--help"], resilient_parsing=True), name
        )
        assert command is not None
        section = text.partition(f"\n## Options of the {name.replace('jobmanager', 'job manager')}\n")[2]
        section = section.partition("\n## ")[0]
        shown = [option for option in command.params if not getattr(option, "hidden", False)]
        names = [option for parameter in shown for option in parameter.opts if option.startswith("--")]
        assert [] == [option for option in names if f"`{option}" not in section]


def test_the_command_line_is_documented() -> None:
    """docs/cli.md has every command, and every option of those whose options aren't in docs/settings.md."""
    text = (ROOT / "docs/cli.md").read_text()
    context = click.Context(cli)
    missing = [name for name in COMMANDS if not re.search(rf"\b{name}\b", text)]
    commands = [cli, *(cli.get_command(context, name) for name in COMMANDS)]
    while commands:
        command = commands.pop()
        assert command is not None
        if command.name in ("broker", "worker", "beat", "jobmanager"):
            continue
        if isinstance(command, click.Group) and command is not cli:
            commands += [command.get_command(context, name) for name in command.list_commands(context)]
        shown = [option for option in command.params if not getattr(option, "hidden", False)]
        names = [word for option in shown for word in option.opts if word.startswith("--")]
        missing += [
            f"{command.name} {word}" for word in names if f"`{word}" not in text and f", {word}" not in text
        ]
    assert [] == missing


def test_readme_names_every_command() -> None:
    """The README's table has each subcommand, and the README stays below two screens."""
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("## Commands") : readme.index("## More")]
    assert [] == [name for name in COMMANDS if not re.search(rf"\b{name}\b", table)]
    assert len(readme.splitlines()) <= 80


def test_the_index_leads_to_everything() -> None:
    """docs/index.md has each document that the README links to, and each that there is."""
    text = (ROOT / "docs/index.md").read_text()
    named = re.findall(r"\]\(([^)\s:#]+)", text)
    for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        named += [f"{line}.md" for line in tree.splitlines() if line and not line.startswith(":")]
    found = {file.resolve() for name in named for file in (ROOT / "docs").glob(name)}
    found |= {(ROOT / "docs" / name).resolve() for name in named if name.startswith("..")}
    linked = re.findall(r"\]\(([^)\s:#]+\.md)", (ROOT / "README.md").read_text())
    there = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")]
    wanted = {(ROOT / link).resolve() for link in linked} | {file.resolve() for file in there}
    assert [] == sorted(wanted - found - {ROOT / "docs/index.md"})


def test_protocol_names_every_verb() -> None:
    """docs/protocol.md has the verbs that clients may ask the broker, and it a worker, and no other."""
    text = (ROOT / "docs/protocol.md").read_text()
    of_clients, _, of_workers = text[text.index("### Verbs a client may ask") :].partition(
        "### Verbs a broker"
    )
    rows = re.findall(r"^\| (`.*?) \|", of_clients, re.MULTILINE)
    assert sorted(asks._VERBS) == sorted(verb for row in rows for verb in re.findall(r"`(\w+)`", row))
    assert sorted(control._VERBS) == sorted(re.findall(r"`(\w+)", of_workers))
