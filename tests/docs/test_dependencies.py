"""Whatever is installed from elsewhere has a range, and a reason."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.environments import CELERY, EVENTMQ, EVENTMQ_LIBRARIES

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.unit]


def requirements() -> dict[str, list[Requirement]]:
    """Each list of requirements: of the package, of its extras, of its build, of tests' environments."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lists = {
        "install_requires": setup["options"]["install_requires"].splitlines(),
        **{name: text.splitlines() for name, text in setup["options.extras_require"].items()},
        "build": re.findall(
            r"^requires = \[\"(.+)\"\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE
        ),
        "environments": [*CELERY, EVENTMQ, *EVENTMQ_LIBRARIES],
    }
    return {name: [Requirement(line) for line in lines if line] for name, lines in lists.items()}


def test_each_has_an_upper_bound() -> None:
    """A release that nobody has tried yet is installed by nobody."""
    open_ended = [
        f"{name}: {one}"
        for name, ones in requirements().items()
        for one in ones
        if not any(bound.operator in ("<", "<=", "==", "~=") for bound in one.specifier)
    ]
    assert [] == open_ended


def test_a_package_has_one_range() -> None:
    """What the tests are run with is within the range of the extra that it belongs to."""
    ranges: dict[str, set[str]] = {}
    for name, ones in requirements().items():
        for one in ones if name != "environments" else ():
            ranges.setdefault(one.name, set()).add(str(one.specifier))
    assert {} == {name: found for name, found in ranges.items() if len(found) > 1}


def test_each_has_a_reason() -> None:
    """CONTRIBUTING.md tells of each package, in a table, what it is wanted for and why in that range."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("## Dependencies") : text.index("## House rules")]
    told = {
        name
        for row in re.findall(r"^\| ([\w., -]+) \| .+ \| .+ \|$", table, re.MULTILINE)
        for name in row.split(", ")
    }
    wanted = {one.name for name, ones in requirements().items() if name != "environments" for one in ones}
    assert wanted == told - {"requirement", "---"}
