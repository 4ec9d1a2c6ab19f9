"""The documents say what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emq_compat.broker import asks
from emq_compat.cli.main import COMMANDS, cli
from emq_compat.manager import control
from emq_compat.manager.settings import EventmqSettings
from emq_compat.shim.settings_table import NOT_YET, SETTINGS

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


def test_settings_are_all_listed_once() -> None:
    """docs/settings.md has each of Celery's settings once, and each of eventmq's that a job manager reads."""
    text = (ROOT / "docs/settings.md").read_text()
    celery, _, eventmq = text.partition("## eventmq's settings")
    celery = celery[celery.index("## Celery's settings") : celery.index("## Options of")]
    listed = re.findall(r"(?:^\| |\* |, |  )`([a-z_0-9]+)`", celery, re.MULTILINE)
    assert sorted(SETTINGS) == sorted(listed)
    missing = [name for name in EventmqSettings.__dataclass_fields__ if f"`{name}`" not in eventmq]
    assert ["super_debug"] == missing


def test_settings_that_do_nothing_are_not_said_to_do_something() -> None:
    """What a worker warns of has no row of its own in docs/settings.md, or one that says how it differs."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    said = {name: note for name, note in rows if name in NOT_YET}
    assert [] == [name for name, note in said.items() if not note.startswith("**different:**")]


def test_options_are_all_listed() -> None:
    """docs/settings.md has every option of broker, worker and job manager."""
    text = (ROOT / "docs/settings.md").read_text()
    for name in ("broker", "worker", "jobmanager"):
        command = cli.get_command(
            cli.make_context("emq-compat", [name, "--help"], resilient_parsing=True), name
        )
        assert command is not None
        section = text.partition(f"\n## Options of the {name.replace('jobmanager', 'job manager')}\n")[2]
        section = section.partition("\n## ")[0]
        shown = [option for option in command.params if not getattr(option, "hidden", False)]
        names = [option for parameter in shown for option in parameter.opts if option.startswith("--")]
        assert [] == [option for option in names if f"`{option}" not in section]


def test_readme_names_every_command() -> None:
    """The README's table has each subcommand, and the README stays below two screens."""
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("## Commands") : readme.index("## More")]
    assert [] == [name for name in COMMANDS if not re.search(rf"\b{name}\b", table)]
    assert len(readme.splitlines()) <= 80


def test_protocol_names_every_verb() -> None:
    """docs/protocol.md has the verbs that clients may ask the broker, and it a worker, and no other."""
    text = (ROOT / "docs/protocol.md").read_text()
    of_clients, _, of_workers = text[text.index("### Verbs a client may ask") :].partition(
        "### Verbs a broker"
    )
    rows = re.findall(r"^\| (`.*?) \|", of_clients, re.MULTILINE)
    assert sorted(asks._VERBS) == sorted(verb for row in rows for verb in re.findall(r"`(\w+)`", row))
    assert sorted(control._VERBS) == sorted(re.findall(r"`(\w+)", of_workers))
