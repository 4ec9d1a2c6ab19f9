"""Imports of Celery become the shim's, and nothing else of a file changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from emq_compat.migration.items import read_items
from emq_compat.migration.rewrite import rewrite

pytestmark = [pytest.mark.unit]

SHIM = "emq_compat.celery_shim"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from celery import Celery", f"from {SHIM} import Celery"),
        ("from celery import Celery as C, chain", f"from {SHIM} import Celery as C, chain"),
        ("from celery import signals", f"from {SHIM} import signals"),
        ("import celery", f"import {SHIM} as celery"),
        ("import celery as c", f"import {SHIM} as c"),
        ("import celery.signals", f"import {SHIM} as celery"),
        ("import celery.signals as s", f"import {SHIM}.signals as s"),
        ("from celery.utils import log", f"from {SHIM}.utils import log"),
        ("from celery.utils.log import get_logger as g", f"from {SHIM}.utils.log import get_logger as g"),
        ("from celery.signals import *", f"from {SHIM}.signals import *"),
        ("from billiard.exceptions import Terminated", f"from {SHIM}.exceptions import Terminated"),
        ("import os, celery  # both", f"import os\nimport {SHIM} as celery  # both"),
        ("x = 1; import celery; y = 2", f"x = 1; import {SHIM} as celery; y = 2"),
        ("if x: from celery import chain", f"if x: from {SHIM} import chain"),
        ("from .celery import app", "from .celery import app"),
        ("from kombu import Queue", "from kombu import Queue"),
        ("import celery_once", "import celery_once"),
        ("# from celery import chain", "# from celery import chain"),
        ("x = 'celery.signals'", "x = 'celery.signals'"),
    ],
)
def test_statements(before: str, after: str) -> None:
    """Each form of import has its counterpart, and a second pass changes nothing."""
    for end in ("\n", "", "\r\n"):
        done = rewrite((before.replace("\n", "\r\n" if end == "\r\n" else "\n") + end).encode())
        assert (after + end).replace("\r\n", "\n") == done.source.decode().replace("\r\n", "\n")
        assert [] == list(done.left)
        assert done.source == rewrite(done.source).source


def test_the_rest_stays_as_it_is() -> None:
    """Comments, brackets, blank lines, odd spaces and encodings stay."""
    before = """#!/usr/bin/env python
# coding: latin-1
'''Ümläut.'''
from __future__ import annotations


from celery import (   # the whole
    Celery,  # the app

    chain,
    # and
    chord  # last
)   # end
try:
\tfrom celery.utils.log  import   get_task_logger as log
except ImportError : pass
x = {  'a' :1 }
"""
    after = before.replace("from celery import (", f"from {SHIM} import (").replace(
        "from celery.utils.log  import", f"from {SHIM}.utils.log  import"
    )
    assert after == rewrite(before.encode("latin-1")).source.decode("latin-1")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("from celery.bogus import thing", "celery.bogus:thing"),
        ("from celery import task", "celery:task"),
        ("import celery\ncelery.bogus.thing()", "celery"),
        ("import celery.bogus", "celery.bogus"),
        ("import celery.bogus as b", "celery.bogus"),
        ("from celery.bogus import *", "celery.bogus:*"),
        ("from billiard.einfo import ExceptionInfo", "billiard.einfo:ExceptionInfo"),
    ],
)
def test_what_has_no_place_is_left_and_named(source: str, name: str) -> None:
    """An import that the shim has no place for stays, and is told with its line."""
    done = rewrite(source.encode())
    assert source == done.source.decode()
    assert [(1, name)] == [(one.line, one.name) for one in done.left]


def test_names_are_parted() -> None:
    """Of one statement what is there moves, and what isn't stays."""
    done = rewrite(b"from celery import (\n    Celery,  # mine\n    bogus,  # theirs\n)\n")
    assert (
        f"from {SHIM} import (\n    Celery,  # mine\n)\nfrom celery import (\n    bogus,  # theirs\n)\n"
        == done.source.decode()
    )


def test_every_supported_name_is_the_same_object(tmp_path: Path) -> None:
    """What is written for each supported import of the list imports the object that the alias has."""
    here = [row for row in read_items() if row.area == "import" and row.status != "absent"]
    rows = [row.item.partition(":") for row in here]
    lines = [
        (f"from {module} import {name} as n{number}" if name else f"import {module} as n{number}")
        for number, (module, _, name) in enumerate(rows)
        if module.partition(".")[0] == "celery"
    ]
    source = "\n".join(lines)
    done = rewrite(source.encode())
    assert [] == list(done.left)
    (tmp_path / "before.py").write_text(source)
    (tmp_path / "after.py").write_text(done.source.decode())
    code = (
        "import after, sys\n"
        "assert not [name for name in sys.modules if name == 'celery' or name.startswith('celery.')]\n"
        "from emq_compat import celery_shim\ncelery_shim.install(force=True)\nimport before\n"
        "from types import ModuleType\n"
        "names = [name for name in vars(before) if name[:1] == 'n' and name[1:].isdigit()]\n"
        "odd = [name for name in names if getattr(before, name) is not getattr(after, name)\n"
        "       and not isinstance(getattr(before, name), ModuleType)]\n"
        "assert not odd, odd\nprint(len(names))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert "" == ran.stderr
    assert len(lines) == int(ran.stdout)


def test_what_can_not_be_parsed() -> None:
    """A file that is no Python 3 is a ValueError that says so."""
    with pytest.raises(ValueError, match="can't be parsed"):
        rewrite(b"import celery\nprint 'two'\n")
